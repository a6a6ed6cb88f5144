"""HTTP/1.1 with one peer: h11 decides what a message is; what it would overlook is refused before.

Heads that are sent are put together here, from parts that h11 has read: names and values without line ends.
"""

import re
from collections.abc import AsyncGenerator, Iterable

import h11

from sandbox.egress.channel import Channel
from sandbox.egress.limits import MAX_HEAD_BYTES, MAX_HEADERS
from sandbox.egress.rules import RefusedError
from sandbox.egress.stubs import Headers

# h11 takes bare line feeds and folded headers, which others read differently. A carriage return may still get its LF.
_UNCLEAN = re.compile(rb"(?<!\r)\n|\r[^\n]|\r\n[ \t]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_END = b"\r\n\r\n"
_HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"proxy-authenticate", b"te",
        b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings",
    }
)  # fmt: skip
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_UNFINISHED = (h11.SEND_BODY, h11.ERROR)
_BODILESS = frozenset({204, 304})


class Head:
    """The first part of a message, its headers easy to find."""

    def __init__(self, message: h11.Request | h11.Response | h11.InformationalResponse):
        self.version: bytes = message.http_version
        self.headers: Headers = [(bytes(name), bytes(value)) for name, value in message.headers.raw_items()]
        self._named: dict[bytes, list[bytes]] = {}
        for name, value in self.headers:
            self._named.setdefault(name.lower(), []).append(value)

    def values(self, name: bytes) -> list[bytes]:
        """Return a header's values; ``name`` in lower case."""
        return self._named.get(name, [])

    def tokens(self, name: bytes) -> set[bytes]:
        """Return the parts of a header that is a list, in lower case."""
        return {part.strip().lower() for value in self.values(name) for part in value.split(b",")}

    def end_to_end(self) -> Headers:
        """Return the headers without those that concern one connection only."""
        dropped = _HOP_BY_HOP | self.tokens(b"connection")
        return [(name, value) for name, value in self.headers if name.lower() not in dropped]


class RequestHead(Head):
    """The first part of a request that has been found to be exactly one."""

    def __init__(self, request: h11.Request):
        super().__init__(request)
        self.method: bytes = request.method
        self.target: bytes = request.target

    @property
    def is_chunked(self) -> bool:
        """Whether its body comes in chunks."""
        return bool(self.values(b"transfer-encoding"))

    @property
    def has_body(self) -> bool:
        """Whether it announces a body."""
        lengths = self.values(b"content-length")
        return self.is_chunked or bool(lengths and int(lengths[0]))

    @property
    def asks_for_websocket(self) -> bool:
        """Whether it wants to become a WebSocket."""
        return self.tokens(b"upgrade") == {b"websocket"} and b"upgrade" in self.tokens(b"connection")


