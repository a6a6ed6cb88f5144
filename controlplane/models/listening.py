"""ASGI apps on loopback sockets of this process."""

import contextlib
import socket
from collections.abc import AsyncGenerator

from starlette.types import ASGIApp

from harness_adapters.guest import serving


@contextlib.asynccontextmanager
async def listening(app: ASGIApp, *, port: int = 0) -> AsyncGenerator[str]:
    """Serve ``app`` on loopback for as long as the context lasts, and yield its URL; port 0 takes a free one."""
    # asyncio switches Nagle's algorithm off only where the protocol is named; with it, each first byte waits 40 ms.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(1024)
        async with serving(app, listener):
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
