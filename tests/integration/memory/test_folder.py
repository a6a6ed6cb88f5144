"""Memory as files, where edits meet others and workers die."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from sandbox.contract import SandboxError
from tests.support.house import Hands
from tests.support.memory import Mind

FILE = "/mnt/memory/notes/plan.md"


async def _empty() -> AsyncIterator[bytes]:
    yield b""


async def _wait_for(hands: Hands, path: str) -> None:
    row = await hands.house.ensure()
    provider = hands.house.keeper.provider(row)
    while True:
        try:
            await provider.stat_file(row.id, path)
        except SandboxError:
            await asyncio.sleep(0.02)
        else:
            return


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
    conflict = f"/plan.conflict-{call.tool_use_id[-6:]}.md"
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
