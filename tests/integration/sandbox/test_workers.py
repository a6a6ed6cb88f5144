"""Several sandbox workers that are one host: they keep out of one another's way, and one goes on for another."""

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from controlplane.store.exclusion import PostgresExclusion
from controlplane.store.lasting import GONE_SECONDS
from controlplane.store.pool import Database
from sandbox.contract import SandboxError
from tests.support.house import ON_PODS_TOO, WORKSPACE, House, Open

_HOLDS = """
import asyncio, sys
from controlplane.store.exclusion import PostgresExclusion

async def main():
    async with PostgresExclusion(sys.argv[1]).hold(sys.argv[2]):
        print("held", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""
_PATIENCE = 20.0


async def _ensured(house: House, call: int) -> str:
    row = await house.keeper.ensure(WORKSPACE, house.session_id, tool_use_id=f"sevt_{id(house)}_{call}")
    return row.id


@ON_PODS_TOO
async def test_many_calls_at_two_workers_make_one_sandbox(open_house: Open) -> None:
    first, second = open_house(), open_house()
    ids = await asyncio.gather(*(_ensured(house, call) for call in range(25) for house in (first, second)))
    assert len(set(ids)) == 1
    assert await first.provider.list_ids() == [ids[0]]
    assert await first.count("sandboxes") == 1


@ON_PODS_TOO
async def test_what_one_worker_puts_away_the_other_finds_again(open_house: Open) -> None:
    first, second = open_house(), open_house()
    await first.run("echo kept > /workspace/file")
    await first.age()
    reaping = asyncio.gather(first.sandboxes.reaper.reap(), second.sandboxes.reaper.reap())
    found = await asyncio.gather(*(house.run("cat /workspace/file") for house in (second, first, second)))
    await reaping
    assert {each.stdout for each in found} == {"kept\n"}
    live = await first.provider.list_ids()
    assert len(live) == 1
    assert (await second.run("cat /workspace/file")).stdout == "kept\n"


@ON_PODS_TOO
async def test_no_reaper_takes_what_another_worker_is_making(open_house: Open) -> None:
    first, second = open_house(), open_house()
    stop = asyncio.Event()

    async def reap() -> None:
        while not stop.is_set():
            await second.sandboxes.reaper.reap()

    reaping = asyncio.create_task(reap())
    for round_ in range(3):
        assert (await first.run(f"echo {round_}")).stdout == f"{round_}\n"
        await first.age()
        await second.sandboxes.reaper.reap()
    stop.set()
    await reaping


async def test_what_a_killed_worker_held_is_free(database: Database, open_house: Open) -> None:
    house = open_house()
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _HOLDS, database.url, house.session_id, stdout=asyncio.subprocess.PIPE
    )
    assert other.stdout is not None
    assert await asyncio.wait_for(other.stdout.readline(), _PATIENCE) == b"held\n"
    waiting = asyncio.create_task(_ensured(house, 1))
    await asyncio.sleep(1)
    assert not waiting.done()
    other.send_signal(signal.SIGKILL)
    await other.wait()
    async with asyncio.timeout(_PATIENCE):
        assert (await waiting).startswith("sbx_")


async def test_of_two_workers_one_at_a_time_is_within(database: Database) -> None:
    within: list[str] = []
    several = [PostgresExclusion(database.url) for _ in range(3)]

    async def enter(exclusion: PostgresExclusion) -> None:
        async with exclusion.hold("sesn_a"):
            within.append("in")
            assert len(within) == 1
            await asyncio.sleep(0.005)
            within.remove("in")

    await asyncio.gather(*(enter(exclusion) for exclusion in several for _ in range(8)))
    async with several[0].hold("sesn_a"), several[1].hold("sesn_b"):
        pass
    for each in several:
        await each.close()


async def test_who_has_lost_its_lock_does_not_go_on(database: Database) -> None:
    exclusion, other = PostgresExclusion(database.url), PostgresExclusion(database.url)
    went_on = False
    with pytest.raises(SandboxError) as caught:
        async with exclusion.hold("sesn_a"):
            async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as administrator:
                await administrator.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = 7102"
                )
            await asyncio.sleep(_PATIENCE)
            went_on = True
    assert caught.value.code == "engine_away"
    assert not went_on
    async with asyncio.timeout(_PATIENCE):
        async with other.hold("sesn_a"):
            pass
        async with exclusion.hold("sesn_a"):
            pass
    await exclusion.close()
    await other.close()


async def test_who_hears_nothing_of_its_lock_does_not_go_on(database: Database, tmp_path: Path) -> None:
    there = conninfo_to_dict(database.url)
    speaks = asyncio.Event()
    speaks.set()

    async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.closing(sink), contextlib.suppress(ConnectionError):
            while piece := await source.read(1 << 16):
                await speaks.wait()
                sink.write(piece)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs = await asyncio.open_unix_connection(f"{there['host']}/.s.PGSQL.5432")
        await asyncio.gather(pass_on(reader, theirs[1]), pass_on(theirs[0], writer))

    exclusion = PostgresExclusion(make_conninfo(database.url, host=str(tmp_path)))
    went_on = False
    async with await asyncio.start_unix_server(serve, tmp_path / ".s.PGSQL.5432"):
        with pytest.raises(SandboxError) as caught:
            async with exclusion.hold("sesn_a"):
                speaks.clear()
                await asyncio.sleep(GONE_SECONDS - 1)
                went_on = True
        assert caught.value.code == "engine_away"
        assert not went_on
        speaks.set()
        async with asyncio.timeout(_PATIENCE), exclusion.hold("sesn_a"):
            pass
        await exclusion.close()


async def test_who_leaves_while_waiting_leaves_no_lock_behind(database: Database) -> None:
    exclusion, other = PostgresExclusion(database.url), PostgresExclusion(database.url)

    async def enter() -> None:
        async with exclusion.hold("sesn_a"):
            await asyncio.sleep(_PATIENCE)

    for delay in (0.0, 0.001, 0.002, 0.005, 0.01, 0.05):
        entering = asyncio.create_task(enter())
        await asyncio.sleep(delay)
        entering.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await entering
        async with asyncio.timeout(_PATIENCE), other.hold("sesn_a"):
            pass
    await exclusion.close()
    await other.close()
