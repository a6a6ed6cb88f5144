"""A program's standard streams through the API server, as bytes for a channel, sealed for process 1 alone."""

import asyncio
import contextlib
import os

from aiohttp import ClientWebSocketResponse, WSMsgType

from sandbox.channel import ByteStream
from sandbox.supervisor.frames import CHUNK_BYTES
from sandbox.supervisor.seal import CLAIMED, GREETING_BYTES, NONCE_BYTES, Seal, seals

_STDIN, _STDOUT, _STDERR, _ERROR = b"\0", b"\1", b"\2", b"\3"
GREETING_SECONDS = 10.0
CLOSE_SECONDS = 1.0


class StreamBrokenError(ConnectionError):
    """What carries a channel ended before there was one; the message is what the pod's own side said."""


class ExecStream:
    """Channels of the WebSocket exec protocol: https://kubernetes.io/docs/reference/using-api/api-concepts/."""

    def __init__(self, connection: ClientWebSocketResponse):
        self._connection = connection
        self._closing: asyncio.Task[None] | None = None
        self.said = ""
        """What came on the other channels: why a program could not be started, or why it ended."""

    async def read(self) -> bytes:
        """Return the next bytes of standard output; none at the end."""
        while True:
            arrived = await self._connection.receive()
            if arrived.type is not WSMsgType.BINARY:
                return b""
            channel, content = arrived.data[:1], arrived.data[1:]
            if channel == _STDOUT and content:
                return content
            if channel in {_STDERR, _ERROR}:
                self.said = (self.said + content.decode(errors="replace"))[:1000]
            if channel == _ERROR:
                return b""

    async def write(self, data: bytes) -> None:
        """Send all of it to standard input; raises `ConnectionError`."""
        for start in range(0, len(data), CHUNK_BYTES):
            await self._connection.send_bytes(_STDIN + data[start : start + CHUNK_BYTES])

    def close(self) -> None:
        """End it; the program in the pod reads the end of its standard input."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._end())

    async def _end(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._connection.close(), CLOSE_SECONDS)

    async def closed(self) -> None:
        """Wait until it has ended."""
        self.close()
        if self._closing is not None:
            await asyncio.wait([self._closing])


class SealedStream:
    """The worker's end of a connection whose other end is `sandbox.supervisor.seal.SealedEnd`."""

    def __init__(self, stream: ExecStream, own: Seal, theirs: Seal):
        self._stream, self._own, self._theirs = stream, own, theirs
        self._writing = asyncio.Lock()

    async def read(self) -> bytes:
        """Return the next bytes that process 1 wrote; none at the end. Raises ValueError for what another wrote."""
        while data := await self._stream.read():
            if opened := self._theirs.open(data):
                return opened
        return b""

    async def write(self, data: bytes) -> None:
        """Send all of it, also if the caller is cancelled: half a frame would spoil all others."""
        await asyncio.shield(self._send(data))

    async def _send(self, data: bytes) -> None:
        async with self._writing:
            await self._stream.write(self._own.close(data))

    def close(self) -> None:
        """End it."""
        self._stream.close()


async def sealed(stream: ExecStream, key: bytes, *, may_claim: bool) -> ByteStream:
    """Greet process 1; raises `StreamBrokenError`.

    ``may_claim``: give it the key if it has none yet, which is so before the first command. Later nobody is given it,
    whoever asks.
    """
    greeting = b""
    async with asyncio.timeout(GREETING_SECONDS):
        while len(greeting) < GREETING_BYTES:
            data = await stream.read()
            if not data:
                raise StreamBrokenError(stream.said or "the stream ended")
            greeting += data
    state, theirs, nonce = greeting[:1], greeting[1:GREETING_BYTES], os.urandom(NONCE_BYTES)
    if state != CLAIMED and not may_claim:
        raise StreamBrokenError("process 1 claims to know no key although its sandbox has been proven")
    await stream.write(nonce + (key if state != CLAIMED else b""))
    return SealedStream(stream, *seals(key, theirs + nonce))
