"""Where requests come in that may be anybody's: never more in memory than Slack sends, and no row for each."""

import asyncio

import psycopg
import structlog
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controlplane.frontdoors.desk import Desk

_LONGEST_BYTES = 5_000_000
"""Of a request; a message of Slack's is at most 40,000 characters, beside a description of each of its files."""

_COUNT_SECONDS = 1.0

_log = structlog.get_logger(__name__)


class Entrance:
    """Passes requests on, and puts on record how many were refused: without a signature that holds, or with an old
    one."""

    def __init__(self, app: ASGIApp, desk: Desk):
        self._app = app
        self._desk = desk
        self._refused = 0
        self._counting: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = await _body(receive)
        if body is None:
            await PlainTextResponse("longer than anything of Slack's", 413)(scope, receive, send)
            return
        parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed() -> Message:
            return parts.pop() if parts else await receive()

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 401:
                self._count()
            await send(message)

        await self._app(scope, replayed, noted)

    def _count(self) -> None:
        self._refused += 1
        if self._counting is None or self._counting.done():
            self._counting = asyncio.create_task(self._record())

    async def _record(self) -> None:
        while self._refused:
            await asyncio.sleep(_COUNT_SECONDS)
            count, self._refused = self._refused, 0
            try:
                await self._desk.refuse("bad_signature", count=count)
            except psycopg.Error as error:
                _log.warning("refusals_not_recorded", count=count, error=type(error).__name__)


async def _body(receive: Receive) -> bytes | None:
    """Return a request's body; None: it is too long, or its sender has gone."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > _LONGEST_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)
