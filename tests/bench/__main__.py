"""`make bench`: what the control plane adds, beside the floor measured in the same run. Nothing is asserted."""

import argparse
import asyncio
import json
import os
import platform
import signal
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import psutil

from sandbox.docker import docker_available
from tests.bench import durability, egress, gateway, harnesses, neighbours, pods, sandboxes, schedules
from tests.bench import memory as remembering
from tests.bench.figures import Figure, figure, progress, said
from tests.bench.plane import Bench, call, provisions, running, tool_ms
from tests.bench.provider import BenchProvider
from tests.support.stack import Stack
from tests.support.temporal import short_histories
from tests.support.watch import Watcher

_IDLE_SECONDS = 5
_LONG_ENOUGH_SECONDS = 1.5
"""Temporal holds back a run that continues one of less than a second, and none of thousands of events is so short."""


async def turns(bench: Bench, times: int) -> list[Figure]:
    """A message answered without a tool."""
    session_id = await bench.session()
    async with Watcher(bench.stack.url, bench.stack.api_key, session_id) as watcher:
        await watcher.until(lambda w: w.connections > 0)
        first = await bench.turn(watcher, session_id, "hello")
        found = [await bench.turn(watcher, session_id, "hello") for _ in range(times)]
    floor = said(await bare_requests(bench, times), "a bare model request")
    return [
        *await gateway.first_bytes(bench, times * 4),
        figure("POST message → first model request, new session", [first.first_request_ms]),
        figure("POST message → first model request", [t.first_request_ms for t in found], goal="≤ 100 p50"),
        figure("POST message → accepted", [t.post_ms for t in found]),
        figure(
            "turn, over the model's own time", [t.total_ms - t.model_ms for t in found], goal="≤ 150", floor=floor
        ),
    ]


