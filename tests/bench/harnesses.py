"""Every harness on a control plane of its own: its start, its turns, its memory, and what it sustains."""

import asyncio
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from harness_adapters.contract import HarnessName
from harness_adapters.installation import default_folder, installed_names
from tests.bench.cap import capped
from tests.bench.figures import Figure, figure, progress
from tests.support.client import Client, run, script
from tests.support.harnesses import MODELS
from tests.support.stack import Stack

_SUSTAINED_SECONDS = 180.0
_CAP_MB = 1024
_AT_ONCE = 16
_MANY = 64
_PROCESSES = {"claude-agent-sdk": "3", "opencode": "1", "codex": "2"}
"""As many as fit into a gibibyte together with the brain, by what one of them takes."""
_GOALS = {"builtin": "≥ 1000", "opencode": "≥ 100", "codex": "≥ 100", "claude-agent-sdk": "≥ 60"}
_HELLO = script({"text": "hello"})
_TWO_CALLS = script(run("true"), run("true"), {"text": "done"})


async def measure(times: int) -> list[Figure]:
    """Measure those that are installed, one after the other."""
    found: list[Figure] = []
    for name in installed_names(default_folder()):
        progress(f"harness {name}")
        found += await _harness(name, times)
    return found


async def _harness(name: HarnessName, times: int) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="bulkhead-bench-") as folder:
        environment = {"BULKHEAD_HARNESS_PROCESSES": _PROCESSES.get(name, "1"), "BULKHEAD_WARM_SANDBOXES": "1"}
        stack = Stack(Path(folder) / "data", environment=environment)
        try:
            await asyncio.to_thread(stack.start)
            await asyncio.to_thread(stack.wait_ready)
            async with (
                Client(stack) as client,
                capped(stack.parts()["brain"], megabytes=_CAP_MB) as cap,
            ):
                first = await _session(client, name)
                cold = await _cold(client, first)
                warm = [await _turn(client, first, _HELLO) for _ in range(times)]
                memory = [_megabytes(stack)]
                memory += [await _held(client, stack, name, count) for count in (_AT_ONCE, _MANY)]
                per_minute, failed = await _sustained(client, name)
                peak, killed = cap.peak_mb, cap.killed
        finally:
            await asyncio.to_thread(stack.end)
    return [
        figure(f"{name}: cold start to the first model request", [cold]),
        figure(f"{name}: turn without a tool, warm", warm),
        figure(f"{name}: brain and programs, 1 session", memory[:1], unit="MB"),
        figure(f"{name}: brain and programs, {_AT_ONCE} sessions spoken to", memory[1:2], unit="MB"),
        figure(f"{name}: brain and programs, {_MANY} sessions spoken to", memory[2:], unit="MB"),
        figure(f"{name}: turns of 2 tool calls in 1 GiB", [per_minute], unit="/min", goal=_GOALS[name]),
        figure(f"{name}: of these failed", [failed], unit="", goal="0"),
        figure(f"{name}: ended for want of memory", [killed], unit="", goal="0"),
        figure(f"{name}: brain and programs meanwhile, files too", [peak], unit="MB"),
    ]


async def _session(client: Client, name: HarnessName) -> str:
    return await client.session(harness=name, model=MODELS[name])


async def _turn(client: Client, session_id: str, text: str) -> float:
    """Milliseconds from a message to the end of its turn."""
    async with client.watching(session_id) as watcher:
        began = time.perf_counter()
        await client.say(session_id, text)
        await watcher.until_idle(timeout_seconds=120)
        return (time.perf_counter() - began) * 1000


async def _cold(client: Client, session_id: str) -> float:
    """Milliseconds from the first message to the first model request, of a harness whose program does not run yet."""
    async with client.watching(session_id) as watcher:
        began = time.perf_counter()
        await client.say(session_id, _HELLO)
        await watcher.until(lambda w: "span.model_request_start" in w.types)
        took = (time.perf_counter() - began) * 1000
        await watcher.until_idle()
        return took


async def _held(client: Client, stack: Stack, name: HarnessName, count: int) -> float:
    """Megabytes after so many sessions have had a turn, all at once."""
    sessions = [await _session(client, name) for _ in range(count)]
    await asyncio.gather(*(_turn(client, each, _HELLO) for each in sessions))
    return _megabytes(stack)


async def _sustained(client: Client, name: HarnessName) -> tuple[float, float]:
    """Return turns a minute, and how many of them did not end well."""
    until = time.monotonic() + _SUSTAINED_SECONDS
    ends = list[bool]()

    async def talk() -> None:
        session_id = await _session(client, name)
        async with client.watching(session_id) as watcher:
            while time.monotonic() < until:
                turns = watcher.types.count("session.status_idle")
                await client.say(session_id, _TWO_CALLS)
                await watcher.until_idle(times=turns + 1, timeout_seconds=180)
                ends.append(watcher.events[-1]["stop_reason"] == {"type": "end_turn"})

    began = time.monotonic()
    await asyncio.gather(*(talk() for _ in range(_AT_ONCE)))
    return len(ends) / (time.monotonic() - began) * 60, float(ends.count(False))


def _megabytes(stack: Stack) -> float:
    """Memory of the brain with everything below it; what processes share is counted once for all of them."""
    brain = psutil.Process(stack.parts()["brain"])
    size = 0.0
    for process in [brain, *brain.children(recursive=True)]:
        with suppress(psutil.Error):
            size += process.memory_full_info().pss
    return size / 2**20
