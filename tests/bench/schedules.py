"""Two thousand deployments that fire at the same instant: how late they begin, and whether any is lost."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.bench.figures import Figure, figure, p99
from tests.bench.plane import Bench

_DEPLOYMENTS = 2000
_AT_ONCE = 4
_LEAD = timedelta(minutes=3)
"""Longer than it takes to make them all, and to tell Temporal of each."""

_PATIENCE_SECONDS = 240
_LOOK_SECONDS = 2.0


async def firings(bench: Bench, _: int) -> list[Figure]:
    """From the fire time to the start of the session, of each; and until every session has answered."""
    at = (datetime.now(UTC) + _LEAD).replace(second=0, microsecond=0)
    await _deploy(bench, at)
    assert datetime.now(UTC) < at, "they were not made in time"
    await asyncio.sleep((at - datetime.now(UTC)).total_seconds())
    runs = await _ended(bench, at)
    late = [run["lateness_seconds"] for run in runs if run["lateness_seconds"] is not None]
    done = [(datetime.fromisoformat(run["ended_at"]) - at).total_seconds() for run in runs if run["ended_at"]]
    return [
        figure(f"{_DEPLOYMENTS} deployments at one instant, lateness", late, unit="s"),
        figure("the same, p99", [p99(late)], unit="s", goal="≤ 30"),
        figure("firings lost", [float(_DEPLOYMENTS - len(late))], unit="", goal="0"),
        figure("from the fire time to the end of its run", done, unit="s"),
    ]


async def _deploy(bench: Bench, at: datetime) -> None:
    agent = await bench.post("/v1/agents", {"name": "bench", "model": "bench/model"})
    environment = await bench.post("/v1/environments", {"name": "bench"})
    body: dict[str, Any] = {
        "name": "bench",
        "agent": agent["id"],
        "environment_id": environment["id"],
        "initial_events": [{"type": "user.message", "content": [{"type": "text", "text": "hello"}]}],
        "schedule": {"type": "cron", "expression": f"{at.minute} {at.hour} * * *", "timezone": "UTC"},
    }
    slots = asyncio.Semaphore(_AT_ONCE)

    async def make(_: int) -> None:
        async with slots:
            await bench.post("/v1/deployments", body)

    await asyncio.gather(*map(make, range(_DEPLOYMENTS)))


async def _ended(bench: Bench, at: datetime) -> list[dict[str, Any]]:
    """Wait until every firing has a run that has ended, or for as long as anybody would, and return the runs."""
    found: list[dict[str, Any]] = []
    ends = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < ends:
        found = await _listed(bench, at)
        if sum(run["state"] == "ended" for run in found) == _DEPLOYMENTS:
            break
        await asyncio.sleep(_LOOK_SECONDS)
    return found


async def _listed(bench: Bench, at: datetime) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    page: str | None = None
    while True:
        parameters = {"limit": "1000", "created_at[gte]": at.isoformat(), **({"page": page} if page else {})}
        answer = (await bench.http.get("/v1/deployment_runs", params=parameters)).json()
        found += answer["data"]
        page = answer["next_page"]
        if page is None:
            return found
