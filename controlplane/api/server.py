"""Uvicorn, but one that lets the event streams end before it waits for them."""

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any

import uvicorn
from fastapi import FastAPI

from controlplane.api.parts import Parts
from controlplane.health import Health, serve_well

GRACE_SECONDS = 5
"""For requests that are under way; a stream ends at once and resumes elsewhere."""

KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep an idle connection (httpx, and with it the public SDK: 5): of the two ends that close at
the same time the client's would see its request fail."""


class ApiServer(uvicorn.Server):
    """Serves the API until it is told to exit."""

    def __init__(self, app: FastAPI, *, host: str, port: int):
        self._parts: Parts = app.state.parts
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then stop as uvicorn does."""
        self._parts.hub.end_streams()
        await super().shutdown(sockets)


async def serve_beside(server: uvicorn.Server, health: Health, *background: Coroutine[Any, Any, None]) -> None:
    """Serve until told to exit, with ``background`` running as long.

    Should a part of it end, the server exits and this raises: an API that fires nothing any more, and answers as if
    it did, is worse than one that is started again.
    """
    tasks = [asyncio.create_task(each) for each in background]

    def exits(_: asyncio.Task[None]) -> None:
        server.should_exit = True

    for task in tasks:
        task.add_done_callback(exits)
    try:
        await serve_well(server, health)
        for task in tasks:
            if task.done():
                task.result()
                raise RuntimeError(f"{task.get_coro()!r} has ended, which should run as long as the server")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
