"""`python -m tests.soak`: many sessions for a while on a control plane of its own; it prints figures and ends."""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.soak import long_tool
from tests.soak.load import Load
from tests.soak.memory import Memory
from tests.support.stack import Stack

_REST_SECONDS = 20
_API_P99_MS = 250


async def soak(sessions: int, running: int, minutes: float, idle: int, tool_minutes: float) -> dict[str, Any]:
    """Run the loads, one after the other, and return their figures."""
    with tempfile.TemporaryDirectory(prefix="bulkhead-soak-") as folder:
        stack = Stack(Path(folder) / "data", environment={"BULKHEAD_SANDBOX_IDLE_SECONDS": "60"})
        try:
            await asyncio.to_thread(stack.start)
            await asyncio.to_thread(stack.wait_ready)
            found: dict[str, Any] = {"load_1m_before": os.getloadavg()[0]}
            async with Load(stack) as load:
                if sessions:
                    found["busy"] = await _busy(stack, load, sessions, running, minutes)
                if idle:
                    found["idle"] = await _idle(stack, load, idle)
            if tool_minutes:
                found["long_tool"] = await long_tool.long_tool(stack, tool_minutes)
            return found
        finally:
            await asyncio.to_thread(stack.end)


async def _busy(stack: Stack, load: Load, sessions: int, running: int, minutes: float) -> dict[str, Any]:
    await load.open(sessions)
    async with Memory(stack) as memory:
        await load.keep_running(running, seconds=minutes * 60)
    return {
        "sessions": sessions,
        "running": running,
        "minutes": minutes,
        **load.figures(),
        "restarts": sum(stack.restarts().values()),
        "load_1m": os.getloadavg()[0],
        "memory": memory.slopes(),
    }


async def _idle(stack: Stack, load: Load, idle: int) -> dict[str, Any]:
    """Sessions that were opened and never spoken to are rows: no workflow, no sandbox, and no work."""
    async with Memory(stack) as before:
        await asyncio.sleep(_REST_SECONDS)
    workflows = await load.workflows()
    await load.open(idle)
    async with Memory(stack) as after:
        await asyncio.sleep(_REST_SECONDS)
    return {
        "sessions": idle,
        "workflows_started": await load.workflows() - workflows,
        "alive": len((await load.get("/v1/live"))["data"]),
        "cpu_percent_before": before.cpu_percent(),
        "cpu_percent_after": after.cpu_percent(),
        "mb_before": before.newest(),
        "mb_after": after.newest(),
    }


def faults_of(found: dict[str, Any]) -> list[str]:
    """Return what is not as it should be."""
    busy, idle = found.get("busy", {}), found.get("idle", {})
    faults = list(busy.get("errors", []))
    if busy and busy["api_p99_ms"] > _API_P99_MS:
        faults.append(f"API p99 {busy['api_p99_ms']} ms > {_API_P99_MS} ms")
    if busy.get("restarts"):
        faults.append(f"{busy['restarts']} parts were started again")
    if idle.get("workflows_started"):
        faults.append(f"idle sessions have {idle['workflows_started']} workflows")
    faults += long_tool.faults_of(found.get("long_tool", {}))
    return faults


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--sessions", type=int, default=1000, help="open sessions; 0: none")
    parser.add_argument("--running", type=int, default=50, help="of them running at once")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--idle", type=int, default=10_000, help="sessions that are never spoken to; 0: none")
    parser.add_argument("--tool-minutes", type=float, default=6, help="for one command with every harness; 0: none")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what it started ends with it
    found = asyncio.run(soak(options.sessions, options.running, options.minutes, options.idle, options.tool_minutes))
    faults = faults_of(found)
    if options.json:
        print(json.dumps({**found, "faults": faults}, indent=2))
    else:
        for name, figures in found.items():
            print(f"{name}:" if isinstance(figures, dict) else f"{name}: {figures}")
            for key, value in figures.items() if isinstance(figures, dict) else ():
                print(f"  {key}: {value}")
        print("\n".join(faults) or "nothing is as it should not be")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