class ClientSide:
    """The requests of one client connection, one after another."""

    def __init__(self, channel: Channel, received: bytes = b""):
        self.channel = channel
        self.answered = False
        self._http = h11.Connection(h11.SERVER)
        self._request: RequestHead | None = None
        self._rest = received
        self._out: list[bytes] = []
        self._is_chunked = False
        self._is_ended = False
        self._has_body = False
        self._waits_to_send = False

    @property
    def rest(self) -> bytes:
        """What came after the present request and was not asked for."""
        return self._http.trailing_data[0] or self._rest

    @property
    def wants_more(self) -> bool:
        """Whether the present request has a body that has not ended."""
        return self._has_body and self._http.their_state is h11.SEND_BODY

    async def first_byte(self) -> bool:
        """Wait for the next request to begin; False if the client has left."""
        if not self._rest:
            self._rest = await self.channel.receive()
        self.answered = self._is_ended = self._is_chunked = False
        return bool(self._rest)

    async def request(self) -> RequestHead:
        """Return the head of the request that has begun; raises `RefusedError` if it is not exactly one."""
        data = await self._read_head()
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._rest = b""
        try:
            self._http.receive_data(data)
            event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            raise _malformed(error.error_status_hint) from error
        if not isinstance(event, h11.Request):
            raise _malformed(400)
        head = self._request = RequestHead(event)
        _check_framing(head)
        self._has_body = head.has_body
        self._waits_to_send = self._has_body and b"100-continue" in head.tokens(b"expect")
        return head

    async def body(self) -> AsyncGenerator[bytes]:
        """Yield the present request's body; raises `RefusedError` if it breaks its framing or ends too soon."""
        while True:
            try:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    self._http.receive_data(await self.channel.receive())
            except h11.RemoteProtocolError as error:
                raise _malformed(error.error_status_hint) from error
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif event is not h11.NEED_DATA:
                return

    def let_send(self) -> None:
        """Queue the permission to send the body, if the client waits for it."""
        if self._waits_to_send:
            self._waits_to_send = False
            self._out.append(_CONTINUE)

    def switch(self, headers: Headers) -> None:
        """Queue the answer that makes the connection a WebSocket."""
        self.answered = True
        self._out.append(_head(b"HTTP/1.1 101 Switching Protocols", headers))

    def begin(self, status: int, reason: bytes, headers: Headers) -> None:
        """Queue the head of the answer; its body is framed as the request allows."""
        request = self._request
        assert request is not None  # noqa: S101 - an answer has a request
        self.answered = True
        framing: Headers = []
        if status not in _BODILESS and request.method != b"HEAD" and not _has(headers, b"content-length"):
            self._is_chunked = request.version == b"1.1"
            framing = [(b"Transfer-Encoding", b"chunked")] if self._is_chunked else []
        if not self._may_go_on():
            framing.append((b"Connection", b"close"))
        self._out.append(_head(b"HTTP/1.1 %d %b" % (status, reason), [*headers, *framing]))

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
        if self._is_ended and self.wants_more:
            # The body was whole, but whoever passed it on was not told of its end before the answer came.
            self._http.next_event()
        is_unfinished = self._has_body and self._http.their_state in _UNFINISHED
        if is_unfinished or not (self._is_ended and self._may_go_on()):
            return False
        self._rest = self._http.trailing_data[0]
        return True

    def _may_go_on(self) -> bool:
        request = self._request
        return request is not None and request.version == b"1.1" and b"close" not in request.tokens(b"connection")

    async def _read_head(self) -> bytes:
        data, seen = bytearray(self._rest), 0
        while True:
            end = data.find(_END, max(0, seen - 3))
            checked = len(data) if end == -1 else end + len(_END)
            if _UNCLEAN.search(data, max(0, seen - 3), checked):
                raise _malformed(400)
            if checked > MAX_HEAD_BYTES:
                raise RefusedError("head_too_large", "The request's headers are larger than 64 KiB.", status=431)
            if end != -1:
                return bytes(data)
            seen = len(data)
            more = await self.channel.receive()
            if not more:
                raise _malformed(400)
            data += more


class UpstreamSide:
    """One request to an upstream and its answer."""

    def __init__(self, channel: Channel, method: bytes, *, chunked: bool):
        self.channel = channel
        self._is_chunked = chunked
        self._is_whole = False
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        # How an answer is framed depends on the method alone; the real head is written by `send_head`.
        self._http.send(_stand_in(method))

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

    @property
    def rest(self) -> bytes:
        """What came after the answer."""
        return self._http.trailing_data[0]

    def buffered(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Return the next part of the answer as far as it has come; raises `h11.RemoteProtocolError`."""
        return self._http.next_event()

    async def fill(self) -> int:
        """Wait for more of the answer; returns its size on the wire, 0 at the end."""
        data = await self.channel.receive()
        self._http.receive_data(data)
        return len(data)

    @property
    def is_reusable(self) -> bool:
        """Whether request and answer ended cleanly, with nothing behind the answer."""
        return self._is_whole and self._http.their_state is h11.DONE and not self.rest


_STAND_IN_HEADERS = [(b"host", b"-"), (b"upgrade", b"-"), (b"connection", b"upgrade")]
_stand_ins: dict[bytes, h11.Request] = {
    method: h11.Request(method=method, target=b"/", headers=_STAND_IN_HEADERS)
    for method in (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS")
}


def _stand_in(method: bytes) -> h11.Request:
    known = _stand_ins.get(method)
    return known or h11.Request(method=method, target=b"/", headers=_STAND_IN_HEADERS)


def _head(first: bytes, headers: Headers) -> bytes:
    return b"%b\r\n%b\r\n" % (first, b"".join([b"%b: %b\r\n" % each for each in headers]))


def _has(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bool:
    return any(name.lower() == wanted for name, _ in headers)


def _check_framing(head: RequestHead) -> None:
    if head.version not in {b"1.0", b"1.1"}:
        raise RefusedError("malformed_request", "Only HTTP/1.1 is spoken here.", status=505)
    if len(head.headers) > MAX_HEADERS:
        raise RefusedError("too_many_headers", f"The request has more than {MAX_HEADERS} headers.", status=431)
    lengths = len(head.values(b"content-length"))
    if head.is_chunked and (lengths or head.version != b"1.1"):
        raise _malformed(400)
    if len(head.values(b"host")) > 1 or lengths > 1:
        raise _malformed(400)


def _malformed(status: int) -> RefusedError:
    return RefusedError(
        "malformed_request", "The request is not valid HTTP/1.1, so it was not passed on.", status=status
    )
