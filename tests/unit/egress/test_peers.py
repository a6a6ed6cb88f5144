"""A connection carries another request only when the last one is known to have left, and come, as a whole."""

import asyncio

import pytest

from sandbox.egress.peers import ClientSide, UpstreamSide

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class _Line:
    """A `Channel` in memory. What is sent stays in the way until ``clear`` is set."""

    def __init__(self, *came: bytes, is_clear: bool = True):
        self.sent = b""
        self.clear = asyncio.Event()
        self._came = list(came)
        if is_clear:
            self.clear.set()

    async def receive(self) -> bytes:
        return self._came.pop(0) if self._came else b""

    async def send(self, data: bytes) -> None:
        await self.clear.wait()
        self.sent += data

    async def end(self) -> None:
        return None

    def is_quiet(self) -> bool:
        return not self._came


async def _answered(upstream: UpstreamSide) -> None:
    await upstream.fill()
    assert upstream.head()
    while not upstream.is_answered:
        assert upstream.body()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("given_up", [False, True])
async def test_an_upload_that_is_given_up_half_way_ends_the_connection(chunked: bool, given_up: bool) -> None:
    line = _Line(_ANSWER)
    upstream = UpstreamSide(line, b"POST", chunked=chunked)
    await upstream.send_head(b"POST", b"/", [], body=b"", whole=False)
    line.clear.clear()
    last = asyncio.create_task(upstream.send_body(b"the last part", last=True))
    await asyncio.sleep(0)
    # The upstream answers early, and does not wait for the body, which it will still read as such.
    await _answered(upstream)
    last.cancel() if given_up else line.clear.set()
    await asyncio.gather(last, return_exceptions=True)
    assert upstream.is_reusable is not given_up


async def test_a_body_that_was_not_sent_ends_the_connection() -> None:
    upstream = UpstreamSide(_Line(_ANSWER), b"POST", chunked=False)
    await upstream.send_head(b"POST", b"/", [(b"Content-Length", b"9")], body=b"", whole=False)
    await upstream.send_body(b"abc", last=False)
    await _answered(upstream)
    assert not upstream.is_reusable


@pytest.mark.parametrize(
    ("answer", "reusable"),
    [
        (_ANSWER, True),
        (_ANSWER.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), False),
        (_ANSWER + b"HTTP/1.1 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", False),
    ],
)
async def test_an_answer_says_whether_another_may_follow(answer: bytes, reusable: bool) -> None:
    upstream = UpstreamSide(_Line(answer), b"GET", chunked=False)
    await upstream.send_head(b"GET", b"/", [], body=b"", whole=True)
    await _answered(upstream)
    assert upstream.is_reusable is reusable


@pytest.mark.parametrize(
    ("request_bytes", "read", "goes_on"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\nNEXT", False, True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nNEXT", False, True),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcNEXT", True, True),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcNEXT", False, False),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\nabcNEXT", False, False),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nNEXT", True, True),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nNEXT", False, False),
        (b"GET / HTTP/1.0\r\nHost: a\r\n\r\nNEXT", False, False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nNEXT", False, False),
    ],
)
async def test_what_was_not_read_of_a_request_is_not_taken_for_another(
    request_bytes: bytes, read: bool, goes_on: bool
) -> None:
    client = ClientSide(_Line(request_bytes))
    assert await client.first_byte()
    await client.request()
    if read:
        assert b"".join([part async for part in client.body()]) == b"abc"
    client.begin(200, b"OK", [], length=0)
    client.end()
    assert client.finish() is goes_on
    if goes_on:
        assert client.rest == b"NEXT"


async def test_a_body_that_broke_its_framing_ends_the_connection() -> None:
    client = ClientSide(_Line(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nNEXT"))
    await client.first_byte()
    await client.request()
    with pytest.raises(Exception, match="malformed_request"):
        [part async for part in client.body()]
    client.begin(200, b"OK", [], length=0)
    client.end()
    assert not client.finish()
