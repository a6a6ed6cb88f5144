"""HTTP/1.1 with one peer: what comes is read by `heads.py` and `bodies.py`, what goes is put together here.

Heads that are sent consist of parts that were read as such: names and values without line ends.
"""

from collections.abc import AsyncGenerator

from sandbox.egress.bodies import Body, ChunkedBody, OpenBody, SizedBody
from sandbox.egress.channel import Channel
from sandbox.egress.heads import AnswerHead, Headers, MessageError, RequestHead, head_end
from sandbox.egress.rules import RefusedError

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_BODILESS = frozenset({204, 304})
_NOTHING = SizedBody(0)


class ClientSide:
    """The requests of one client connection, one after another."""

    def __init__(self, channel: Channel, received: bytes = b""):
        self.channel = channel
        self.answered = False
        self.rest = received
        """What came after the present request and was not asked for."""
        self._request: RequestHead | None = None
        self._body: Body = _NOTHING
        self._out: list[bytes] = []
        self._is_chunked = False
        self._is_ended = False
        self._waits_to_send = False

    @property
    def wants_more(self) -> bool:
        """Whether the present request has a body that has not ended."""
        return not self._body.is_ended

    async def first_byte(self) -> bool:
        """Wait for the next request to begin; False if the client has left."""
        if not self.rest:
            self.rest = await self.channel.receive()
        self.answered = self._is_ended = self._is_chunked = False
        return bool(self.rest)

    async def request(self) -> RequestHead:
        """Return the head of the request that has begun; raises `RefusedError` if it is not exactly one."""
        try:
            end = head_end(self.rest) or await self._rest_of_head()
            head = self._request = RequestHead(self.rest, end)
        except MessageError as error:
            raise _malformed(error) from error
        self.rest = self.rest[end:]
        if head.has_body:
            self._body = ChunkedBody() if head.is_chunked else SizedBody(head.length or 0)
            self._waits_to_send = b"100-continue" in head.tokens(b"expect")
        else:
            self._body, self._waits_to_send = _NOTHING, False
        return head

    async def body(self) -> AsyncGenerator[bytes]:
        """Yield the present request's body; raises `RefusedError` if it breaks its framing or ends too soon."""
        body = self._body
        while not body.is_ended:
            data, self.rest = self.rest, b""
            try:
                if not data and not (data := await self.channel.receive()):
                    body.end()
                data = body.feed(data)
            except MessageError as error:
                raise _malformed(error) from error
            # Before the last part is passed on: whoever takes it may not come back for more.
            self.rest = body.rest
            if data:
                yield data

    def let_send(self) -> None:
        """Queue the permission to send the body, if the client waits for it."""
        if self._waits_to_send:
            self._waits_to_send = False
            self._out.append(_CONTINUE)

    def switch(self, headers: Headers) -> None:
        """Queue the answer that makes the connection a WebSocket."""
        self.answered = True
        self._out.append(_head(b"HTTP/1.1 101 Switching Protocols", headers))

    def begin(self, status: int, reason: bytes, headers: Headers, *, length: int | None) -> None:
        """Queue the head of the answer; a body of unknown length is framed as the request allows."""
        request = self._request
        assert request is not None  # noqa: S101 - an answer has a request
        self.answered = True
        framing: Headers = []
        if length is not None:
            framing = [(b"Content-Length", b"%d" % length)]
        elif status not in _BODILESS and request.method != b"HEAD":
            self._is_chunked = request.version == b"1.1"
            framing = [(b"Transfer-Encoding", b"chunked")] if self._is_chunked else []
        if not request.may_be_followed:
            framing.append((b"Connection", b"close"))
        self._out.append(_head(b"HTTP/1.1 %d %b" % (status, reason), headers + framing))

    def add(self, data: bytes) -> None:
        """Queue a part of the answer's body."""
        self._out.append(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)

    def end(self) -> None:
        """Queue the answer's end."""
        self._is_ended = True
        if self._is_chunked:
            self._out.append(b"0\r\n\r\n")

    async def flush(self) -> None:
        """Send what is queued."""
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            await self.channel.send(data)

    def finish(self) -> bool:
        """Make ready for the next request; False if there cannot be one on this connection."""
        request = self._request
        return self._is_ended and self._body.is_ended and request is not None and request.may_be_followed

    async def _rest_of_head(self) -> int:
        end = 0
        while not end:
            seen, more = len(self.rest), await self.channel.receive()
            if not more:
                raise MessageError("its head was cut short")
            self.rest += more
            end = head_end(self.rest, seen)
        return end


