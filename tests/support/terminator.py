"""A TLS terminator in front of a Temporal server, as Temporal Cloud companies have one."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

_HUFFMAN = {
    " ": "010100", "0": "00000", "1": "00001", "2": "00010",
    "B": "1011101", "a": "00011", "e": "00101", "r": "101100",
}  # fmt: skip
"""Of https://www.rfc-editor.org/rfc/rfc7541#appendix-B, what is needed here."""
_AUTHORIZATION = bytes([0x0F, 0x08])
"""A header field that no table keeps, and its name: the static table's 23rd."""

_PREFACE_BYTES = 24
_FRAME_HEAD_BYTES = 9
_HEADERS = 1


@asynccontextmanager
async def terminating(address: str, context: ssl.SSLContext, *, api_key: str = "") -> AsyncGenerator[str]:
    """Yield the address of a terminator of ``address``.

    With an ``api_key`` of the digits 0, 1 and 2 a connection whose first request does not bear it is ended.
    """
    host, _, port = address.rpartition(":")
    wanted = _bearing(api_key) if api_key else b""
    context.set_alpn_protocols(["h2"])

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            first = await _first_request(reader)
            if wanted in first:
                there, here = await asyncio.open_connection(host, int(port))
                here.write(first)
                await asyncio.gather(_pump(reader, here), _pump(there, writer))
        writer.close()

    server = await asyncio.start_server(carry, "127.0.0.1", 0, ssl=context)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def _first_request(reader: asyncio.StreamReader) -> bytes:
    """Return what a client of HTTP/2 sends until the headers of its first request have come."""
    come = await reader.readexactly(_PREFACE_BYTES)
    while True:
        head = await reader.readexactly(_FRAME_HEAD_BYTES)
        come += head + await reader.readexactly(int.from_bytes(head[:3]))
        if head[3] == _HEADERS:
            return come


def _bearing(api_key: str) -> bytes:
    """Return the header field ``authorization: Bearer …`` as HPACK has it."""
    bits = "".join(_HUFFMAN[each] for each in f"Bearer {api_key}")
    bits += "1" * (-len(bits) % 8)
    value = int(bits, 2).to_bytes(len(bits) // 8)
    return _AUTHORIZATION + bytes([0x80 | len(value)]) + value


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
