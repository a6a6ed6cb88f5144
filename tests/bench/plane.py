"""A control plane of the benchmark's own, and its client."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from tests.bench.figures import Figure, figure
from tests.bench.provider import BenchProvider
from tests.support.egress import Received, TestHost
from tests.support.stack import Stack
from tests.support.watch import Watcher

ENDLESS_HOST = "endless.bench.test"
_ENDLESS_PAUSE_SECONDS = 0.05


class Bench:
    """Drives one running control plane as a client."""

    def __init__(self, stack: Stack, provider: BenchProvider, http: httpx.AsyncClient):
        self.stack = stack
        self.provider = provider
        self.http = http

    async def session(self, **config: Any) -> str:
        """Open a session of an agent that the bench provider answers for."""
        agent = await self.post("/v1/agents", {"name": "bench", "model": "bench/model"})
        asked = {"name": "bench", "config": {"type": "cloud", **config}}
        environment = await self.post("/v1/environments", asked)
        made = await self.post("/v1/sessions", {"agent": agent["id"], "environment_id": environment["id"]})
        return made["id"]

    async def turn(self, watcher: Watcher, session_id: str, text: str) -> "Turn":
        """Send one message and wait for the end of its turn."""
        idle, arrived = watcher.types.count("session.status_idle"), len(self.provider.arrivals)
        spent = len(self.provider.seconds)
        sent = time.time()
        content = [{"type": "text", "text": text}]
        await self.post(
            f"/v1/sessions/{session_id}/events", {"events": [{"type": "user.message", "content": content}]}
        )
        answered = time.time()
        await watcher.until_idle(times=idle + 1)
        ended = time.time()
        return Turn(
            post_ms=(answered - sent) * 1000,
            first_request_ms=(self.provider.arrivals[arrived] - sent) * 1000,
            total_ms=(ended - sent) * 1000,
            model_ms=sum(self.provider.seconds[spent:]) * 1000,
        )

    async def start(self, session_id: str, tool: str, **tool_input: Any) -> None:
        """Have a tool called, without waiting for anything."""
        content = [{"type": "text", "text": call(tool, **tool_input)}]
        await self.send(session_id, {"type": "user.message", "content": content})

    async def send(self, session_id: str, event: dict[str, Any]) -> None:
        """Send one event."""
        await self.post(f"/v1/sessions/{session_id}/events", {"events": [event]})

    async def live(self, session_id: str) -> list[dict[str, Any]]:
        """Return what is alive of a session."""
        response = await self.http.get("/v1/live", params={"session_id": session_id})
        response.raise_for_status()
        return response.json()["data"]

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST and return the answer, which must be a success."""
        response = await self.http.post(path, json=body)
        response.raise_for_status()
        return response.json()


@dataclass(frozen=True)
class Turn:
    """What one turn took, as its client sees it."""

    post_ms: float
    first_request_ms: float
    total_ms: float
    model_ms: float


def call(name: str, **tool_input: Any) -> str:
    """A message that makes the bench provider call a tool."""
    return json.dumps({"name": name, "input": tool_input})


def tool_ms(watcher: Watcher) -> float:
    """Milliseconds from the newest tool call's event to its result's."""
    use, result = watcher.of("agent.tool_use")[-1], watcher.of("agent.tool_result")[-1]
    began, ended = (datetime.fromisoformat(event["processed_at"]) for event in (use, result))
    return (ended - began).total_seconds() * 1000


async def provisions(
    bench: Bench, times: int, provider: str, *, source: str, goal: str, refill_seconds: float = 2.5
) -> list[Figure]:
    """`sandbox_provision` in a session without a sandbox: the whole tool call, and what of it the sandbox took.

    Of ``source`` warm only those count that found one ready; each leaves ``refill_seconds`` until there is one again.
    """
    whole: list[float] = []
    own: list[float] = []
    for _ in range(times):
        session_id = await bench.session(provider=provider)
        async with Watcher(bench.stack.url, bench.stack.api_key, session_id) as watcher:
            await watcher.until(lambda w: w.connections > 0)
            await bench.turn(watcher, session_id, call("sandbox_provision", task_description="bench"))
            result = json.loads(watcher.of("agent.tool_result")[-1]["content"][0]["text"])
        if result["source"] == source:
            whole.append(tool_ms(watcher))
            own.append(result["timings_ms"]["ready"])
        if source == "warm":
            await asyncio.sleep(refill_seconds)
    return [
        figure(f"{source} sandbox, {provider}, tool call to result", whole),
        figure(f"{source} sandbox, {provider}, claimed and furnished", own, goal=goal),
    ]


@asynccontextmanager
async def running(folder: Path, environment: Mapping[str, str]) -> AsyncGenerator[Bench]:
    """A control plane of its own, with the bench provider as its only real one."""
    provider = BenchProvider()
    async with provider.serving() as url, TestHost(None, endless) as host:
        toml = folder / "bulkhead.toml"
        toml.write_text(f'[providers.bench]\nformat = "anthropic"\nbase_url = "{url}"\nmodels = ["bench/*"]\n')
        stack = Stack(
            folder / "data",
            environment={
                "BULKHEAD_CONFIG_FILE": str(toml),
                "BULKHEAD_EGRESS_HOSTS": f"{ENDLESS_HOST}=127.0.0.1:{host.port}",
                **environment,
            },
        )
        await asyncio.to_thread(_start, stack)
        headers = {"x-api-key": stack.api_key}
        try:
            async with httpx.AsyncClient(base_url=stack.url, headers=headers, timeout=60) as http:
                yield Bench(stack, provider, http)
        finally:
            await asyncio.to_thread(stack.end)


def _start(stack: Stack) -> None:
    stack.start()
    stack.wait_ready()


async def endless(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer without end."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
    while not writer.is_closing():
        writer.write(b".")
        await writer.drain()
        await asyncio.sleep(_ENDLESS_PAUSE_SECONDS)
