"""What durability costs, and how fast the control plane stops, fails over, and tells everybody."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx

from controlplane.store import events
from controlplane.store.events import NewEvent
from controlplane.store.pool import ALL_WORKSPACES, Database
from tests.bench.figures import Figure, figure, p99
from tests.bench.plane import ENDLESS_HOST, Bench
from tests.support.places import environment_of
from tests.support.stack import Stack
from tests.support.watch import Watcher

_APPEND_SECONDS = 5.0
_WRITERS = 8
_READERS = 200
_FAN_OUT_PAUSE_SECONDS = 0.1
_SOUND_SECONDS = 11.0
"""A brain that ran this long is started again at once when it dies."""
_READERS_READY_SECONDS = 60


async def appends(bench: Bench, _: int) -> list[Figure]:
    """Event rows committed one by one: into one session, and into several at once."""
    async with _store(bench.stack) as database:
        return [
            figure("event appends, one session", [await _appends(bench, database, 1)], unit="/s"),
            figure(f"event appends, {_WRITERS} sessions", [await _appends(bench, database, _WRITERS)], unit="/s"),
        ]


async def _appends(bench: Bench, database: Database, writers: int) -> float:
    sessions = [await bench.session() for _ in range(writers)]
    ends = time.perf_counter() + _APPEND_SECONDS

    async def write(session_id: str) -> int:
        done = 0
        while time.perf_counter() < ends:
            await _append(database, session_id, done)
            done += 1
        return done

    return sum(await asyncio.gather(*map(write, sessions))) / _APPEND_SECONDS


async def _append(database: Database, session_id: str, number: int) -> None:
    said = {"content": [{"type": "text", "text": f"number {number} of many that say as much as a line does"}]}
    async with database.transaction(ALL_WORKSPACES) as connection:
        await events.append(connection, session_id, [NewEvent(type="agent.message", payload=said)])


async def fan_out(bench: Bench, times: int) -> list[Figure]:
    """From the commit of an event to its arrival at each of many readers of one session."""
    session_id = await bench.session()
    arrivals: list[tuple[int, float]] = []
    connected = asyncio.Semaphore(0)
    headers = {"x-api-key": bench.stack.api_key, "Last-Event-ID": "0"}
    limits = httpx.Limits(max_connections=_READERS)

    async def read(http: httpx.AsyncClient) -> None:
        async with http.stream("GET", f"/v1/sessions/{session_id}/events/stream") as answer:
            connected.release()
            async for line in answer.aiter_lines():
                if line.startswith("id: "):
                    arrivals.append((int(line[4:]), time.perf_counter()))

    written: list[float] = []
    async with (
        _store(bench.stack) as database,
        httpx.AsyncClient(base_url=bench.stack.url, headers=headers, timeout=60, limits=limits) as http,
    ):
        readers = [asyncio.create_task(read(http)) for _ in range(_READERS)]
        async with asyncio.timeout(_READERS_READY_SECONDS):
            for _ in readers:
                await connected.acquire()
        for number in range(times):
            await _append(database, session_id, number)
            written.append(time.perf_counter())
            await asyncio.sleep(_FAN_OUT_PAUSE_SECONDS)
        async with asyncio.timeout(_READERS_READY_SECONDS):
            while len(arrivals) < times * _READERS:  # noqa: ASYNC110 - many tasks add to it
                await asyncio.sleep(0.05)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    found = [(arrived - written[seq - 1]) * 1000 for seq, arrived in arrivals]
    return [
        figure(f"event committed → at each of {_READERS} readers", found),
        figure(f"event committed → at each of {_READERS} readers, p99", [p99(found)], goal="≤ 300"),
    ]


async def interrupts(bench: Bench, times: int) -> list[Figure]:
    """From the POST of an interrupt to the event that says the session is idle, while a command runs."""
    found: list[float] = []
    session_id = await bench.session(provider="namespace")
    async with Watcher(bench.stack.url, bench.stack.api_key, session_id) as watcher:
        await watcher.until(lambda w: w.connections > 0)
        for _ in range(max(5, times // 5)):
            idle = watcher.types.count("session.status_idle")
            await _run_forever(bench, watcher, session_id)
            began = time.perf_counter()
            await bench.send(session_id, {"type": "user.interrupt"})
            await watcher.until_idle(times=idle + 1)
            found.append((time.perf_counter() - began) * 1000)
    return [figure("interrupt POST → idle, a command runs", found)]


async def failover(bench: Bench, times: int) -> list[Figure]:
    """From kill -9 of the brain to the next event of a session whose command runs."""
    found: list[float] = []
    for _ in range(max(5, times // 10)):
        session_id = await bench.session(provider="namespace")
        async with Watcher(bench.stack.url, bench.stack.api_key, session_id) as watcher:
            await watcher.until(lambda w: w.connections > 0)
            await _run_forever(bench, watcher, session_id)
            await asyncio.sleep(_SOUND_SECONDS)
            seen, began = len(watcher.events), time.perf_counter()
            os.kill(bench.stack.parts()["brain"], signal.SIGKILL)
            await watcher.until(lambda w, before=seen: len(w.events) > before)
            found.append(time.perf_counter() - began)
            await bench.stack.ready_again()
            await bench.send(session_id, {"type": "user.interrupt"})
            await watcher.until_idle()
    return [figure("kill -9 of the brain → next event", found, unit="s", goal="≤ 3 p50")]


async def stopping(bench: Bench, times: int) -> list[Figure]:
    """`POST /v1/live/stop` of a session whose command reads an endless answer: until all is proven ended."""
    found: list[float] = []
    networking = {"type": "limited", "allowed_hosts": [ENDLESS_HOST]}
    for _ in range(max(5, times // 5)):
        session_id = await bench.session(provider="namespace", networking=networking)
        async with Watcher(bench.stack.url, bench.stack.api_key, session_id) as watcher:
            await watcher.until(lambda w: w.connections > 0)
            await bench.start(session_id, "sandbox_execute", command=f"curl -sSN http://{ENDLESS_HOST}/ | tail -c 1")
            await _until_alive(bench, session_id, {"turn", "command", "sandbox", "stream"})
            began = time.perf_counter()
            answer = await bench.post("/v1/live/stop", {"session_id": session_id, "wait_seconds": 10})
            found.append((time.perf_counter() - began) * 1000)
            assert answer["unproven"] == 0, answer
            await watcher.until_idle()
    return [figure("POST /v1/live/stop → command, egress proven ended", found, goal="≤ 2000")]


async def _run_forever(bench: Bench, watcher: Watcher, session_id: str) -> None:
    uses = watcher.types.count("agent.tool_use")
    await bench.start(session_id, "sandbox_execute", command="sleep 600")
    await watcher.until(lambda w: w.types.count("agent.tool_use") > uses)
    await _until_alive(bench, session_id, {"turn", "command", "sandbox"})
    await asyncio.sleep(0.3)


async def _until_alive(bench: Bench, session_id: str, kinds: set[str]) -> None:
    async with asyncio.timeout(30):
        while not kinds <= {each["kind"] for each in await bench.live(session_id)}:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@asynccontextmanager
async def _store(stack: Stack) -> AsyncGenerator[Database]:
    database = Database(environment_of(stack.parts()["api"])["BULKHEAD_DATABASE_URL"])
    await database.open()
    try:
        yield database
    finally:
        await database.close()
