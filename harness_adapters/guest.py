"""ASGI apps on sockets of a process that has other work: quiet, quick to end, and no masters of its signals."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncGenerator, Generator

import uvicorn
from starlette.types import ASGIApp

PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody. For clients of such servers, who speak plain HTTP: reading all authorities takes 60 ms each."""

SHUTDOWN_SECONDS = 2
"""Streams still open then are cut; their turns ask again."""


def quiet(
    app: ASGIApp, *, host: str = "127.0.0.1", port: int = 0, shutdown_seconds: int = SHUTDOWN_SECONDS
) -> uvicorn.Config:
    """Return how our inner servers run; ``shutdown_seconds``: what an answer under way has to end."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=shutdown_seconds,
    )


class _Guest(uvicorn.Server):
    """A server that leaves the process's signals to others."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, listener: socket.socket, *, cut: bool = False) -> AsyncGenerator[None]:
    """Serve ``app`` on a socket that listens, for as long as the context lasts; ``cut``: and no moment longer."""
    server = _Guest(quiet(app))
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit, server.force_exit = True, cut
        await running
