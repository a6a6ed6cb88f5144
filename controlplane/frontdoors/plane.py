"""The control plane as a front door sees it: its REST API, with a key of its own, like any other client."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import structlog

from controlplane.frames import Frames
from controlplane.frontdoors.contract import SharedFile

Json = dict[str, Any]

_TIMEOUT_SECONDS = 60.0
_SILENCE_SECONDS = 40.0  # a stream says something every 15
_PAUSE_SECONDS = 0.3  # a part that died is there again in about a second
_LONGEST_PAUSE_SECONDS = 5.0
_MOST_CONFLICTS = 10  # what changes at the same moment has changed after these, which take half a minute
_PREVIEWS = ("event_start", "event_delta")

_log = structlog.get_logger(__name__)


SHUT = "invalid_api_key"
"""The code of a refusal that says that the front door's key was revoked: nobody comes in by it any more."""


class RefusedError(Exception):
    """The API said no; the message is fit for whoever asked."""

    def __init__(self, message: str, code: str):
        super().__init__(message)
        self.code = code


class Plane:
    """Asks the API for as long as it takes: every request that changes something carries an idempotency key."""

    def __init__(self, url: str, key: str):
        headers = {"x-api-key": key}
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=_TIMEOUT_SECONDS)
        # Each session that is followed keeps a connection: among the others' they would leave none for a `stop`.
        unlimited = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        self._streams = httpx.AsyncClient(base_url=url, headers=headers, timeout=_TIMEOUT_SECONDS, limits=unlimited)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()
        await self._streams.aclose()

    async def get(self, path: str, **parameters: str) -> Json:
        """Return what is at ``path``."""
        return await self._asked("GET", path, params=parameters)

    async def post(self, path: str, body: Json, *, key: str) -> Json:
        """Have something done once, however often it is asked under ``key``.

        A body that comes back from the ledger has its names in another order, and is to be the same request.
        """
        headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
        return await self._asked("POST", path, content=json.dumps(body, sort_keys=True), headers=headers)

    async def upload(self, file: SharedFile, content: bytes, *, key: str) -> str:
        """Store a file once and return its id."""
        files = {"file": (file.name, content, file.media_type)}
        return (await self._asked("POST", "/v1/files", files=files, headers={"Idempotency-Key": key}))["id"]

    async def content(self, file_id: str) -> bytes:
        """Return a file's content."""
        return (await self._answered("GET", f"/v1/files/{file_id}/content")).content

    async def agents(self) -> dict[str, str]:
        """Return the names of all agents by id."""
        found: dict[str, str] = {}
        page: str | None = None
        while True:
            answer = await self.get("/v1/agents", limit="100", **({"page": page} if page else {}))
            found |= {each["id"]: each["name"] for each in answer["data"]}
            page = answer.get("next_page")
            if page is None:
                return found

    async def follow(self, session_id: str, *, after: int, previews: bool) -> AsyncGenerator[tuple[int | None, Json]]:
        """Yield every event of a session after a seq, with its seq, for as long as somebody reads; reconnects.

        ``previews``: also what an answer says while it is made, without a seq.
        """
        pause = _PAUSE_SECONDS
        while True:
            try:
                async for seq, event in self._connection(session_id, after, previews=previews):
                    after, pause = after if seq is None else seq, _PAUSE_SECONDS
                    yield seq, event
            except httpx.TransportError as error:
                _log.info("session_stream_broke", session_id=session_id, error=type(error).__name__)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def _connection(
        self, session_id: str, after: int, *, previews: bool
    ) -> AsyncGenerator[tuple[int | None, Json]]:
        timeout = httpx.Timeout(_TIMEOUT_SECONDS, read=_SILENCE_SECONDS)
        async with self._streams.stream(
            "GET",
            f"/v1/sessions/{session_id}/events/stream",
            headers={"Last-Event-ID": str(after)},
            params={"event_deltas": "agent.message"} if previews else {},
            timeout=timeout,
        ) as response:
            if response.is_error:
                await response.aread()
                if not _passes(response):
                    raise _refusal(response)
                return
            frames = Frames()
            async for chunk in response.aiter_bytes():
                for frame in frames.feed(chunk):
                    if "data" in frame and ("id" in frame or frame.get("event") in _PREVIEWS):
                        yield int(frame["id"]) if "id" in frame else None, json.loads(frame["data"])

    async def _asked(self, method: str, path: str, **options: Any) -> Json:
        return (await self._answered(method, path, **options)).json()

    async def _answered(self, method: str, path: str, **options: Any) -> httpx.Response:
        pause, conflicts = _PAUSE_SECONDS, 0
        while True:
            try:
                response = await self._http.request(method, path, **options)
                if response.is_success:
                    return response
                conflicts += response.status_code == 409
                if not _passes(response) or conflicts > _MOST_CONFLICTS:
                    raise _refusal(response)
            except httpx.TransportError as error:
                _log.info("api_unreachable", path=path, error=type(error).__name__)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


def _passes(response: httpx.Response) -> bool:
    if response.status_code == 409:
        return response.headers.get("x-should-retry") != "false"
    return response.status_code == 429 or response.is_server_error


def _refusal(response: httpx.Response) -> RefusedError:
    try:
        error = response.json()["error"]
        next_step = error.get("next_step")
        message = f"{error['message']}; {next_step}" if next_step else error["message"]
        return RefusedError(message, error["code"])
    except (ValueError, KeyError, TypeError):
        return RefusedError(f"the API answered {response.status_code}", "unexpected_answer")
