"""The clients of a soak: they open sessions, keep some of them running, and note what they had to wait for."""

import asyncio
import itertools
import json
import time
from typing import Any

import httpx
from temporalio.client import Client as TemporalClient

from tests.bench.figures import p95, p99
from tests.support.client import run, script
from tests.support.places import environment_of
from tests.support.stack import Stack

_OPENERS = 16
_COMMANDS_ONE_IN = 10
_TURN_SECONDS = 120
_MOST_ERRORS = 20
_SAID = "A sentence that takes its time, as models do when they have something to say. " * 2


class Load:
    """Clients of one control plane."""

    def __init__(self, stack: Stack):
        self._stack = stack
        limits = httpx.Limits(max_connections=400)
        headers = {"x-api-key": stack.api_key}
        self._http = httpx.AsyncClient(base_url=stack.url, headers=headers, timeout=60, limits=limits)
        self._sessions: list[str] = []
        self._ms: list[float] = []
        self._turn_ms: list[float] = []
        self._errors: list[str] = []
        self._agent_id = self._environment_id = ""

    async def __aenter__(self) -> "Load":
        self._agent_id = (await self.post("/v1/agents", {"name": "soak", "model": "scripted/soak"}))["id"]
        config = {"type": "cloud", "provider": "namespace"}
        self._environment_id = (await self.post("/v1/environments", {"name": "soak", "config": config}))["id"]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def open(self, count: int) -> None:
        """Open so many sessions."""
        numbers = iter(range(count))
        made = {"agent": self._agent_id, "environment_id": self._environment_id}

        async def some() -> None:
            for _ in numbers:
                self._sessions.append((await self.post("/v1/sessions", made))["id"])

        await asyncio.gather(*(some() for _ in range(_OPENERS)))
        self._ms.clear()

    async def keep_running(self, running: int, *, seconds: float) -> None:
        """Have so many sessions run a turn at any time; each turn is the next session's."""
        ends = time.monotonic() + seconds
        turns = itertools.count()

        async def one() -> None:
            while time.monotonic() < ends:
                number = next(turns)
                try:
                    await self._turn(self._sessions[number % len(self._sessions)], number)
                except (httpx.HTTPError, TimeoutError, AssertionError) as error:
                    self._errors.append(f"{type(error).__name__}: {error}"[:300])

        await asyncio.gather(*(one() for _ in range(running)))

    def figures(self) -> dict[str, Any]:
        """Return what was measured, at the client."""
        return {
            "turns": len(self._turn_ms),
            "turn_ms_median": round(sorted(self._turn_ms)[len(self._turn_ms) // 2]) if self._turn_ms else None,
            "turn_ms_p95": round(p95(self._turn_ms)) if self._turn_ms else None,
            "api_requests": len(self._ms),
            "api_p95_ms": round(p95(self._ms), 1),
            "api_p99_ms": round(p99(self._ms), 1),
            "api_max_ms": round(max(self._ms), 1),
            "errors": self._errors[:_MOST_ERRORS],
            "errors_in_all": len(self._errors),
        }

    async def workflows(self) -> int:
        """Return how many workflows were ever started."""
        address = environment_of(self._stack.parts()["api"])["BULKHEAD_TEMPORAL_ADDRESS"]
        return (await (await TemporalClient.connect(address)).count_workflows()).count

    async def get(self, path: str, **parameters: str) -> Any:
        """GET and return the answer, which must be a success."""
        return await self._ask("GET", path, params=parameters)

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """POST and return the answer, which must be a success."""
        return await self._ask("POST", path, json=body)

    async def _ask(self, method: str, path: str, **more: Any) -> Any:
        began = time.perf_counter()
        answer = await self._http.request(method, path, **more)
        self._ms.append((time.perf_counter() - began) * 1000)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    async def _turn(self, session_id: str, number: int) -> None:
        slowly = {"text": f"{number}: {_SAID}", "chunk_chars": 12, "chunk_ms": 150}
        steps = [run(f"echo {number}"), slowly] if number % _COMMANDS_ONE_IN == 0 else [slowly]
        path = f"/v1/sessions/{session_id}"
        seen = (await self.get(path))["last_seq"]
        began = time.perf_counter()
        message = {"type": "user.message", "content": [{"type": "text", "text": script(*steps)}]}
        await self.post(f"{path}/events", {"events": [message]})
        async with asyncio.timeout(_TURN_SECONDS):
            ended = await self._until_idle(session_id, seen)
        self._turn_ms.append((time.perf_counter() - began) * 1000)
        assert ended["stop_reason"]["type"] == "end_turn", f"{session_id}: {ended}"
        assert (await self.get(path))["failure"] is None

    async def _until_idle(self, session_id: str, seen: int) -> dict[str, Any]:
        headers = {"Last-Event-ID": str(seen)}
        path = f"/v1/sessions/{session_id}/events/stream"
        async with self._http.stream("GET", path, headers=headers) as answer:
            assert answer.status_code == 200, answer.status_code
            async for line in answer.aiter_lines():
                if line.startswith("data: ") and '"session.status_idle"' in line:
                    return json.loads(line[6:])
        raise AssertionError(f"{session_id}: the stream ended before the turn")
