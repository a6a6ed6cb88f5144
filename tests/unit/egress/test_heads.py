"""A head is read in one way or not at all: as h11 reads it, however it arrives, and never where readers differ."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.egress.heads import AnswerHead, MessageError, RequestHead, head_end, read_fields

_TOKEN_BYTES = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_VALUE_BYTES = bytes([*range(0x20, 0x7F), *range(0x80, 0x100)]) + b"\t"
_tokens = st.lists(st.sampled_from(list(_TOKEN_BYTES)), min_size=1, max_size=8).map(bytes)
_targets = st.lists(st.integers(0x21, 0x7E), min_size=1, max_size=12).map(bytes)
_values = st.lists(st.sampled_from(list(_VALUE_BYTES)), max_size=12).map(bytes)
_headers = st.lists(st.tuples(_tokens.map(lambda name: b"X-" + name), _values), max_size=6)
# Pieces that readers have differed about, so that most of what is put together of them is nearly a request.
_pieces = st.lists(
    st.sampled_from(
        [
            b"GET", b" ", b"/", b"HTTP/1.1", b"HTTP/1.0", b"\r\n", b"\n", b"\r", b"\t", b":", b"a", b"Host: a",
            b"Content-Length: 3", b"Content-Length:3", b"Transfer-Encoding: chunked", b"transfer-encoding:\tx", b",",
            b"\x00", b"\x7f", b"\xff", b"\x0b", b"\r\n\r\n", b"X: y", b"GET / HTTP/1.1\r\nHost: a\r\n", b" X: y",
        ]
    ),
    max_size=12,
).map(b"".join)  # fmt: skip
_nearly = st.one_of(_pieces, _pieces.map(lambda tail: b"GET / HTTP/1.1\r\nHost: a\r\n" + tail + b"\r\n\r\n"))


def _read(data: bytes) -> RequestHead | None:
    """Return the request, None if more is needed; raises `MessageError`."""
    end = head_end(data)
    return RequestHead(data, end) if end else None


def _read_by_h11(data: bytes) -> h11.Request | None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=100_000)
    connection.receive_data(data)
    event = connection.next_event()
    return event if isinstance(event, h11.Request) else None


@given(_tokens, _targets, _headers, st.binary(max_size=8))
def test_what_was_written_is_read(
    method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], rest: bytes
) -> None:
    lines = [b"%b %b HTTP/1.1" % (method, target), b"Host: a", *(b"%b: %b" % each for each in headers)]
    written = b"\r\n".join(lines) + b"\r\n\r\n"
    assert head_end(written + rest) == len(written)
    head = RequestHead(written + rest, len(written))
    assert (head.method, head.target, head.version) == (method, target, b"1.1")
    assert head.headers == [(b"Host", b"a"), *((name, value.strip(b" \t")) for name, value in headers)]
    assert all(head_end(written[:size]) == 0 for size in range(len(written)))


@given(_nearly)
def test_whatever_is_taken_for_a_request_is_the_same_request_to_h11(data: bytes) -> None:
    try:
        head = _read(data)
    except MessageError:
        return
    if head is None:
        return
    other = _read_by_h11(data)
    assert other is not None
    assert (head.method, head.target, head.version) == (other.method, other.target, other.http_version)
    assert [(name.lower(), value) for name, value in head.headers] == [
        tuple(map(bytes, each)) for each in other.headers
    ]
    assert head.is_chunked == ((b"transfer-encoding", b"chunked") in list(other.headers))


@given(_nearly, st.lists(st.integers(1, 30), max_size=8))
def test_it_is_the_same_however_it_arrives(data: bytes, sizes: list[int]) -> None:
    try:
        whole = _read(data)
    except MessageError:
        whole = "refused"
    seen, came = 0, b""
    try:
        for size in [*sizes, len(data)]:
            seen, came = len(came), data[: len(came) + size]
            if end := head_end(came, seen):
                found: RequestHead | str | None = RequestHead(came, end)
                break
        else:
            found = None
    except MessageError:
        found = "refused"
    if isinstance(whole, RequestHead):
        assert isinstance(found, RequestHead)
        assert found.__dict__ == whole.__dict__
    else:
        assert found == whole


@pytest.mark.parametrize(
    "begun",
    [
        b"GET / HTTP/1.1\n",
        b"GET / HTTP/1.1\r\nA: b\rc",
        b"GET / HTTP/1.1\r\n A",
        b"GET\x00",
        b"\x16\x03\x01\x00\xa5\x01",
    ],
)
def test_what_cannot_become_a_head_is_refused_before_its_end(begun: bytes) -> None:
    with pytest.raises(MessageError):
        head_end(begun)


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"Content-Length: 1\r\nContent-Length: 1", 400),
        (b"Content-Length: 1\r\nTransfer-Encoding: chunked", 400),
        (b"Content-Length: 1, 1", 400),
        (b"Content-Length: \xb2", 400),
        (b"Content-Length:", 400),
        (b"Content-Length: " + b"1" * 19, 400),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 501),
        (b"Transfer-Encoding: chunked, chunked", 501),
        (b"Transfer-Encoding: \x0bchunked", 400),
        (b"Transfer-Encoding : chunked", 400),
        (b"Transfer-Encoding: gzip", 501),
    ],
)
def test_two_ways_to_say_the_length_are_none(lines: bytes, status: int) -> None:
    for begun, kind in ((b"POST / HTTP/1.1\r\nHost: a", RequestHead), (b"HTTP/1.1 200 OK", AnswerHead)):
        data = begun + b"\r\n" + lines + b"\r\n\r\n"
        with pytest.raises(MessageError) as caught:
            kind(data, len(data))
        assert caught.value.status == status


@pytest.mark.parametrize(
    ("line", "status", "reason"),
    [
        (b"HTTP/1.1 200 OK", 200, b"OK"),
        (b"HTTP/1.1 200 ", 200, b""),
        (b"HTTP/1.0 404", 404, b""),
        (b"HTTP/1.1 299 caf\xe9 \t au lait", 299, b"caf\xe9 \t au lait"),
    ],
)
def test_an_answer_may_have_a_reason(line: bytes, status: int, reason: bytes) -> None:
    data = line + b"\r\nA: b\r\n\r\n"
    head = AnswerHead(data, len(data))
    assert (head.status, head.reason, head.headers) == (status, reason, [(b"A", b"b")])


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 200 O\x00K\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_an_unclear_answer_is_none(data: bytes) -> None:
    with pytest.raises(MessageError):
        AnswerHead(data, len(data))


def test_a_header_of_nothing_but_spaces_takes_no_time() -> None:
    data = b"A:" + b" " * 60_000 + b"b" + b" " * 60_000 + b"\r\n\r\n"
    assert read_fields(data, 0, len(data)) == [(b"A", b"b")]
