"""A client that watches a session as a careful one would: it reconnects with Last-Event-ID and keeps what it saw."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

import httpx

_RECONNECT_SECONDS = 0.1
_READ_TIMEOUT_SECONDS = 20  # above the 15 s within which the server must send at least a comment


class Watcher:
    """Collects every recorded event of a session, with the seq it came under, and every preview frame."""

    def __init__(self, url: str, api_key: str, session_id: str):
        self._url = f"{url}/v1/sessions/{session_id}/events/stream"
        self._headers = {"x-api-key": api_key}
        self._changed = asyncio.Condition()
        self.events: list[dict[str, Any]] = []
        self.seqs: list[int] = []
        self.previews: list[dict[str, Any]] = []
        self.connections = 0

    async def __aenter__(self) -> "Watcher":
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def until(self, holds: Callable[["Watcher"], bool], *, timeout_seconds: float = 60) -> None:
        """Wait until ``holds`` of what has been seen; fail with it if it never does."""
        try:
            async with asyncio.timeout(timeout_seconds), self._changed:
                await self._changed.wait_for(lambda: holds(self))
        except TimeoutError:
            raise AssertionError(f"never seen; the events were {self.types}") from None

    async def until_idle(self, *, times: int = 1, timeout_seconds: float = 60) -> None:
        """Wait until the session has come to rest this often."""
        await self.until(lambda w: w.types.count("session.status_idle") >= times, timeout_seconds=timeout_seconds)

    @property
    def types(self) -> list[str]:
        """The types of the recorded events, in order."""
        return [event["type"] for event in self.events]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The recorded events of one type."""
        return [event for event in self.events if event["type"] == kind]

    async def _watch(self) -> None:
        timeout = httpx.Timeout(5, read=_READ_TIMEOUT_SECONDS)
        async with httpx.AsyncClient(headers=self._headers, timeout=timeout) as client:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    await self._connection(client)
                await asyncio.sleep(_RECONNECT_SECONDS)

    async def _connection(self, client: httpx.AsyncClient) -> None:
        last = str(self.seqs[-1] if self.seqs else 0)
        parameters = {"event_deltas": "agent.message"}
        async with client.stream("GET", self._url, params=parameters, headers={"Last-Event-ID": last}) as response:
            if response.status_code != 200:
                return
            async with self._changed:
                self.connections += 1
                self._changed.notify_all()
            frame: dict[str, str] = {}
            async for line in response.aiter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    frame[name] = value
                elif frame:
                    await self._take(frame)
                    frame = {}

    async def _take(self, frame: dict[str, str]) -> None:
        if "data" not in frame:
            return
        data = json.loads(frame["data"])
        async with self._changed:
            if "id" in frame:
                self.seqs.append(int(frame["id"]))
                self.events.append(data)
            else:
                self.previews.append(data)
            self._changed.notify_all()
