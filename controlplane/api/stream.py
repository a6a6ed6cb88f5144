"""A session's events as server-sent events."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import aclosing
from typing import Any

import psycopg
import structlog
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from controlplane.api.follow import POLL_SECONDS, Follower, Preview
from controlplane.store import events, sessions
from controlplane.store.pool import Database
from controlplane.tasks import end

KEEP_ALIVE_SECONDS = 10.0
"""Clients and proxies are promised a sign of life every 15 s."""

STALLED_SECONDS = 60.0
"""A client that takes nothing for a minute is gone or hopeless; it can resume from its last event."""

_PAGE = 500

_log = structlog.stdlib.get_logger(__name__)


def encode(value: object) -> str:
    """Return ``value`` as JSON on one line, in ASCII: readers differ in what else they take for a line's end."""
    return json.dumps(value, separators=(",", ":"), default=_wire_time)


def _wire_time(value: Any) -> str:
    return value.isoformat().replace("+00:00", "Z")


def frame(kind: str, data: object, *, seq: int | None = None) -> bytes:
    """Return one server-sent event; only recorded ones carry an id."""
    identity = f"id: {seq}\n" if seq is not None else ""
    return f"{identity}event: {kind}\ndata: {encode(data)}\n\n".encode()


class SessionStream:
    """What one client sees of a session from ``seq`` on."""

    def __init__(
        self,
        database: Database,
        follower: Follower,
        *,
        workspace_id: str,
        session_id: str,
        seq: int,
        previews: Collection[str],
    ):
        self._database = database
        self._follower = follower
        self._workspace_id = workspace_id
        self._session_id = session_id
        self._seq = seq
        self._previews = previews
        self._started: set[str] = set()
        self._finished = False

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield frames until the session is deleted or the process stops; comments keep the connection alive."""
        yield b": connected\n\n"
        last_sent = time.monotonic()
        async for chunk in self._surviving(self._recorded()):
            yield chunk
        while not self._finished and not self._follower.ended:
            await self._follower.wait(POLL_SECONDS)
            async for chunk in self._surviving(self._news()):
                last_sent = time.monotonic()
                yield chunk
            if time.monotonic() - last_sent >= KEEP_ALIVE_SECONDS - POLL_SECONDS:
                last_sent = time.monotonic()
                yield b": keep-alive\n\n"

    async def _surviving(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            async for chunk in chunks:
                yield chunk
        except psycopg.OperationalError as error:
            _log.warning("stream_waits_for_database", session_id=self._session_id, error=type(error).__name__)

    async def _news(self) -> AsyncIterator[bytes]:
        item = self._follower.pop()
        if item is None:
            async for chunk in self._recorded():
                yield chunk
        while item is not None:
            if isinstance(item, Preview):
                for chunk in self._preview(item):
                    yield chunk
            elif item.seq > self._seq:
                async for chunk in self._recorded():
                    yield chunk
            item = self._follower.pop()

    def _preview(self, item: Preview) -> list[bytes]:
        kind = item.frame["type"]
        if kind == "event_start" and item.frame["event"]["type"] in self._previews:
            self._started.add(item.event_id)
        return [frame(kind, item.frame)] if item.event_id in self._started else []

    async def _recorded(self) -> AsyncIterator[bytes]:
        while not self._finished:
            async with self._database.transaction(self._workspace_id) as connection:
                found = await events.after(connection, self._session_id, self._seq, limit=_PAGE)
                gone = None if found else await sessions.deleted(connection, self._session_id)
            for event in found:
                self._seq = event.seq
                self._started.discard(event.id)
                yield frame(event.type, event.wire(), seq=event.seq)
            if gone is not None:
                self._finished = True
                wire = {"id": gone.event_id, "type": "session.deleted", "processed_at": gone.deleted_at}
                yield frame("session.deleted", wire, seq=gone.seq)
            if len(found) < _PAGE:
                return


class EventStream(Response):
    """Sends a stream until it ends, its client leaves, or its client stops reading."""

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncGenerator[bytes]):
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._chunks = chunks

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything; whichever way it ends, nothing of it is left behind."""
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(sending, leaving)
            results = await asyncio.gather(sending, leaving, return_exceptions=True)
        failed = [result for result in results if isinstance(result, Exception)]
        if failed and not isinstance(failed[0], TimeoutError):
            raise failed[0]

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._chunks) as chunks:
            async for chunk in chunks:
                await _send_or_stall(send, {"type": "http.response.body", "body": chunk, "more_body": True})
        await _send_or_stall(send, {"type": "http.response.body", "body": b"", "more_body": False})


async def _send_or_stall(send: Send, message: Message) -> None:
    async with asyncio.timeout(STALLED_SECONDS):
        await send(message)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
