"""Which sandbox a session has, with real rows and real sandboxes: put away, restored, lost, claimed warm, reaped."""

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress

import pytest

from controlplane.store.checkpoints import PostgresCheckpoints
from controlplane.store.clearing import clearing
from controlplane.store.pool import ALL_WORKSPACES, one
from sandbox.contract import SandboxError
from sandbox.records import SandboxRow
from tests.support.house import HERE, ON_PODS_TOO, THERE, WORKSPACE, House, Open
from tests.support.sandboxes import SMALL
from workflows.outcomes import opening_receipt


async def _ids(house: House) -> list[str]:
    return await house.provider.list_ids()


WORK = (
    "mkdir -p /workspace/deep/er /mnt/session/outputs; echo kept > /workspace/deep/er/file; ln -s deep/er/file link;"
    " echo result > /mnt/session/outputs/report; echo scratch > /tmp/scratch; chmod 755 deep/er/file"
)
LOOK = "cat link /mnt/session/outputs/report; stat -c %a deep/er/file; test -e /tmp/scratch || echo no scratch"


@ON_PODS_TOO
async def test_an_idle_sandbox_is_put_away_and_its_folders_come_back_with_a_receipt(house: House) -> None:
    first = await house.ensure()
    await house.run(WORK)
    await house.age()
    await house.sandboxes.reaper.reap()
    assert await _ids(house) == []

    said = await house.receipt()
    assert "put away after a while without use" in said
    assert re.search(
        r"Restored as of \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC: /workspace \(\d+ entries, \d+ bytes\)", said
    )
    assert "Not restored: processes, and files outside of these folders (/tmp, the home folder)" in said
    assert (await house.run(LOOK)).stdout == "kept\nresult\n755\nno scratch\n"
    second = await house.ensure()
    assert (second.generation, first.generation) == (2, 1)
    assert opening_receipt(house.call, second) == ""


async def test_the_receipt_is_told_to_the_same_call_again_after_a_crash_and_to_no_other(house: House) -> None:
    await house.run(WORK)
    await house.age()
    await house.sandboxes.reaper.reap()
    row = await house.ensure()
    opener = house.call
    other = await house.ensure()
    again = await house.keeper.holding(WORKSPACE, house.session_id, row.id, tool_use_id=opener)
    assert again is not None
    assert opening_receipt(opener, again) != ""
    assert opening_receipt(house.call, other) == ""


async def test_a_sandbox_that_is_used_is_left_alone(house: House) -> None:
    row = await house.ensure()
    await house.sandboxes.reaper.reap()
    assert (await house.ensure()).id == row.id


async def _marked(house: House, row: SandboxRow) -> None:
    """Killed after the row said so."""
    await house.execute("UPDATE sandboxes SET status = 'retiring', end_reason = 'idle'")


async def _stopped(house: House, row: SandboxRow) -> None:
    """Killed after the commands were ended."""
    await _marked(house, row)
    await house.keeper.provider(row).stop(row.id)


async def _half_written(house: House, row: SandboxRow) -> None:
    """Killed while pieces were written."""
    await _stopped(house, row)
    records = PostgresCheckpoints(house.database)
    checkpoint = await records.begin(row)
    await records.add(row, checkpoint, folder="/workspace", ordinal=0, content=b"half")


async def _not_destroyed(house: House, row: SandboxRow) -> None:
    """Killed between the checkpoint and the sandbox's end."""
    await _stopped(house, row)
    await house.sandboxes.checkpoints.take(row, house.keeper.provider(row))


@pytest.mark.parametrize("killed", [_marked, _stopped, _half_written, _not_destroyed])
@pytest.mark.parametrize("found_by", ["the next call", "the reaper"])
async def test_a_worker_that_dies_while_putting_a_sandbox_away_loses_nothing(
    open_house: Open, killed: Callable[[House, SandboxRow], "asyncio.Future[None]"], found_by: str
) -> None:
    house = open_house()
    await house.run(WORK)
    row = await house.ensure()
    await killed(house, row)
    house = open_house()  # the worker is started again
    if found_by == "the reaper":
        await house.sandboxes.reaper.reap()
        assert await _ids(house) == []
    assert (await house.run(LOOK)).stdout == "kept\nresult\n755\nno scratch\n"
    await house.sandboxes.reaper.reap()
    assert len(await _ids(house)) == 1
    assert await house.count("checkpoints") == 1


async def test_of_a_lost_sandbox_nothing_is_kept_in_the_worker(open_house: Open) -> None:
    house = open_house()
    row = await house.ensure()
    await open_house().provider.destroy(row.id)
    again = await house.ensure()
    kept = vars(house.provider)
    assert again.id != row.id
    assert (set(kept["_channels"]), set(kept["_opening"])) == ({again.id}, {again.id})


