"""Server-sent events as a plain client reads them."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True)
class Frame:
    """One server-sent event."""

    id: str | None
    event: str | None
    data: Any


@asynccontextmanager
async def follow(
    http: httpx.AsyncClient, session_id: str, *, headers: dict[str, str] | None = None, **parameters: Any
) -> AsyncGenerator[AsyncIterator[Frame]]:
    """Open a session's stream and yield its frames, without the comments."""
    path = f"/v1/sessions/{session_id}/events/stream"
    async with http.stream("GET", path, params=parameters, headers=headers, timeout=60) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield _frames(response)


async def take(frames: AsyncIterator[Frame], count: int) -> list[Frame]:
    """Read ``count`` frames."""
    return [await anext(frames) for _ in range(count)]


async def _frames(response: httpx.Response) -> AsyncIterator[Frame]:
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield Frame(fields.get("id"), fields.get("event"), json.loads(fields["data"]))
            fields = {}
