"""Memory as files, where edits meet others and workers die."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import pytest

from controlplane.memory import edits
from controlplane.memory.preparing import Draft, Prepared, unavailable
from controlplane.store import memory_stores, memory_versions
from controlplane.store.memories import MAX_CONTENT_BYTES, sha256
from controlplane.store.memory_vectors import Vector
from controlplane.store.pool import ALL_WORKSPACES, one
from sandbox.contract import SandboxError
from tests.support.house import Hands, House
from tests.support.memory import Mind

pytestmark = pytest.mark.slow

FILE = "/mnt/memory/notes/plan.md"


async def _empty() -> AsyncIterator[bytes]:
    yield b""


async def _wait_for(hands: Hands, path: str, *, holding: bytes = b"") -> None:
    row = await hands.house.ensure()
    provider = hands.house.keeper.provider(row)
    while True:
        with suppress(SandboxError):
            if b"".join([piece async for piece in provider.read_file(row.id, path)]).startswith(holding):
                return
        await asyncio.sleep(0.01)


async def _release(hands: Hands) -> None:
    row = await hands.house.ensure()
    await hands.house.keeper.provider(row).write_file(row.id, "/workspace/go", _empty())


async def test_an_edit_beside_another_is_kept_and_so_is_the_other(mind: Mind, hands: Hands):
    store = await mind.store()
    memory = await mind.save(store, "/plan.md", "one")
    await mind.attach(hands.house.session_id, store)
    call = await hands.dispatch(f"touch begun; until [ -e go ]; do sleep 0.02; done; echo mine > {FILE}")
    running = asyncio.create_task(hands.run(call))
    await _wait_for(hands, "/workspace/begun")
    await mind.overwrite(memory, "theirs")
    await _release(hands)
    _, said = await running
    assert "both are kept" in said
    conflict = edits.conflict_path("/plan.md", sha256("mine\n"))
    assert await mind.contents(store) == {"/plan.md": "theirs", conflict: "mine\n"}
    _, said = await hands.run(await hands.dispatch(f"cat {FILE}"))
    assert said == "theirs"


async def test_what_was_changed_elsewhere_is_not_deleted(mind: Mind, hands: Hands):
    store = await mind.store()
    memory = await mind.save(store, "/plan.md", "one")
    await mind.attach(hands.house.session_id, store)
    call = await hands.dispatch(f"touch begun; until [ -e go ]; do sleep 0.02; done; rm {FILE}")
    running = asyncio.create_task(hands.run(call))
    await _wait_for(hands, "/workspace/begun")
    await mind.overwrite(memory, "theirs")
    await _release(hands)
    _, said = await running
    assert "not deleted" in said
    assert await mind.contents(store) == {"/plan.md": "theirs"}


async def test_a_command_whose_worker_died_is_saved_once(mind: Mind, hands: Hands):
    store = await mind.store()
    await mind.attach(hands.house.session_id, store)
    call = await hands.dispatch(f"touch begun; until [ -e go ]; do sleep 0.02; done; echo mine > {FILE}")
    running = asyncio.create_task(hands.run(call))
    await _wait_for(hands, "/workspace/begun")
    running.cancel()
    await asyncio.wait([running])
    await _release(hands)
    _, said = await Hands(hands.house, worker_id="wrk_next").run(call)
    assert "saved as version 1" in said
    assert await mind.contents(store) == {"/plan.md": "mine\n"}
    await hands.run(await hands.dispatch("true"))
    assert await mind.count("memory_versions") == 1


async def test_what_went_on_in_the_background_is_saved_before_the_next_command(mind: Mind, hands: Hands):
    store = await mind.store()
    await mind.attach(hands.house.session_id, store)
    await hands.run(await hands.dispatch(f"(until [ -e go ]; do sleep 0.02; done; echo late > {FILE}; touch done) &"))
    await _release(hands)
    await _wait_for(hands, "/workspace/done")
    _, said = await hands.run(await hands.dispatch("true"))
    assert "saved as version 1" in said
    assert await mind.contents(store) == {"/plan.md": "late\n"}


async def _said(hands: Hands, command: str) -> str:
    _, said = await hands.run(await hands.dispatch(command))
    return said


async def test_odd_names_come_back_as_they_were(mind: Mind, hands: Hands):
    store = await mind.store()
    kept = {
        "/.bulkhead-x.md": "dot",
        "/a\\b.md": "one",
        "/c\"'d $(e) *.md": "quoted",
        "/f\\\\g\\": "two",
        "/- ü": "x",
    }
    for path, content in kept.items():
        await mind.save(store, path, content)
    await mind.attach(hands.house.session_id, store)
    assert "memory" not in await _said(hands, "true")
    assert await mind.contents(store) == kept
    said = await _said(hands, "cd /mnt/memory/notes; printf 2 > 'a\\b.md'; rm .bulkhead-x.md; printf n > 'n\\w'")
    assert "a\\b.md is saved as version 2" in said and ".bulkhead-x.md is deleted" in said
    del kept["/.bulkhead-x.md"]
    assert await mind.contents(store) == {**kept, "/a\\b.md": "2", "/n\\w": "n"}


@pytest.mark.parametrize(
    ("closed", "named"), [("plan.md", "notes/plan.md"), ("in", "./notes/in"), (".", "./notes"), ("..", "/mnt/memory")]
)
async def test_what_cannot_be_read_is_not_deleted(mind: Mind, hands: Hands, closed: str, named: str):
    store = await mind.store()
    for path in ("/plan.md", "/in/a.md", "/gone.md"):
        await mind.save(store, path, path)
    await mind.attach(hands.house.session_id, store)
    said = await _said(hands, f"cd /mnt/memory/notes; rm gone.md; echo new > new.md; chmod 000 {closed}")
    left = await mind.contents(store)
    assert {"/plan.md", "/in/a.md"} <= set(left), said
    assert "could not be" in said and named in said
    said = await _said(hands, f"chmod 755 /mnt/memory /mnt/memory/notes; cd /mnt/memory/notes; chmod 755 {closed}")
    assert "could not be" not in said
    assert await mind.contents(store) == {"/in/a.md": "/in/a.md", "/new.md": "new\n", "/plan.md": "/plan.md"}


async def test_a_file_that_cannot_be_removed_makes_no_new_memory(mind: Mind, hands: Hands):
    store = await mind.store()
    memory = await mind.save(store, "/in/a.md", "a")
    await mind.attach(hands.house.session_id, store)
    await _said(hands, "chmod 555 /mnt/memory/notes/in")
    await mind.delete(memory)
    assert "cannot be removed" in await _said(hands, "true")
    assert await mind.contents(store) == {}
    await _said(hands, "chmod 755 /mnt/memory/notes/in")
    await _said(hands, "true")
    assert await _said(hands, "ls /mnt/memory/notes/in") == "(no output)"
    assert await mind.contents(store) == {}


async def test_a_full_folder_keeps_no_command_from_running(mind: Mind, hands: Hands):
    store = await mind.store()
    memory = await mind.save(store, "/plan.md", "one")
    await mind.attach(hands.house.session_id, store)
    await _said(hands, "head -c 100000000 /dev/zero > /mnt/memory/filler")
    memory = await mind.overwrite(memory, "two " * 5_000)
    said = await _said(hands, f"echo ran; cat {FILE}")
    assert said.startswith("ran\none")
    assert "could not be brought up to date" in said and "No space left on device" in said
    await _said(hands, "rm /mnt/memory/filler")
    said = await _said(hands, f"cat {FILE}")
    assert "two two" in said and "[memory]" not in said
    assert (await mind.read(store, "/plan.md")).version == memory.version


async def _detach(mind: Mind, session_id: str) -> None:
    async with mind.database.transaction(mind.workspace_id) as connection:
        await connection.execute("DELETE FROM session_resources WHERE session_id = %s", (session_id,))


@pytest.mark.parametrize("deleted", [False, True])
async def test_no_file_of_a_store_gets_into_the_next_one_of_its_name(mind: Mind, hands: Hands, *, deleted: bool):
    private, shared = await mind.store(), await mind.store()
    await mind.save(private, "/private.md", "ada's")
    await mind.attach(hands.house.session_id, private)
    await _said(
        hands, "mkdir /mnt/memory/notes/y; echo ada > /mnt/memory/notes/y/own.md; chmod 555 /mnt/memory/notes/y"
    )
    if deleted:
        async with mind.database.transaction(mind.workspace_id) as connection:
            await memory_stores.delete(connection, private.id)
    else:
        await _detach(mind, hands.house.session_id)
    await mind.attach(hands.house.session_id, shared)
    await mind.save(shared, "/ours.md", "ours")
    said = await _said(hands, "cd /mnt/memory/notes; find . -type f; echo new > new.md")
    assert "private" not in said and "own.md" not in said and "ours.md" in said
    assert await mind.contents(shared) == {"/ours.md": "ours", "/new.md": "new\n"}
    if not deleted:
        assert await mind.contents(private) == {"/private.md": "ada's", "/y/own.md": "ada\n"}


async def test_what_is_attached_while_a_command_runs_gets_nothing_of_it(mind: Mind, hands: Hands):
    private, shared = await mind.store(), await mind.store()
    await mind.attach(hands.house.session_id, private)
    call = await hands.dispatch(f"touch begun; until [ -e go ]; do sleep 0.02; done; echo mine > {FILE}")
    running = asyncio.create_task(hands.run(call))
    await _wait_for(hands, "/workspace/begun")
    await _detach(mind, hands.house.session_id)
    await mind.attach(hands.house.session_id, shared)
    await _release(hands)
    await running
    assert await _said(hands, "find /mnt/memory -type f") == "(no output)"
    assert await mind.contents(shared) == await mind.contents(private) == {}


async def test_a_folder_that_cannot_be_emptied_is_no_other_stores(mind: Mind, hands: Hands):
    private, shared = await mind.store(), await mind.store()
    await mind.save(private, "/private.md", "ada's")
    await mind.attach(hands.house.session_id, private)
    await _said(hands, "chmod 555 /mnt/memory")
    await _detach(mind, hands.house.session_id)
    await mind.attach(hands.house.session_id, shared)
    await mind.save(shared, "/ours.md", "ours")
    assert "cannot be removed from /mnt/memory/notes" in await _said(hands, "echo x > /mnt/memory/notes/ours.md")
    assert await mind.contents(shared) == {"/ours.md": "ours"}
    await _said(hands, "chmod 755 /mnt/memory")
    assert await _said(hands, "cat /mnt/memory/notes/ours.md; ls /mnt/memory/notes") == "oursours.md"


async def test_what_is_no_longer_among_the_first_is_not_deleted(mind: Mind, hands: Hands):
    store = await mind.store()
    await mind.fill(store, 161, size_bytes=MAX_CONTENT_BYTES)
    await mind.save(store, "/y/a", "a")
    await mind.save(store, "/z", "z")
    await mind.attach(hands.house.session_id, store)
    await _said(hands, "chmod 555 /mnt/memory/notes/y")
    await mind.fill(store, 3, size_bytes=MAX_CONTENT_BYTES, prefix="/a")
    said = await _said(hands, "true")
    assert "cannot be removed" in said and "deleted" not in said
    assert "deleted" not in await _said(hands, "ls /mnt/memory/notes/z; rm -rf /mnt/memory/notes/y; true")
    assert {"/y/a", "/z"} <= set(await mind.contents(store))


async def test_an_edit_beside_another_is_kept_once_though_many_commands_find_it(mind: Mind, hands: Hands):
    store = await mind.store()
    memory = await mind.save(store, "/plan.md", "one")
    await mind.attach(hands.house.session_id, store)
    waits = "touch begun{}; until [ -e go ]; do sleep 0.02; done; echo mine > {}"
    running = [asyncio.create_task(hands.run(await hands.dispatch(waits.format(n, FILE)))) for n in range(3)]
    for number in range(3):
        await _wait_for(hands, f"/workspace/begun{number}")
    await mind.overwrite(memory, "theirs")
    await _release(hands)
    await asyncio.gather(*running)
    assert sorted((await mind.contents(store)).values()) == ["mine\n", "theirs"]


async def test_an_edit_beside_another_is_kept_under_the_longest_name_and_in_a_full_store(mind: Mind, hands: Hands):
    store = await mind.store(max_memories=2)
    path = f"/{'n' * 245}.md"
    memories = [await mind.save(store, each, "one") for each in (path, "/full.md")]
    await mind.attach(hands.house.session_id, store)
    edit = f"touch begun; until [ -e go ]; do sleep 0.02; done; echo mine > /mnt/memory/notes{path}"
    call = await hands.dispatch(edit)
    running = asyncio.create_task(hands.run(call))
    await _wait_for(hands, "/workspace/begun")
    await mind.overwrite(memories[0], "theirs")
    await _release(hands)
    assert "saved as soon as there is room" in (await running)[1]
    assert "mine" in await _said(hands, f"cat /mnt/memory/notes{path}")
    await mind.delete(memories[1])
    assert "both are kept" in await _said(hands, "true")
    kept = await mind.contents(store)
    assert kept.pop(path) == "theirs"
    assert list(kept.values()) == ["mine\n"]
    assert await _said(hands, f"cat /mnt/memory/notes{path}") == "theirs"


async def test_a_file_that_is_moved_in_a_full_store_is_not_lost(mind: Mind, hands: Hands):
    store = await mind.store(max_memories=1)
    await mind.save(store, "/a.md", "one")
    await mind.attach(hands.house.session_id, store)
    await _said(hands, "cd /mnt/memory/notes; mv a.md b.md")
    assert await mind.contents(store) == {"/b.md": "one"}


async def test_what_a_person_deletes_stays_so_though_a_worker_died_while_it_was_shown(mind: Mind, hands: Hands):
    store = await mind.store()
    await mind.attach(hands.house.session_id, store)
    for attempt in range(4):
        kept = [await mind.save(store, f"/{attempt}-{number}.md", "one") for number in range(8)]
        call = await hands.dispatch("true")
        running = asyncio.create_task(hands.run(call))
        await _wait_for(hands, f"/mnt/memory/notes/{attempt}-{attempt % 8}.md")
        running.cancel()
        await asyncio.wait([running])
        for memory in kept:
            await mind.delete(memory)
        await Hands(hands.house, worker_id="wrk_next").run(call)
        assert await mind.contents(store) == {}, attempt


async def test_what_a_worker_died_over_is_not_taken_back_from_an_older_file(mind: Mind, hands: Hands):
    store = await mind.store()
    memories = [await mind.save(store, f"/{number:02}.md", "one") for number in range(40)]
    await mind.attach(hands.house.session_id, store)
    await _said(hands, "true")
    for attempt in range(2):
        memories = [await mind.overwrite(memory, f"new {attempt}") for memory in memories]
        running = asyncio.create_task(hands.run(await hands.dispatch("true")))
        await _wait_for(hands, "/mnt/memory/notes/00.md", holding=f"new {attempt}".encode())
        running.cancel()
        await asyncio.wait([running])
        await _said(hands, "true")
        assert set((await mind.contents(store)).values()) == {f"new {attempt}"}


async def test_a_link_in_place_of_a_file_and_an_odd_name_are_told_of(mind: Mind, hands: Hands):
    store = await mind.store()
    await mind.save(store, "/plan.md", "one")
    await mind.attach(hands.house.session_id, store)
    said = await _said(hands, f"cd /mnt/memory/notes; mv plan.md /tmp/x; ln -s /tmp/x {FILE}; echo x > $'a\\nb'")
    assert "notes/plan.md could not be read" in said
    assert "1 files under /mnt/memory have the end of a line" in said
    assert await mind.contents(store) == {"/plan.md": "one"}


class _Weary:
    """Prepares no more than a service does in its time, and after a while nothing for a while."""

    def __init__(self, mind: Mind, *, most_bytes: int, times: int):
        self._real = mind.preparer
        self._most_bytes = most_bytes
        self.times = times

    async def prepare(self, workspace_id: str, drafts: Sequence[Draft]) -> list[Prepared]:
        self.times -= 1
        if self.times < 0 or sum(len(draft.content) for draft in drafts) > self._most_bytes:
            raise unavailable()
        return await self._real.prepare(workspace_id, drafts)

    async def question(self, workspace_id: str, text: str) -> Vector | None:
        return await self._real.question(workspace_id, text)


async def test_a_large_edit_is_saved_some_at_a_time_and_what_is_left_is_not_written_over(mind: Mind, house: House):
    store = await mind.store()
    await mind.attach(house.session_id, store)
    memory = await mind.save(store, "/9.md", "one")
    weary = _Weary(mind, most_bytes=300_000, times=1)
    hands = Hands(house, preparer=weary)
    write = "cd /mnt/memory/notes; for n in 1 2 3 4 5 6 7 8 9; do yes 'a word' | head -c 60000 > $n.md; done"
    call = await hands.dispatch(f"touch begun; until [ -e go ]; do sleep 0.02; done; {write}")
    running = asyncio.create_task(hands.run(call))
    await _wait_for(hands, "/workspace/begun")
    await mind.overwrite(memory, "theirs")
    await _release(hands)
    said = (await running)[1]
    assert "5 edits under /mnt/memory could not be saved now" in said
    weary.times = 1
    assert "1 edits under /mnt/memory could not be saved now" in await _said(hands, "true")
    weary.times = 9
    await _said(hands, "true")
    kept = await mind.contents(store)
    assert len(kept) == 10 and kept["/9.md"] == "theirs"
    assert [size for size in map(len, kept.values()) if size != len("theirs")] == [60_000] * 9
    said = await _said(hands, 'cd /mnt/memory/notes; for n in $(seq 60); do echo x > new$n; done; echo > "c\'  .md "')
    assert len(said) < 3_000 and "more files the same is true" in said


@pytest.mark.parametrize("deleted", [False, True])
async def test_what_is_redacted_comes_back_from_no_file_and_leaves_no_hash(
    mind: Mind, hands: Hands, *, deleted: bool
):
    store = await mind.store()
    memory = await mind.save(store, "/plan.md", "ada's")
    await mind.attach(hands.house.session_id, store)
    await _said(hands, "true")
    await (mind.delete(memory) if deleted else mind.overwrite(memory, "new"))
    async with mind.database.transaction(mind.workspace_id) as connection:
        await memory_versions.redact(connection, store.id, memory.version_id, by=None)
        found = await connection.execute("SELECT FROM shown_memories WHERE sha256 = %s", (memory.sha256,))
        assert await found.fetchone() is None
    said = await _said(hands, "cat /mnt/memory/notes/*")
    assert "had what was redacted meanwhile" in said and "ada" not in said
    assert await mind.contents(store) == ({} if deleted else {"/plan.md": "new"})
    assert "redacted" not in await _said(hands, "true")


async def test_a_sandbox_that_is_lost_with_edits_takes_nothing_of_the_result(mind: Mind, hands: Hands):
    store = await mind.store()
    await mind.attach(hands.house.session_id, store)
    call = await hands.dispatch(f"touch begun; until [ -e go ]; do sleep 0.02; done; echo mine > {FILE}; echo done")
    running = asyncio.create_task(hands.run(call))
    await _wait_for(hands, "/workspace/begun")
    row = await hands.house.ensure()
    provider = hands.house.keeper.provider(row)
    async with mind.database.transaction(ALL_WORKSPACES) as connection:
        # What is shown is read after the command: until then the worker waits here.
        await connection.execute("LOCK TABLE shown_stores IN ACCESS EXCLUSIVE MODE")
        await provider.write_file(row.id, "/workspace/go", _empty())
        while (await provider.exec_state(row.id, call.tool_use_id)).state == "running":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await provider.destroy(row.id)
    state, said = await running
    assert state == "confirmed"
    assert said.startswith("done\n[memory] the sandbox was lost before edits of memory could be saved")
    assert await mind.contents(store) == {}


async def test_a_command_whose_sandbox_is_lost_before_it_begins_is_not_called_unknown(mind: Mind, hands: Hands):
    store = await mind.store()
    await mind.attach(hands.house.session_id, store)
    row = await hands.house.ensure()
    provider = hands.house.keeper.provider(row)
    call = await hands.dispatch("echo done")
    async with mind.database.transaction(ALL_WORKSPACES) as connection:
        await connection.execute("LOCK TABLE shown_stores IN ACCESS EXCLUSIVE MODE")
        running = asyncio.create_task(hands.run(call))
        while not await _is_bound(mind, call.tool_use_id):  # noqa: ASYNC110 - of another's transaction
            await asyncio.sleep(0.02)
        await provider.destroy(row.id)
    assert await running == ("refused", "Not run: its sandbox was lost before it was started.")


async def _is_bound(mind: Mind, tool_use_id: str) -> bool:
    async with mind.database.transaction(ALL_WORKSPACES) as connection:
        found = await one(connection, "SELECT sandbox_id FROM tool_calls WHERE id = %(id)s", {"id": tool_use_id})
    return bool(found and found["sandbox_id"])
