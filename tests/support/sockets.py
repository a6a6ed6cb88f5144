"""A stand-in of ours for Slack's end of Socket Mode: it ends connections, which the emulator never does."""

import asyncio
import contextlib
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from typing import Any

from aiohttp import web

from tests.support.emulator import ALICE, APP, BOT, TEAM, free_port

_PATIENCE_SECONDS = 30

_numbers = itertools.count(1)


class Sockets:
    """Tells the front door what happens, and again on its next connection what it has not acknowledged."""

    def __init__(self) -> None:
        self.url = f"ws://127.0.0.1:{free_port()}/"
        self.connections = 0
        self.acknowledged = Counter[str]()
        self._open: web.WebSocketResponse | None = None
        self._waiting: dict[str, dict[str, Any]] = {}
        self._changed = asyncio.Event()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Tell what is to be told for as long as the connection lasts."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self._open, self.connections = socket, self.connections + 1
        await socket.send_json({"type": "hello", "num_connections": 1, "connection_info": {"app_id": APP}})
        for envelope in list(self._waiting.values()):
            await socket.send_json({**envelope, "retry_attempt": 1, "retry_reason": "timeout"})
        self._change()
        async for message in socket:
            envelope_id = str(json.loads(message.data)["envelope_id"])
            self.acknowledged[envelope_id] += 1
            self._waiting.pop(envelope_id, None)
            self._change()
        return socket

    async def mention(self, text: str, *, copies: int = 1) -> tuple[str, str]:
        """Tell the front door that somebody mentions it, and return the message and its envelope."""
        at, number = f"{time.time():.6f}", next(_numbers)
        event = {"type": "app_mention", "user": ALICE, "text": f"<@{BOT}> {text}", "ts": at, "channel": "C001"}
        payload = {"team_id": TEAM, "api_app_id": APP, "event_id": f"Es{number}", "type": "event_callback"}
        envelope_id = f"envelope{number}"
        self._waiting[envelope_id] = {
            "type": "events_api",
            "envelope_id": envelope_id,
            "accepts_response_payload": False,
            "payload": {**payload, "event": event},
        }
        assert self._open is not None
        for _ in range(copies):
            await self._open.send_json(self._waiting[envelope_id])
        return at, envelope_id

    async def close(self) -> None:
        """Close the connection without a word."""
        assert self._open is not None
        await self._open.close()

    async def disconnect(self, reason: str) -> None:
        """Say that the connection is about to end."""
        assert self._open is not None
        await self._open.send_json({"type": "disconnect", "reason": reason, "debug_info": {"host": "stand-in"}})

    async def connected(self, times: int) -> None:
        """Wait for so many connections since the beginning."""
        await self._until(lambda: self.connections >= times)

    async def took(self, envelope_id: str, times: int = 1) -> None:
        """Wait until an envelope has been acknowledged so often."""
        await self._until(lambda: self.acknowledged[envelope_id] >= times)

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while not holds():
                await self._changed.wait()


@contextlib.asynccontextmanager
async def sockets() -> AsyncGenerator[Sockets]:
    """Serve the stand-in for as long as the context lasts."""
    served = Sockets()
    app = web.Application()
    app.router.add_get("/", served.serve)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(served.url.rpartition(":")[2].strip("/"))).start()
    try:
        yield served
    finally:
        await runner.cleanup()
