"""``relay.py ADDRESS PORT``: passes each connection to PORT on to the same port of a service of the cluster."""

import asyncio
import contextlib
import sys

ADDRESS, PORT = sys.argv[1], int(sys.argv[2])


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction to its end."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass one connection on; it ends where the service takes none."""
    try:
        there = await asyncio.open_connection(ADDRESS, PORT)
    except OSError:
        writer.close()
        return
    await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))


async def main() -> None:
    """Pass connections on until this is ended."""
    server = await asyncio.start_server(passed_on, port=PORT)
    await server.serve_forever()


asyncio.run(main())
