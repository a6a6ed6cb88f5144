"""Bytes to and from one peer: a socket as it is, or TLS over it. Nothing is read that nobody waits for."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from contextvars import Context
from typing import Protocol

from sandbox.egress.limits import CHUNK_BYTES

_READS_IN_A_ROW = 16
"""One megabyte; then the others have their turn."""


_ENDED_STATES = frozenset({7, 8})
"""``TCP_CLOSE`` and ``TCP_CLOSE_WAIT`` of the kernel's ``tcp_states.h``: the peer has reset, or closed its side."""


class _Arrival(asyncio.Future[bytes]):
    """What one task waits for. It goes on at once, not a turn of the loop later: the loop itself calls `arrive`."""

    _going_on: Callable[["_Arrival"], object]
    _context: Context | None = None

    def add_done_callback(self, fn: Callable[["_Arrival"], object], /, *, context: Context | None = None) -> None:
        """See `asyncio.Future.add_done_callback`."""
        self._going_on, self._context = fn, context
        super().add_done_callback(fn, context=context)

    def arrive(self, data: bytes) -> None:
        """Have the waiting task go on with what has come, until it waits again."""
        if self.done():
            return
        is_waited_for = self._context is not None and self.remove_done_callback(self._going_on)
        self.set_result(data)
        if is_waited_for and self._context is not None:
            self._context.run(self._going_on, self)


class Channel(Protocol):
    """One peer. ``receive`` returns an empty chunk at the end; both raise `OSError`."""

    async def receive(self) -> bytes:
        """Return what has come, at most one chunk."""
        ...

    async def send(self, data: bytes) -> None:
        """Return when the kernel has taken everything."""
        ...

    async def end(self) -> None:
        """Say that nothing more will be sent."""
        ...

    def is_quiet(self) -> bool:
        """Tell whether an idle connection is still usable: neither ended nor, against the protocol, spoken on."""
        ...


class SocketChannel:
    """A connected stream socket. ``touched`` is set by every byte that moves; a watchdog clears it."""

    def __init__(self, connection: socket.socket):
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connection
        self.touched = True
        self._descriptor = connection.fileno()
        self._loop = asyncio.get_running_loop()
        self._sending = asyncio.Lock()
        self._senders = 0
        self._waiting: _Arrival | None = None
        self._is_watched = False
        self._is_dry = True
        self._in_a_row = 0

    async def receive(self) -> bytes:
        """Return what has come, at most one chunk; one caller at a time."""
        data = None if self._is_dry else self._take()
        if data is None:
            waiting = self._waiting = _Arrival(loop=self._loop)
            if not self._is_watched:
                self._is_watched = True
                self._loop.add_reader(self._descriptor, self._can_be_read)
            try:
                data = await waiting
            finally:
                self._waiting = None
        self.touched = True
        # Less than asked for: trying again at once would only cost a call.
        self._is_dry = len(data) < CHUNK_BYTES
        self._in_a_row = 0 if self._is_dry else self._in_a_row + 1
        if self._in_a_row >= _READS_IN_A_ROW:
            self._in_a_row = 0
            await asyncio.sleep(0)
        return data

    async def send(self, data: bytes) -> None:
        """Return when the kernel has taken everything; of two callers one waits."""
        # Who waits for the lock counts too: between its release and their turn nobody may slip in.
        sent = 0 if self._senders else self._give(data)
        if sent == len(data):
            return
        self._senders += 1
        try:
            async with self._sending:
                await self._send_rest(memoryview(data)[sent:])
        finally:
            self._senders -= 1

    async def end(self) -> None:
        """Say that nothing more will be sent."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Give the socket back; whoever waits for it must have been cancelled."""
        self._unwatch()
        self.socket.close()

    def is_quiet(self) -> bool:
        """Tell whether an idle connection is still usable: neither ended nor, against the protocol, spoken on."""
        return self.waiting() is None

    def waiting(self) -> bytes | None:
        """Take what has come without waiting: None if nothing has, empty at the end."""
        try:
            return self._take()
        except OSError:
            return b""

    @property
    def is_left(self) -> bool:
        """Whether the peer has ended the connection, though there may be something left to read."""
        if self.socket.family == socket.AF_UNIX:
            return False
        return self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in _ENDED_STATES

    async def readable(self) -> None:
        """Wait until something can be read, without reading it."""
        self._unwatch()
        ready = _Arrival(loop=self._loop)
        self._loop.add_reader(self._descriptor, ready.arrive, b"")
        try:
            await ready
        finally:
            self._loop.remove_reader(self._descriptor)

    async def writable(self) -> None:
        """Wait until something can be written."""
        ready = _Arrival(loop=self._loop)
        self._loop.add_writer(self._descriptor, ready.arrive, b"")
        try:
            await ready
        finally:
            self._loop.remove_writer(self._descriptor)

    async def _send_rest(self, view: memoryview) -> None:
        while view := view[self._give(view) :]:
            await self.writable()

    def _give(self, data: bytes | memoryview) -> int:
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            return 0
        self.touched = True
        return sent

    def _can_be_read(self) -> None:
        # Read here, so that the selector need not be told between two reads; only of what nobody waits for.
        waiting = self._waiting
        if waiting is None or waiting.done():
            return self._unwatch()
        try:
            data = self._take()
        except OSError as error:
            waiting.set_exception(error)
        else:
            if data is not None:
                waiting.arrive(data)

    def _take(self) -> bytes | None:
        try:
            return self.socket.recv(CHUNK_BYTES)
        except BlockingIOError:
            return None

    def _unwatch(self) -> None:
        if self._is_watched:
            self._is_watched = False
            self._loop.remove_reader(self._descriptor)


