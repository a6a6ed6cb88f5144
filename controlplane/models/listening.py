"""ASGI apps on sockets of this process."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Generator

import uvicorn
from starlette.types import ASGIApp

SHUTDOWN_SECONDS = 2
"""Streams still open then are cut; their turns ask again."""


def server_config(app: ASGIApp, *, host: str, port: int) -> uvicorn.Config:
    """Return how the gateway's servers run: quiet, and quick to end."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        lifespan="off",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


class _Guest(uvicorn.Server):
    """A server that leaves the process's signals to others."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@contextlib.asynccontextmanager
async def listening(app: ASGIApp, *, port: int = 0) -> AsyncGenerator[str]:
    """Serve ``app`` on loopback for as long as the context lasts, and yield its URL; port 0 takes a free one."""
    # asyncio switches Nagle's algorithm off only where the protocol is named; with it, each first byte waits 40 ms.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(1024)
        bound = listener.getsockname()[1]
        server = _Guest(server_config(app, host="127.0.0.1", port=bound))
        running = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{bound}"
        finally:
            server.should_exit = True
            await running