async def bare_requests(bench: Bench, times: int) -> list[float]:
    """Milliseconds of a direct request to the bench provider."""
    body = {"model": "bench/model", "max_tokens": 8, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    found: list[float] = []
    async with BenchProvider().serving() as url, httpx.AsyncClient(base_url=url) as direct:
        for _ in range(times):
            began = time.perf_counter()
            await direct.post("/v1/messages", json=body)
            found.append((time.perf_counter() - began) * 1000)
    return found


async def commands(bench: Bench, times: int, provider: str, goal: str) -> list[Figure]:
    """`sandbox_execute` of `true` in a sandbox that is there."""
    session_id = await bench.session(provider=provider)
    async with Watcher(bench.stack.url, bench.stack.api_key, session_id) as watcher:
        await watcher.until(lambda w: w.connections > 0)
        await bench.turn(watcher, session_id, call("sandbox_provision", task_description="bench"))
        found: list[float] = []
        for _ in range(times):
            await bench.turn(watcher, session_id, call("sandbox_execute", command="true"))
            found.append(tool_ms(watcher))
    return [figure(f"sandbox_execute of true, {provider}", found, goal=goal)]


def memory(stack: Stack) -> list[Figure]:
    """Resident memory of every part after some seconds of rest."""
    time.sleep(_IDLE_SECONDS)
    found: list[Figure] = []
    for name, pid in stack.parts().items():
        process = psutil.Process(pid)
        everything = [process, *process.children(recursive=True)] if name == "postgres" else [process]
        size = sum(each.memory_info().rss for each in everything) / 2**20
        found.append(
            figure(f"resident memory, {name}, idle", [size], unit="MB", goal="≤ 128" if name == "brain" else "")
        )
    return found


def ready_seconds(stack: Stack, times: int) -> list[float]:
    """Seconds from `bulkhead up` to ready, on a warm data directory."""
    found: list[float] = []
    for _ in range(times):
        stack.end()
        began = time.perf_counter()
        stack.start()
        stack.wait_ready()
        found.append(time.perf_counter() - began)
    return found


async def tools(bench: Bench, times: int) -> list[Figure]:
    """The sandbox tools on every provider of this machine, from the tool call's event to its result's."""
    found = await commands(bench, times, "namespace", "≤ 60 p50")
    found += await provisions(bench, max(5, times // 5), "namespace", source="cold", goal="≤ 150")
    if await docker_available() is None:
        found += await commands(bench, times // 2, "docker", "")
        found += await provisions(bench, 5, "docker", source="cold", goal="≤ 700")
    return found


async def warm(bench: Bench, times: int) -> list[Figure]:
    """Sandboxes that are claimed from the pool, with their way out."""
    found = await provisions(bench, max(6, times // 5), "namespace", source="warm", goal="≤ 50 p50")
    if await docker_available() is None:
        found += await provisions(bench, 6, "docker", source="warm", goal="≤ 50 p50")
    return found


async def memory_and_start(bench: Bench, _: int) -> list[Figure]:
    """What the parts need at rest, and how long they take to be ready."""
    found = await asyncio.to_thread(memory, bench.stack)
    seconds = await asyncio.to_thread(ready_seconds, bench.stack, 3)
    return [*found, figure("bulkhead up ready, warm data directory", seconds, unit="s", goal="≤ 8")]


async def continuing(times: int) -> list[Figure]:
    """A turn after which the workflow continues as new each time, beside one after which it does not."""
    without = await _turns_with_histories(times, events=50_000)
    continued = await _turns_with_histories(times, events=1)
    return [figure("turn after the workflow continued as new", continued, floor=said(without, "without"))]


async def _turns_with_histories(times: int, *, events: int) -> list[float]:
    with tempfile.TemporaryDirectory(prefix="bulkhead-bench-") as name:
        async with short_histories(Path(name), events=events) as address, AsyncExitStack() as opened:
            plane = running(Path(name), {"BULKHEAD_TEMPORAL_ADDRESS": address})
            bench = await opened.enter_async_context(plane)
            session_id = await bench.session()
            watcher = await opened.enter_async_context(Watcher(bench.stack.url, bench.stack.api_key, session_id))
            await watcher.until(lambda w: w.connections > 0)
            found: list[float] = []
            for _ in range(max(8, times // 5)):
                await bench.turn(watcher, session_id, "hello")
                await asyncio.sleep(_LONG_ENOUGH_SECONDS)
                found.append((await bench.turn(watcher, session_id, "hello")).total_ms)
                await asyncio.sleep(_LONG_ENOUGH_SECONDS)
            return found


async def proxy(times: int) -> list[Figure]:
    """The egress proxy beside a direct connection and beside mitmproxy."""
    measured = await asyncio.to_thread(lambda: egress.measure(times=times * 40, mitmproxy=egress.mitmdump()))
    return [Figure(**asdict(each)) for each in measured]


PLANES = (
    ({"BULKHEAD_WARM_SANDBOXES": "0"}, {"turns": turns, "tools": tools, "rest": memory_and_start}),
    ({"BULKHEAD_WARM_SANDBOXES": "1"}, {"warm": warm}),
    (
        {"BULKHEAD_WARM_SANDBOXES": "1"},
        {
            "appends": durability.appends,
            "fan-out": durability.fan_out,
            "interrupts": durability.interrupts,
            "stopping": durability.stopping,
            "failover": durability.failover,
        },
    ),
    ({"BULKHEAD_WARM_SANDBOXES": "0"}, {"schedules": schedules.firings}),
    ({"BULKHEAD_WARM_SANDBOXES": "0"}, {"memory": remembering.measure}),
)
OF_CONTROL_PLANE = [name for _, parts in PLANES for name in parts]
ALONE = {
    "sandboxes": sandboxes.measure,
    "pods": pods.measure,
    "neighbours": neighbours.measure,
    "egress": proxy,
    "continuing": continuing,
    "harnesses": harnesses.measure,
}


async def measure(times: int, only: list[str]) -> list[Figure]:
    """Measure the parts that were asked for, or all that this machine can run."""
    found: list[Figure] = []
    wanted = only or [*ALONE, *OF_CONTROL_PLANE]
    for name in filter(wanted.__contains__, ALONE):
        progress(name)
        found += await ALONE[name](times)
    for environment, parts in PLANES:
        if not parts.keys() & wanted:
            continue
        with tempfile.TemporaryDirectory(prefix="bulkhead-bench-") as folder:
            async with running(Path(folder), environment) as bench:
                for name in filter(wanted.__contains__, parts):
                    progress(name)
                    found += await parts[name](bench, times)
    return found


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpus": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_1m": os.getloadavg()[0],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--times", type=int, default=50, help="samples per figure")
    parser.add_argument("--only", action="append", choices=[*ALONE, *OF_CONTROL_PLANE], default=[])
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what it started ends with it
    on, found = machine(), asyncio.run(measure(options.times, options.only))
    if options.json:
        print(json.dumps({"machine": on, "figures": [asdict(each) for each in found]}, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in on.items()))
    print(f"{'':52} {'median':>9} {'p95':>9} {'n':>4}  {'goal':10} floor")
    for each in found:
        digits = 1 if each.median >= 10 else 2
        values = f"{each.median:9.{digits}f} {each.p95:9.{digits}f} {each.samples:4}"
        print(f"{each.name:52} {values}  {each.goal:10} {each.floor}  [{each.unit}]")


if __name__ == "__main__":
    main()
