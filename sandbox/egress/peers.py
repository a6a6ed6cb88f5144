"""HTTP/1.1 with one peer: h11 decides what is a message; what it would overlook is refused before."""

import re
from collections.abc import AsyncGenerator

import h11

from sandbox.egress.channel import Channel
from sandbox.egress.limits import MAX_HEAD_BYTES, MAX_HEADERS
from sandbox.egress.rules import RefusedError
from sandbox.egress.stubs import Headers

# h11 takes bare line feeds and folded headers, which others read differently. A carriage return may still get its LF.
_UNCLEAN = re.compile(rb"(?<!\r)\n|\r[^\n]|\r\n[ \t]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_END = b"\r\n\r\n"
Message = h11.Request | h11.Response | h11.InformationalResponse
_HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"proxy-authenticate", b"te",
        b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings",
    }
)  # fmt: skip


class ClientSide:
    """The requests of one client connection, one after another."""

    def __init__(self, channel: Channel, received: bytes = b""):
        self.channel = channel
        self.http = h11.Connection(h11.SERVER)
        self.answered = False
        self._rest = received
        self._out: list[bytes] = []

    @property
    def rest(self) -> bytes:
        """What came after the present request and was not asked for."""
        return self.http.trailing_data[0] or self._rest

    @property
    def wants_more(self) -> bool:
        """Whether the present request has a body that has not ended."""
        return self.http.their_state is h11.SEND_BODY

    async def first_byte(self) -> bool:
        """Wait for the next request to begin; False if the client has left."""
        if not self._rest:
            self._rest = await self.channel.receive()
        return bool(self._rest)

    async def request(self) -> h11.Request:
        """Return the head of the request that has begun; raises `RefusedError` if it is not exactly one."""
        head = await self._read_head()
        self.http, self.answered = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES), False
        self._rest = b""
        try:
            self.http.receive_data(head)
            event = self.http.next_event()
        except h11.RemoteProtocolError as error:
            raise _malformed(error.error_status_hint) from error
        if not isinstance(event, h11.Request):
            raise _malformed(400)
        _check_framing(event)
        if not _has_body(event):
            self.http.next_event()
        return event

    async def body(self) -> AsyncGenerator[bytes]:
        """Yield the present request's body; raises `RefusedError` if it breaks its framing or ends too soon."""
        while True:
            try:
                event = self.http.next_event()
                if event is h11.NEED_DATA:
                    self.http.receive_data(await self.channel.receive())
            except h11.RemoteProtocolError as error:
                raise _malformed(error.error_status_hint) from error
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif event is not h11.NEED_DATA:
                return

    def queue(self, event: h11.Event) -> None:
        """Keep a part of the answer until `flush`."""
        self.answered = self.answered or isinstance(event, h11.Response)
        if data := self.http.send(event):
            self._out.append(data)

    async def flush(self) -> None:
        """Send what is queued."""
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            await self.channel.send(data)

    def finish(self) -> bool:
        """Make ready for the next request; False if there cannot be one on this connection."""
        if self.http.their_state is h11.SEND_BODY and self.http.our_state is h11.DONE:
            # The body was whole, but whoever passed it on was not told of its end before the answer came.
            self.http.next_event()
        if self.http.our_state is not h11.DONE or self.http.their_state is not h11.DONE:
            return False
        self._rest = self.http.trailing_data[0]
        return True

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

    def __init__(self, channel: Channel):
        self.channel = channel
        self.http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)

    async def send(self, *events: h11.Event) -> int:
        """Send parts of the request; returns their size on the wire."""
        data = b"".join(self.http.send(event) or b"" for event in events)
        await self.channel.send(data)
        return len(data)

    def buffered(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Return the next part of the answer as far as it has come; raises `h11.RemoteProtocolError`."""
        return self.http.next_event()

    async def fill(self) -> int:
        """Wait for more of the answer; returns its size on the wire, 0 at the end."""
        data = await self.channel.receive()
        self.http.receive_data(data)
        return len(data)

    @property
    def is_reusable(self) -> bool:
        """Whether request and answer ended cleanly, with nothing behind the answer."""
        ended = self.http.our_state is h11.DONE and self.http.their_state is h11.DONE
        return ended and not self.http.trailing_data[0]


def end_to_end(message: Message) -> Headers:
    """Return a message's headers without those that concern one connection only."""
    named = {
        part.strip().lower() for name, value in message.headers if name == b"connection" for part in value.split(b",")
    }
    dropped = _HOP_BY_HOP | named
    return [(raw, value) for raw, value in message.headers.raw_items() if raw.lower() not in dropped]


def values(message: Message, name: bytes) -> list[bytes]:
    """Return a header's values."""
    return [value for each, value in message.headers if each == name]


def asks_for_websocket(message: Message) -> bool:
    """Tell whether a request wants to become a WebSocket."""
    options = b",".join(values(message, b"connection")).lower()
    return [each.lower() for each in values(message, b"upgrade")] == [b"websocket"] and b"upgrade" in options


def _check_framing(request: h11.Request) -> None:
    if request.http_version not in {b"1.0", b"1.1"}:
        raise RefusedError("malformed_request", "Only HTTP/1.1 is spoken here.", status=505)
    names = [name for name, _ in request.headers]
    if len(names) > MAX_HEADERS:
        raise RefusedError("too_many_headers", f"The request has more than {MAX_HEADERS} headers.", status=431)
    if b"transfer-encoding" in names and (b"content-length" in names or request.http_version != b"1.1"):
        raise _malformed(400)
    if names.count(b"host") > 1 or names.count(b"content-length") > 1:
        raise _malformed(400)


def _has_body(request: h11.Request) -> bool:
    lengths = values(request, b"content-length")
    return bool(values(request, b"transfer-encoding")) or bool(lengths and int(lengths[0]))


def _malformed(status: int) -> RefusedError:
    return RefusedError(
        "malformed_request", "The request is not valid HTTP/1.1, so it was not passed on.", status=status
    )