class UpstreamSide:
    """One request to an upstream and its answer."""

    def __init__(self, channel: Channel, method: bytes, *, chunked: bool):
        self.channel = channel
        self._method = method
        self._is_chunked = chunked
        self._is_whole = False
        self.rest = b""
        """What has come and is not read yet; after the answer, what came behind it."""
        self._seen = 0
        self._is_over = False
        self._may_be_followed = False
        self._body: Body | None = None

    async def send_head(self, method: bytes, target: bytes, headers: Headers, *, body: bytes, whole: bool) -> int:
        """Send the head, and the body as far as it is there; returns their size on the wire."""
        data = _head(b"%b %b HTTP/1.1" % (method, target), headers) + body
        await self.channel.send(data)
        self._is_whole = whole
        return len(data)

    async def send_body(self, data: bytes, *, last: bool) -> int:
        """Send a part of the body; returns its size on the wire."""
        if self._is_chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if last and self._is_chunked:
            data += b"0\r\n\r\n"
        if data:
            await self.channel.send(data)
        # Not before: what is given up half-way must not be followed by another request.
        self._is_whole = last
        return len(data)

    async def fill(self) -> int:
        """Wait for more of the answer; returns its size on the wire, 0 at the end."""
        data = await self.channel.receive()
        self._is_over = not data
        self.rest = self.rest + data
        return len(data)

    def head(self) -> AnswerHead | None:
        """Return the next head of the answer, None if it has not come yet; raises `MessageError`.

        Some may come before the last one, which is the first that says of no other to follow: from 200, or 101.
        """
        end = head_end(self.rest, self._seen)
        if not end:
            self._seen = len(self.rest)
            if self._is_over:
                raise MessageError("its head was cut short")
            return None
        head = AnswerHead(self.rest, end)
        self.rest, self._seen = self.rest[end:], 0
        if head.status >= 200:
            self._body = self._body_of(head)
            self._may_be_followed = head.may_be_followed
        return head

    def body(self) -> bytes:
        """Return what has come of the answer's body; raises `MessageError` for a broken one."""
        body, came = self._body, self.rest
        if body is None or body.is_ended:
            return b""
        if came:
            data = body.feed(came)
            self.rest = body.rest
            return data
        if self._is_over:
            body.end()
        return b""

    @property
    def is_answered(self) -> bool:
        """Whether the answer has come as a whole."""
        return self._body is not None and self._body.is_ended

    @property
    def is_reusable(self) -> bool:
        """Whether request and answer ended cleanly, with nothing behind the answer."""
        return self._is_whole and self._may_be_followed and self.is_answered and not self.rest

    def _body_of(self, head: AnswerHead) -> Body:
        if self._method == b"HEAD" or head.status in _BODILESS:
            return SizedBody(0)
        if head.is_chunked:
            return ChunkedBody()
        return OpenBody() if head.length is None else SizedBody(head.length)


def _head(first: bytes, headers: Headers) -> bytes:
    return b"%b\r\n%b\r\n" % (first, b"".join([b"%b: %b\r\n" % each for each in headers]))


def _malformed(error: MessageError) -> RefusedError:
    return RefusedError(
        error.reason, f"The request is not valid HTTP/1.1, so it was not passed on: {error}.", status=error.status
    )
