"""A body is the same however its bytes are split, and nothing that breaks its framing passes for one."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.egress.bodies import Body, ChunkedBody, OpenBody, SizedBody
from sandbox.egress.heads import MessageError
from sandbox.egress.limits import MAX_CHUNK_LINE_BYTES, MAX_TRAILER_BYTES

_chunks = st.lists(
    st.tuples(st.binary(min_size=1, max_size=40), st.sampled_from([b"", b";a", b';a="b c"'])), max_size=6
)
_trailers = st.lists(st.sampled_from([b"A: b\r\n", b"X-Checksum:\t1\r\n"]), max_size=3).map(b"".join)
_sizes = st.lists(st.integers(1, 20), max_size=12)
_pieces = st.lists(
    st.sampled_from(
        [
            b"3\r\nabc\r\n", b"0\r\n\r\n", b"0\r\n", b"\r\n", b"\n", b"\r",
            b"3", b"a", b";", b"x=y", b" ", b"A: b\r\n",
            b"003\r\nabc\r\n", b"f" * 16, b"\x00", b"-", b"0x", b"NEXT", b"A : b\r\n",
            b" b\r\n", b"1\n",
        ]
    ),
    max_size=10,
).map(b"".join)  # fmt: skip


def _fed(body: Body, data: bytes, sizes: list[int]) -> tuple[bytes, bool, bytes]:
    """Feed ``data`` in parts; returns what was body, whether it ended, and what came behind."""
    came, at = b"", 0
    for size in [*sizes, len(data) or 1]:
        if body.is_ended or at >= len(data):
            break
        came += body.feed(data[at : at + size])
        at += size
    return came, body.is_ended, body.rest + data[at:]


def _outcome(data: bytes, sizes: list[int]) -> tuple[bytes, bool, bytes] | str:
    try:
        return _fed(ChunkedBody(), data, sizes)
    except MessageError:
        return "refused"


def _by_h11(data: bytes) -> bytes | None:
    """Return the body as h11 reads it, None if it is refused or has not ended."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    came = b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Data):
                came += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return came
            elif not isinstance(event, h11.Request):
                return None
    except h11.RemoteProtocolError:
        return None


@given(_chunks, _trailers, st.binary(max_size=8), _sizes)
def test_what_was_written_in_chunks_is_read(
    chunks: list[tuple[bytes, bytes]], trailers: bytes, rest: bytes, sizes: list[int]
) -> None:
    written = b"".join(b"%x%b\r\n%b\r\n" % (len(data), extension, data) for data, extension in chunks)
    written += b"0\r\n" + trailers + b"\r\n"
    whole = b"".join(data for data, _ in chunks)
    assert _fed(ChunkedBody(), written + rest, sizes) == (whole, True, rest)
    body = ChunkedBody()
    _fed(body, written[:-1], sizes)
    with pytest.raises(MessageError):
        body.end()


@given(_pieces, _sizes)
def test_chunks_are_the_same_however_they_arrive(data: bytes, sizes: list[int]) -> None:
    assert _outcome(data, sizes) == _outcome(data, []) == _outcome(data, [1] * len(data))


@given(_pieces)
def test_what_h11_takes_for_the_end_too_is_the_same_body(data: bytes) -> None:
    found, other = _outcome(data, []), _by_h11(data)
    if other is not None and found != "refused":
        assert (found[0], found[1]) == (other, True)


@given(st.binary(max_size=30), st.integers(0, 20), _sizes)
def test_a_body_of_a_length_ends_there(data: bytes, length: int, sizes: list[int]) -> None:
    body = SizedBody(length)
    assert _fed(body, data, sizes) == (data[:length], len(data) >= length, data[length:])
    if len(data) < length:
        with pytest.raises(MessageError):
            body.end()


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    body = OpenBody()
    assert _fed(body, b"abcdef", [2]) == (b"abcdef", False, b"")
    body.end()
    assert body.is_ended


@pytest.mark.parametrize(
    "data",
    [
        b"3\r\nabcX", b"3\r\nabc\n", b"3\r\nabc\r0", b"3\nabc", b" 3\r\nabc", b"3 \r\nabc", b"+3\r\nabc", b"0x3\r\n",
        b"3;\x00\r\n", b"3;a\nb\r\n", b"3;a\rb", b"\r\n", b"1" * 16, b"0\r\nA: b\n", b"0\r\n A: b\r\n\r\n",
        b"0\r\nA\r\n\r\n", b"0\r\n: b\r\n\r\n", b"0\r\nA : b\r\n\r\n", b"0\r\n\x00",
        b"3;" + b"a" * MAX_CHUNK_LINE_BYTES, b"0\r\nA: " + b"b" * MAX_TRAILER_BYTES,
    ],
)  # fmt: skip
def test_a_broken_chunk_is_refused_as_soon_as_it_is_one(data: bytes) -> None:
    with pytest.raises(MessageError):
        ChunkedBody().feed(data)