async def test_what_changed_after_the_checkpoint_of_a_lost_sandbox_is_said_to_be_gone(house: House) -> None:
    await house.run("echo old > kept; true")
    await house.age()
    await house.sandboxes.reaper.reap()
    await house.run("echo new > kept; true")
    row = await house.ensure()
    await house.keeper.provider(row).destroy(row.id)
    said = await house.receipt()
    assert "the one before it was lost" in said
    assert "What changed after that is gone" in said
    assert (await house.run("cat kept")).stdout == "old\n"


async def test_of_a_sandbox_that_is_lost_before_its_first_checkpoint_nothing_is_promised(house: House) -> None:
    row = await house.ensure()
    await house.keeper.provider(row).destroy(row.id)
    said = await house.receipt()
    assert "was lost. Nothing of it was kept: its files and processes are gone" in said


async def test_a_checkpoint_is_bounded_and_names_what_it_lacks(open_house: Open) -> None:
    house = open_house(checkpoint_mb=1)
    await house.run("head -c 4000000 /dev/urandom > big; echo small > z-small")
    await house.age()
    await house.sandboxes.reaper.reap()
    said = await house.receipt()
    assert "Not kept of /workspace: big" in said
    assert (await house.run("ls; cat z-small")).stdout == "z-small\nsmall\n"


async def test_a_session_has_one_checkpoint_and_none_once_it_is_archived(house: House) -> None:
    for _ in range(2):
        await house.run("date > now")
        await house.age()
        await house.sandboxes.reaper.reap()
    assert await house.count("checkpoints") == 1
    await house.ensure()
    await house.execute("UPDATE sessions SET archived_at = now()")
    await house.sandboxes.reaper.reap()
    assert await _ids(house) == []


async def test_a_condemned_sandbox_is_replaced_with_its_files(house: House) -> None:
    await house.run(WORK)
    row = await house.ensure()
    condemned = await house.keeper.condemn(row)
    assert condemned is not None
    await house.keeper.put_away(condemned)
    assert "left processes that could not be ended" in await house.receipt()
    assert (await house.run("cat link")).stdout == "kept\n"


async def test_a_deadline_moves_with_use(house: House) -> None:
    await house.ensure()
    await house.execute("UPDATE sandboxes SET expires_at = now() + interval '90 seconds'")
    row = await house.ensure()
    await house.keeper.outlast(row, seconds=3600)
    later = await house.ensure()
    assert (later.expires_at - row.expires_at).total_seconds() > 3600


@ON_PODS_TOO
async def test_a_sandbox_is_claimed_warm_once(open_house: Open) -> None:
    house, other = open_house(warm_sandboxes=1), open_house(warm_sandboxes=1, session=1)
    other.keeper, other.sandboxes = house.keeper, house.sandboxes
    assert (await house.ensure()).details.source == "cold"
    await house.sandboxes.pool.fill()
    await house.sandboxes.pool.fill()
    await house.sandboxes.reaper.reap()  # what waits has a row, and is no orphan
    assert len(await _ids(house)) == 2

    warm = await other.ensure()
    assert warm.details.source == "warm"
    assert (await other.run("ls -A /workspace")).stdout == ""
    assert await house.count("warm_sandboxes") == 0
    await house.sandboxes.reaper.reap()
    assert (await other.ensure()).id == warm.id


async def test_two_sessions_never_claim_the_same_sandbox(open_house: Open) -> None:
    house, other = open_house(warm_sandboxes=2), open_house(warm_sandboxes=2, session=1)
    other.keeper, other.sandboxes = house.keeper, house.sandboxes
    await house.ensure()
    await house.sandboxes.pool.fill()
    await house.execute("UPDATE sandboxes SET status = 'ended', end_reason = 'lost'")
    one_row, other_row = await asyncio.gather(house.ensure(), other.ensure())
    assert {one_row.details.source, other_row.details.source} == {"warm"}
    assert one_row.id != other_row.id


async def test_a_sandbox_of_another_kind_is_not_claimed(open_house: Open) -> None:
    house, other = open_house(warm_sandboxes=1), open_house(warm_sandboxes=1, session=1)
    other.keeper, other.sandboxes = house.keeper, house.sandboxes
    await house.ensure()
    await house.sandboxes.pool.fill()
    await house.execute("""UPDATE environments SET config = config || '{"memory_mb": 256}'""")
    assert (await other.ensure()).details.source == "cold"