class TlsChannel:
    """TLS over a socket, on either side; ``received`` is what was read from the socket before."""

    def __init__(
        self, below: SocketChannel, context: ssl.SSLContext, *, server_name: str | None = None, received: bytes = b""
    ):
        self._below = below
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._incoming.write(received)
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_name is None, server_hostname=server_name
        )

    @property
    def protocol(self) -> str | None:
        """The protocol that was agreed on (ALPN)."""
        return self._tls.selected_alpn_protocol()

    async def handshake(self) -> None:
        """Agree on keys; raises `ssl.SSLError` or `OSError`."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
                if self._incoming.eof:
                    raise ConnectionResetError("the peer ended the handshake") from None
            except ssl.SSLError:
                await self._flush()
                raise
            else:
                return await self._flush()

    async def receive(self) -> bytes:
        """Return what has come, at most one chunk; an end without a goodbye is an end."""
        while True:
            if not self._is_worth_asking():
                if self._outgoing.pending:
                    await self._flush()
                await self._fill()
            try:
                return self._tls.read(CHUNK_BYTES)
            except ssl.SSLWantReadError:
                if self._incoming.pending:
                    await self._fill()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    def _is_worth_asking(self) -> bool:
        # Asking in vain is an error to OpenSSL, and errors are slow.
        return bool(self._incoming.pending or self._incoming.eof or self._tls.pending())

    async def send(self, data: bytes) -> None:
        """Return when the kernel has taken everything."""
        for start in range(0, len(data), CHUNK_BYTES):
            self._tls.write(data[start : start + CHUNK_BYTES])
            # Taken and sent without a pause between: records must leave in the order in which they were made.
            await self._below.send(self._outgoing.read())

    def is_quiet(self) -> bool:
        """Tell whether an idle connection is still usable; a server's late tickets are no reason against it."""
        came = self._below.waiting()
        if came == b"":
            return False
        if came:
            self._incoming.write(came)
        if not self._is_worth_asking():
            return not self._outgoing.pending
        try:
            self._tls.read(1)
        except ssl.SSLWantReadError:
            return not self._outgoing.pending
        except ssl.SSLError:
            return False
        return False

    async def end(self) -> None:
        """Say goodbye, and that nothing more will be sent."""
        with contextlib.suppress(ssl.SSLError, OSError):
            self._tls.unwrap()
        with contextlib.suppress(OSError):
            await self._flush()
        await self._below.end()

    async def _fill(self) -> None:
        data = await self._below.receive()
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        if data := self._outgoing.read():
            await self._below.send(data)
