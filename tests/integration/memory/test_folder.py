"""Memory as files, where edits meet others and workers die."""

import asyncio
from collections.abc import AsyncIterator

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
