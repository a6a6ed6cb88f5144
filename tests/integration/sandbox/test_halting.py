"""A sandbox that a person has stopped runs nothing more, at whatever point of its life the order comes."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import suppress

import psutil
import psycopg
import pytest

from controlplane.store import live
from controlplane.store.line import CHANNEL as POLICY
from controlplane.store.pool import one
from controlplane.store.sandboxes import HALTED, PostgresSandboxes
from sandbox.contract import SandboxError
from sandbox.records import Kind, SandboxRow
from tests.support.house import HERE, WORKSPACE, Hands, House, Open


@pytest.fixture
async def told(database_url: str) -> AsyncGenerator[set[str]]:
    """What has been notified of policies and of halted sandboxes."""
    heard: set[str] = set()
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        for channel in (POLICY, HALTED):
            await connection.execute(f"LISTEN {channel}".encode())

        async def hear() -> None:
            async for notification in connection.notifies():
                heard.add(f"{notification.channel} {notification.payload}")

        hearing = asyncio.create_task(hear())
        yield heard
        hearing.cancel()


async def halt(house: House) -> None:
    async with house.database.transaction(WORKSPACE) as connection:
        things = await live.listing(connection, live.LiveFilter(session_id=house.session_id), limit=10)
        await live.stop(connection, [each for each in things if each.kind == "sandbox"])


async def newest(house: House) -> dict[str, str]:
    async with house.database.transaction(WORKSPACE) as connection:
        found = await one(
            connection,
            "SELECT id, status, end_reason FROM sandboxes WHERE session_id = %(id)s ORDER BY generation DESC LIMIT 1",
            {"id": house.session_id},
        )
    return found or {"status": "none"}


async def begun(house: House) -> SandboxRow:
    """The row of a sandbox whose worker died before it was ready."""
    records = PostgresSandboxes(house.database)
    wish = await records.wish(WORKSPACE, house.session_id)
    kind = Kind(provider="namespace", image_digest="x", spec=wish.spec, way_out=False)
    return await records.claim(WORKSPACE, house.session_id, kind=kind, host=HERE, tool_use_id="sevt_dead")


async def test_what_was_to_run_in_a_sandbox_halted_while_it_is_made_is_not_run(hands: Hands) -> None:
    house = hands.house
    first, second = await hands.dispatch("echo one"), await hands.dispatch("echo two")
    running = asyncio.gather(hands.run(first), hands.run(second))
    while (await newest(house))["status"] != "creating":  # noqa: ASYNC110 - of another's transaction
        await asyncio.sleep(0.001)
    await halt(house)
    for state, said in await running:
        assert (state, said) == (
            "refused",
            "Not run: its sandbox was stopped by a person before it was started.",
        )
    assert (await newest(house))["status"] == "ended"
    assert await house.provider.list_ids() == []
    later = await hands.dispatch("echo three")
    state, said = await hands.run(later)
    assert state == "confirmed"
    assert said.endswith("three")


async def test_a_call_that_meets_a_halted_sandbox_is_not_run_in_the_next(hands: Hands) -> None:
    house = hands.house
    await hands.run(await hands.dispatch("echo kept > file"))
    row = await house.ensure()
    before = await hands.dispatch("cat file")
    async with house.database.transaction(WORKSPACE) as connection:
        await connection.execute("UPDATE tool_calls SET sandbox_id = %s WHERE id = %s", (row.id, before.tool_use_id))
    await halt(house)
    await house.keeper.provider(row).stop(row.id)
    assert (await hands.run(before))[0] == "refused"
    state, said = await hands.run(await hands.dispatch("cat file"))
    assert (state, said.endswith("kept")) == ("confirmed", True)


async def test_what_is_being_put_away_is_halted_all_the_same(house: House, told: set[str]) -> None:
    row = await house.ensure()
    await house.execute("UPDATE sandboxes SET status = 'retiring', end_reason = 'idle'")
    await halt(house)
    async with asyncio.timeout(5):
        while len(told) < 2:  # noqa: ASYNC110 - a notification comes when it comes
            await asyncio.sleep(0.01)
    assert told == {f"{POLICY} sandbox {row.id}", f"{HALTED} {HERE}"}


async def test_a_halted_sandbox_that_was_never_ready_does_not_replace_what_was_kept(open_house: Open) -> None:
    house = open_house()
    await house.run("echo kept > file")
    await house.age()
    await house.sandboxes.reaper.reap()
    row = await begun(house)
    provider = house.keeper.provider(row)
    await provider.provision(row.id, (await PostgresSandboxes(house.database).wish(WORKSPACE, row.session_id)).spec)
    house = open_house()  # the worker is started again
    await halt(house)
    await house.sandboxes.reaper.reap()
    assert await provider.list_ids() == []
    assert (await house.run("cat file")).stdout == "kept\n"


async def test_a_sandbox_that_was_never_ready_ends_with_its_deadline(house: House) -> None:
    await begun(house)
    await house.sandboxes.reaper.reap()
    assert (await newest(house))["status"] == "creating"
    await house.execute("UPDATE sandboxes SET expires_at = now() - interval '1 second'")
    await house.sandboxes.reaper.reap()
    assert (await newest(house))["status"] == "ended"


async def test_a_sandbox_that_ended_while_it_was_made_is_not_called_ready(house: House) -> None:
    row = await begun(house)
    await house.execute("UPDATE sandboxes SET status = 'ended', end_reason = 'archived'")
    with pytest.raises(SandboxError, match="was ended while it was made"):
        await PostgresSandboxes(house.database).ready(row, row.details)


async def test_a_stop_does_not_wait_for_the_files_of_another_sandbox(open_house: Open) -> None:
    house, other = open_house(), open_house(session=1)
    supervisor = await _supervisor(house)
    await house.execute("UPDATE sandboxes SET status = 'retiring', end_reason = 'idle'")
    wanted = await other.ensure()
    reaping = asyncio.create_task(house.sandboxes.reaper.run(every_seconds=0.2))
    try:
        supervisor.suspend()
        await asyncio.sleep(1)  # its files are asked for; they do not come
        await halt(other)
        house.sandboxes.reaper.hurry()
        async with asyncio.timeout(20):
            while (await newest(other))["status"] != "ended":  # noqa: ASYNC110 - of another's transaction
                await asyncio.sleep(0.05)
            while wanted.id in await other.keeper.provider(wanted).list_ids():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
        assert (await newest(house))["status"] == "retiring"
    finally:
        supervisor.resume()
        reaping.cancel()
        await asyncio.wait([reaping])


async def _supervisor(house: House) -> psutil.Process:
    """Process 1 of the session's sandbox, as this host sees it: the parent of a command's keeper."""
    asleep = ["sleep", f"6{os.getpid()}"]
    await house.run(f"{' '.join(asleep)} &")
    for each in psutil.process_iter():
        with suppress(psutil.Error):
            if each.cmdline() == asleep and (keeper := each.parent()) and (supervisor := keeper.parent()):
                return supervisor
    raise AssertionError(f"{asleep} does not run")