@ON_PODS_TOO
async def test_a_warm_sandbox_that_has_died_is_replaced_by_a_cold_one(open_house: Open) -> None:
    house, other = open_house(warm_sandboxes=1), open_house(warm_sandboxes=1, session=1)
    other.keeper, other.sandboxes = house.keeper, house.sandboxes
    row = await house.ensure()
    await house.sandboxes.pool.fill()
    warm_id = next(iter(set(await _ids(house)) - {row.id}))
    # Its process 1 is gone and its folder still there, as after its deadline.
    await house.provider.renew(warm_id, 0)
    found = await other.ensure()
    assert (found.details.source, found.id == warm_id) == ("cold", False)
    assert (await other.run("echo works")).stdout == "works\n"


@ON_PODS_TOO
async def test_what_has_no_row_is_reaped(house: House) -> None:
    row = await house.ensure()
    await house.execute("DELETE FROM sessions")
    await house.sandboxes.reaper.reap()
    assert row.id not in await _ids(house)


async def test_what_becomes_ready_while_the_reaper_looks_is_not_lost(open_house: Open) -> None:
    house = open_house()
    provider = house.provider
    for number in range(6):  # orphans: what ends them is the time in which the sandbox becomes ready
        await provider.provision(f"sbx_orphan{number}", SMALL)
    reaping = asyncio.create_task(house.sandboxes.reaper.reap())
    row = await house.ensure()
    await reaping
    assert await _ids(house) == [row.id]
    assert (await house.ensure()).id == row.id


async def test_a_sandbox_on_another_living_host_is_not_taken_over(open_house: Open) -> None:
    here, there = open_house(HERE), open_house(THERE)
    await there.run("echo work > file")
    await here.execute(
        f"INSERT INTO workers (id, kind, host, pid) VALUES ('w', 'sandbox', '{THERE}', 1)"  # noqa: S608
    )
    with pytest.raises(SandboxError) as caught:
        await here.ensure()
    assert caught.value.code == "wrong_host"


async def test_the_checkpoint_of_a_host_that_is_gone_is_restored_on_another(open_house: Open) -> None:
    here, there = open_house(HERE), open_house(THERE)
    await there.run(WORK)
    await there.age()
    await there.sandboxes.reaper.reap()
    assert (await here.run(LOOK)).stdout == "kept\nresult\n755\nno scratch\n"
    assert (await here.ensure()).host == HERE


async def test_the_sandbox_of_a_host_that_died_is_lost_and_its_last_checkpoint_restored(open_house: Open) -> None:
    here, there = open_house(HERE), open_house(THERE)
    await there.run("echo first > file")
    await there.age()
    await there.sandboxes.reaper.reap()
    await there.run("echo second > file")  # and then the host is gone
    assert "was lost" in await here.receipt()
    assert (await here.run("cat file")).stdout == "first\n"


async def test_putting_all_away_keeps_every_session(open_house: Open) -> None:
    house, other = open_house(), open_house(session=1)
    other.keeper, other.sandboxes = house.keeper, house.sandboxes
    await house.run("echo one > file")
    await other.run("echo two > file")
    assert await house.keeper.put_all_away("stopped") == (2, 0)
    assert await _ids(house) == []
    assert (await house.run("cat file")).stdout == "one\n"
    assert (await other.run("cat file")).stdout == "two\n"
    async with house.database.transaction(ALL_WORKSPACES) as connection:
        assert await one(connection, "SELECT FROM sandboxes WHERE end_reason = 'stopped' LIMIT 1", {}) is not None


async def test_nothing_begins_while_all_sandboxes_are_ended(open_house: Open) -> None:
    house, other, elsewhere = open_house(warm_sandboxes=1), open_house(session=1), open_house(THERE, session=1)
    row = await house.ensure()
    async with clearing(house.database.url, HERE):
        await house.sandboxes.pool.fill()
        assert await house.count("warm_sandboxes") == 0
        with pytest.raises(SandboxError, match="being ended") as refused:
            await other.ensure()
        assert refused.value.code == "engine_away", "which is tried again"
        assert (await house.ensure()).id == row.id
        assert (await elsewhere.ensure()).status == "ready"
    await house.sandboxes.pool.fill()
    assert await house.count("warm_sandboxes") == 1


async def test_clearing_ends_all_while_sessions_ask_for_more(open_house: Open) -> None:
    house, other = open_house(), open_house(session=1)
    await house.run("echo kept > /workspace/file")

    async def asks() -> None:
        while True:
            with suppress(SandboxError):
                await other.ensure()
            await asyncio.sleep(0)

    asking = asyncio.create_task(asks())
    try:
        cleared = await house.sandboxes.clear()
        assert (cleared.left, cleared.kept >= 1) == ({}, True)
    finally:
        asking.cancel()
        await asyncio.wait([asking])
    assert (await house.run("cat /workspace/file")).stdout == "kept\n"
