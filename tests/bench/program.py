"""What a harness's own program costs: ``python -m tests.bench.program opencode``. Nothing is asserted."""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from controlplane.ids import new_id
from controlplane.models.listening import listening
from controlplane.models.scripted import create_scripted
from harness_adapters.catalog import HarnessSettings, harnesses
from harness_adapters.contract import Harness, ModelRequestStarted, ToolDefinition
from harness_adapters.installation import default_folder
from tests.integration.harnesses.talk import TOOLS, Talk, script, uses

MODELS = {"codex": "scripted/responses-x"}
FORMATS = {"scripted/responses-x": "openai-responses", "scripted/openai-x": "openai"}
PROGRAMS = ("opencode", "claude", "codex")


class Routed:
    """The scripted model, and the one answer of the gateway's that harnesses ask for."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] == "http" and scope["path"] == "/v1/routes":
            model = scope["query_string"].decode().partition("model=")[2].replace("%2F", "/")
            answer = JSONResponse({"formats": [FORMATS.get(model, "anthropic")]})
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class Bench:
    """One harness with talks of its own."""

    def __init__(self, harness: Harness, url: str, model: str):
        self._harness = harness
        self._model = model
        self._gateway: Any = type("Gateway", (), {"url": url, "token": "none"})()

    def talk(self) -> Talk:
        """Return a new session."""
        return Talk(self._gateway, self._model)

    async def turn(self, talk: Talk) -> tuple[float, float]:
        """Run a turn of three model requests; return the seconds to the first, and to the end."""
        talk.say(script({"tools": uses({"n": 1})}, {"tools": uses({"n": 2})}, {"text": f"end {len(talk.history)}"}))
        began, first = time.monotonic(), 0.0

        def watch(event: object) -> bool:
            nonlocal first
            if not first and isinstance(event, ModelRequestStarted):
                first = time.monotonic() - began
            return False

        await talk.turn(self._harness, until=watch)
        return first, time.monotonic() - began


def memory() -> str:
    """Return what the programs below this process take."""
    found = [each for each in psutil.Process().children(recursive=True) if each.name() in PROGRAMS]
    rss = sum(each.memory_info().rss for each in found) >> 20
    return f"{rss} MB resident in {len(found)} processes"


async def measure(bench: Bench, sessions: int, rounds: int) -> None:
    """Print the figures."""
    talk = bench.talk()
    first, whole = await bench.turn(talk)
    print(f"first turn: {first:.2f} s to its model request, {whole:.2f} s; {memory()}")
    warm = [(await bench.turn(talk))[1] for _ in range(10)]
    print(f"turn of three requests, warm: {statistics.median(warm):.3f} s; {memory()}")
    talks = [bench.talk() for _ in range(sessions)]
    began = time.monotonic()
    await asyncio.gather(*(bench.turn(each) for each in talks))
    print(f"{sessions} sessions, one turn each at once: {time.monotonic() - began:.2f} s; {memory()}")
    began = time.monotonic()
    for _ in range(2):
        await asyncio.gather(*(bench.turn(each) for each in talks))
    print(f"two turns more each: {time.monotonic() - began:.2f} s; {memory()}")
    long = bench.talk()
    long.history = [item for each in talks for item in each.history] * 2
    for n, item in enumerate(long.history):
        field = next(name for name in ("event_id", "request_id", "tool_use_id") if hasattr(item, name))
        if field == "event_id":
            long.history[n] = item.model_copy(update={field: f"u_{n}"})
    first, _ = await bench.turn(long)
    print(f"a session opened with {len(long.history)} items: {first:.2f} s to its model request; {memory()}")
    for n in range(rounds):
        other = bench.talk()
        tool = ToolDefinition(name=f"tool_{n}", description="", input_schema={"type": "object", "properties": {}})
        TOOLS.append(tool)
        await bench.turn(other)
        TOOLS.remove(tool)
    print(f"{rounds} sessions more, each with tools of its own: {memory()}")


async def main() -> None:
    """Measure one harness."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=0, help="sessions with tools of their own, at the end")
    parser.add_argument("--model")
    asked = parser.parse_args()
    model = asked.model or MODELS.get(asked.name, "scripted/x")
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="harness-bench-")))
        folder.chmod(0o755)
        settings = HarnessSettings(
            programs=default_folder(),
            state_dir=folder / "run",
            cache_dir=folder / "cache",
            installation=f"bench{os.getpid()}",
            processes=asked.sessions + 2,
        )
        harness = harnesses(lambda: new_id("sevt"), settings)[asked.name]
        stack.push_async_callback(harness.close)
        url = await stack.enter_async_context(listening(Routed(create_scripted())))
        await measure(Bench(harness, url, model), asked.sessions, asked.rounds)


if __name__ == "__main__":
    asyncio.run(main())
