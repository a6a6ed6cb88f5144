"""The scripted model on a socket: pace, failures, and streams that break off."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from controlplane.models.envelope import PATHS, error_body, error_response
from controlplane.models.scripted import anthropic, openai, responses
from controlplane.models.scripted.frames import Frame
from controlplane.models.scripted.player import Entry, Player, Reply
from controlplane.models.scripted.script import Failure
from controlplane.settings import ModelProvider
from harness_adapters.contract import WireFormat

SCRIPTED_CONCURRENCY = 10_000
"""It has no limit of its own; a script asks for 429 if it wants one."""

_GARBAGE = "<html><body>It works!</body></html>"
"""What a proxy in front of a provider may say in its place."""


class _Side(Protocol):
    """One of the wire formats; each is a module."""

    def entries(self, body: dict[str, Any], /) -> list[Entry]: ...
    def complaint(self, body: dict[str, Any], /) -> str | None: ...
    def message(self, reply: Reply, /) -> dict[str, Any]: ...
    def frames(self, reply: Reply, body: dict[str, Any], /) -> Iterator[Frame]: ...
    def error_frame(self, error: dict[str, Any], /) -> bytes: ...


class _Request(BaseModel):
    model_config = ConfigDict(extra="allow")

    model: str
    stream: bool | None = False


_SIDES: dict[WireFormat, _Side] = {"anthropic": anthropic, "openai": openai, "openai-responses": responses}


def scripted_providers(url: str) -> dict[str, ModelProvider]:
    """Return the providers under which the gateway serves the scripted model at ``url``."""
    limit = SCRIPTED_CONCURRENCY
    return {
        "scripted-anthropic": ModelProvider(
            format="anthropic", base_url=url, models=["scripted/*"], max_concurrent_requests=limit, free=True
        ),
        "scripted-openai": ModelProvider(
            format="openai",
            base_url=f"{url}/v1",
            models=["scripted/openai*"],
            max_concurrent_requests=limit,
            free=True,
        ),
        "scripted-responses": ModelProvider(
            format="openai-responses",
            base_url=f"{url}/v1",
            models=["scripted/responses*"],
            max_concurrent_requests=limit,
            free=True,
        ),
    }


def create_scripted() -> Starlette:
    """Return the ASGI app that answers in every format."""
    player = Player()
    return Starlette(
        routes=[Route(PATHS[each], _endpoint(player, wire_format=each), methods=["POST"]) for each in _SIDES]
    )


def _endpoint(player: Player, *, wire_format: WireFormat) -> Callable[[Request], Awaitable[Response | ASGIApp]]:
    side = _SIDES[wire_format]

    async def endpoint(request: Request) -> Response | ASGIApp:
        try:
            body = json.loads(await request.body())
            asked = _Request.model_validate(body)
        except ValueError as error:
            return error_response(wire_format, 400, f"not a request of this format: {error}")
        if wrong := side.complaint(body):
            return error_response(wire_format, 400, wrong)
        reply = player.reply(asked.model, side.entries(body), offered=_tool_names(body))
        return await _served(reply, body, wire_format=wire_format, streamed=bool(asked.stream))

    return endpoint


def _tool_names(body: dict[str, Any]) -> list[str]:
    tools = [tool for tool in body.get("tools") or [] if isinstance(tool, dict)]
    return [str((tool.get("function") or tool).get("name")) for tool in tools]


async def _served(
    reply: Reply, body: dict[str, Any], *, wire_format: WireFormat, streamed: bool
) -> Response | ASGIApp:
    side = _SIDES[wire_format]
    failure = reply.failure
    if failure and failure.after_chunks is None:
        await asyncio.sleep(failure.hang_seconds)
        if failure.status:
            return _failed(failure, failure.status, wire_format=wire_format)
        if failure.garbage:
            return HTMLResponse(_GARBAGE)
    await asyncio.sleep(reply.pace.first_byte_ms / 1000)
    if streamed:
        return _Stream(_paced(reply, body, wire_format=wire_format))
    return JSONResponse(side.message(reply))


def _failed(failure: Failure, status: int, *, wire_format: WireFormat) -> JSONResponse:
    after = failure.retry_after_seconds
    headers = {} if after is None else {"retry-after": f"{after:g}"}
    return error_response(wire_format, status, failure.message, headers=headers)


async def _paced(reply: Reply, body: dict[str, Any], *, wire_format: WireFormat) -> AsyncGenerator[bytes | None]:
    """Yield the stream's bytes; None where it breaks off."""
    side = _SIDES[wire_format]
    failure = reply.failure if reply.failure and reply.failure.after_chunks is not None else None
    chunks = 0
    for frame in side.frames(reply, body):
        if failure and failure.after_chunks == chunks and frame.is_chunk:
            await asyncio.sleep(failure.hang_seconds)
            if failure.garbage:
                yield f"event: garbage\ndata: {_GARBAGE}\n\n".encode()
            if failure.status:
                yield side.error_frame(error_body(wire_format, failure.status, failure.message))
            else:
                yield None
            return
        if frame.is_chunk:
            chunks += 1
            await asyncio.sleep(reply.pace.chunk_ms / 1000)
        yield frame.data


class _Stream:
    def __init__(self, pieces: AsyncGenerator[bytes | None]):
        self._pieces = pieces

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for piece in self._pieces:
            if piece is None:
                return
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
