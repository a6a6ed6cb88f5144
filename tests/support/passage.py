"""Stands between a front door and the API, so that something can be done to it at each request that it makes."""

import re
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

_ID = re.compile(r"[a-z]+_[0-9a-hjkmnp-tv-z]{26}")
_TIMEOUT_SECONDS = 120
_KEPT = ("content-type", "x-api-key", "idempotency-key", "last-event-id")


class Passage:
    """Passes requests on.

    ``watch`` is called with each, its ids as ``*``, when it has come, and again when the API has done it; true: no
    more is done about it. ``instead``: what is answered to a request that the API is not asked.
    """

    def __init__(self, url: str):
        self.watch: Callable[[str, Literal["came", "taken"]], Awaitable[bool]] | None = None
        self.instead: dict[str, dict[str, Any]] = {}
        unlimited = httpx.Limits(max_connections=None)
        self._http = httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_SECONDS, limits=unlimited)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        content = await request.body()
        asked = f"{request.method} {_ID.sub('*', request.url.path)}"
        if self.watch is not None and await self.watch(asked, "came"):
            await Response("lost", 500)(scope, receive, send)
            return
        if asked in self.instead:
            await JSONResponse(self.instead[asked])(scope, receive, send)
            return
        headers = {name: value for name, value in request.headers.items() if name in _KEPT}
        url = httpx.URL(request.url.path, query=request.url.query.encode())
        try:
            async with self._http.stream(request.method, url, content=content, headers=headers) as passed:
                answer = await self._answer(asked, passed)
                await answer(scope, receive, send)
        except httpx.TransportError:
            await Response("the API does not answer", 502)(scope, receive, send)

    async def _answer(self, asked: str, passed: httpx.Response) -> Response:
        kept = {name: value for name, value in passed.headers.items() if name in ("content-type", "x-should-retry")}
        if kept.get("content-type", "").startswith("text/event-stream"):
            return StreamingResponse(passed.aiter_raw(), passed.status_code, kept)
        content = await passed.aread()
        if self.watch is not None and await self.watch(asked, "taken"):
            return Response("lost", 500)
        return Response(content, passed.status_code, kept)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()
