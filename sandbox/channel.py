"""A connection to a sandbox's supervisor: many requests at once, each with its answer."""

import asyncio
from typing import Protocol

from sandbox.supervisor.frames import CHUNK_BYTES, Header, pack, unpack


class ByteStream(Protocol):
    """What carries the frames: a socket, or a container engine's stream."""

    async def read(self) -> bytes:
        """Return the next bytes; none at the end."""
        ...

    async def write(self, data: bytes) -> None:
        """Send all of it."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class SocketStream:
    """Frames as they are, over a Unix socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._reader, self._writer = reader, writer

    async def read(self) -> bytes:
        """Return the next bytes; none at the end."""
        return await self._reader.read(CHUNK_BYTES)

    async def write(self, data: bytes) -> None:
        """Send all of it."""
        self._writer.write(data)
        await self._writer.drain()

    def close(self) -> None:
        """End it."""
        self._writer.close()


class Channel:
    """Numbers requests and hands answers to whom they belong; raises ConnectionError once the stream has ended."""

    def __init__(self, stream: ByteStream):
        self._stream = stream
        self._waiting: dict[int, asyncio.Future[tuple[Header, bytes]]] = {}
        self._number = 0
        self._listener = asyncio.create_task(self._listen())

    @property
    def ended(self) -> bool:
        """Whether no further request can be made."""
        return self._listener.done()

    async def request(self, header: Header, payload: bytes = b"") -> tuple[Header, bytes]:
        """Send an order and return its answer."""
        if self.ended:
            raise ConnectionResetError("the sandbox's connection has ended")
        self._number += 1
        number = self._number
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            await self._stream.write(pack({**header, "id": number}, payload))
            return await future
        except OSError as error:
            raise ConnectionResetError("the sandbox's connection has ended") from error
        finally:
            self._waiting.pop(number, None)
            if not future.cancel() and not future.cancelled():
                future.exception()  # so that nobody misses it: the stream may have ended while it was written to

    async def _listen(self) -> None:
        buffer = bytearray()
        try:
            while data := await self._stream.read():
                buffer += data
                while frame := unpack(buffer):
                    header, payload = frame
                    future = self._waiting.get(header.pop("id"))
                    if future is not None and not future.done():
                        future.set_result((header, payload))
        except (OSError, ValueError, KeyError):
            return
        finally:
            self._stream.close()
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(ConnectionResetError("the sandbox's connection has ended"))

    async def close(self) -> None:
        """End the connection; what runs goes on."""
        self._listener.cancel()
        await asyncio.wait([self._listener])
        self._stream.close()
