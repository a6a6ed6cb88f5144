"""Opaque tunnels: the first TLS message is read for its server name, everything after it passes unread."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine, Generator, Iterator

from sandbox.egress.audit import Record
from sandbox.egress.channel import Channel, SocketChannel
from sandbox.egress.limits import MAX_CLIENT_HELLO_BYTES, TUNNEL_BYTES
from sandbox.egress.rules import RefusedError

_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME, _HOST_NAME = 22, 1, 0, 0
_SPARE_BUFFERS = 16
"""As many tunnels as move data at the same moment on a busy host; more are made and dropped as needed."""


class HelloError(ValueError):
    """The bytes are not a TLS ClientHello."""


async def read_hello(channel: SocketChannel, received: bytes) -> tuple[bytes, str | None]:
    """Read until the ClientHello is whole; returns what was read and the server name, None if it has none.

    Raises `HelloError` as soon as the bytes cannot be one.
    """
    data = received
    while True:
        hello = _whole_hello(data)
        if hello is not None:
            return data, _server_name(hello)
        more = await channel.receive()
        if not more:
            raise HelloError("the connection ended before a ClientHello")
        data += more


def _whole_hello(data: bytes) -> bytes | None:
    """Put the handshake message together from its records; None while it is not whole."""
    message, at = b"", 0
    while True:
        if (data[at : at + 1] and data[at] != _HANDSHAKE) or data[at + 1 : at + 2] not in {b"", b"\x03"}:
            raise HelloError("not a TLS handshake")
        if len(data) < at + 5:
            return None
        length = int.from_bytes(data[at + 3 : at + 5])
        message += data[at + 5 : at + 5 + length]
        if (message[:1] and message[0] != _CLIENT_HELLO) or at > MAX_CLIENT_HELLO_BYTES or length == 0:
            raise HelloError("not a ClientHello")
        if len(message) >= 4:
            wanted = 4 + int.from_bytes(message[1:4])
            if wanted > MAX_CLIENT_HELLO_BYTES:
                raise HelloError("the ClientHello is too large")
            if len(message) >= wanted:
                return message[4:wanted]
        if len(data) < at + 5 + length:
            return None
        at += 5 + length


def _server_name(hello: bytes) -> str | None:
    names = [body for kind, body in _extensions(hello) if kind == _SERVER_NAME]
    if not names:
        return None
    reader = _Reader(names[0])
    entries = _Reader(reader.vector(2))
    if len(names) > 1 or reader.left or entries.number(1) != _HOST_NAME:
        raise HelloError("the server name is malformed")
    name = entries.vector(2)
    if entries.left or not name.isascii():
        raise HelloError("the server name is malformed")
    return name.decode()


def _extensions(hello: bytes) -> Iterator[tuple[int, bytes]]:
    reader = _Reader(hello)
    reader.take(2 + 32)
    for size in (1, 2, 1):  # session id, cipher suites, compression
        reader.vector(size)
    if not reader.left:
        return
    extensions = _Reader(reader.vector(2))
    while extensions.left:
        yield extensions.number(2), extensions.vector(2)


class _Reader:
    def __init__(self, data: bytes):
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise HelloError("the ClientHello is cut short")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int) -> bytes:
        return self.take(self.number(size))


def check_server_name(name: str | None, host: str) -> None:
    """Raise `RefusedError` unless the server name is the host that was asked for."""
    if name is None:
        raise RefusedError("server_name_missing", f"The TLS connection to host {host} does not name it (SNI).")
    if name.lower().removesuffix(".") != host:
        raise RefusedError("server_name_mismatch", f"The TLS connection names another host than {host} (SNI).")


async def carry(client: SocketChannel, upstream: SocketChannel, *, record: Record, buffers: "Buffers") -> None:
    """Pass bytes both ways, unread, until both sides have ended."""

    def up(size: int) -> None:
        record.bytes_up += size

    def down(size: int) -> None:
        record.bytes_down += size

    await both(_carry_one_way(client, upstream, buffers, up), _carry_one_way(upstream, client, buffers, down))


async def relay(source: Channel, sink: Channel, pass_on: Callable[[bytes], bytes]) -> None:
    """Pass bytes one way through a function until the source ends."""
    while data := await source.receive():
        await sink.send(pass_on(data))
    await sink.send(pass_on(b""))
    await sink.end()


async def both(*ways: Coroutine[None, None, None]) -> None:
    """Run two directions until both have ended, or one has failed."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _carry_one_way(
    source: SocketChannel, sink: SocketChannel, buffers: "Buffers", count: Callable[[int], None]
) -> None:
    size = 1
    while size:
        await source.readable()
        with buffers.borrowed() as buffer:
            while (size := _fill(source, buffer)) > 0:
                count(size)
                await _drain(buffer[:size], sink)
    with contextlib.suppress(OSError):
        sink.socket.shutdown(socket.SHUT_WR)


def _fill(source: SocketChannel, buffer: memoryview) -> int:
    """Return how much came, 0 at the end, -1 if there is nothing now."""
    try:
        return source.socket.recv_into(buffer)
    except BlockingIOError:
        return -1


async def _drain(view: memoryview, sink: SocketChannel) -> None:
    while view:
        try:
            view = view[sink.socket.send(view) :]
        except BlockingIOError:
            await sink.writable()
        sink.touched = True
    await asyncio.sleep(0)


class Buffers:
    """Memory for data that is on its way, used again while it is still cached; an idle tunnel holds none.

    Copying through it is faster than splicing within the kernel, where as much lies between the two sockets as a
    pipe holds, and has left the cache when it is read.
    """

    def __init__(self) -> None:
        self._spare: list[memoryview] = []

    @contextlib.contextmanager
    def borrowed(self) -> Generator[memoryview]:
        """Lend a buffer; what was in it is not cleared, only overwritten."""
        buffer = self._spare.pop() if self._spare else memoryview(bytearray(TUNNEL_BYTES))
        try:
            yield buffer
        finally:
            if len(self._spare) < _SPARE_BUFFERS:
                self._spare.append(buffer)
