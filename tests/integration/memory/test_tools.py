"""The memory tools where they meet one another, and where their worker dies."""

import asyncio
import json
import random

import pytest

from controlplane.memory.recall import Recall
from tests.support.memory import Mind

AGENTS = ("ada", "bob")


async def _increments(mind: Mind, seed: int) -> tuple[int, dict[str, int]]:
    """Have two agents count in one block, their steps mixed at random; return what was promised, and the block."""
    store = await mind.store(name=f"s{seed}")
    await mind.save(store, "/count", json.dumps(dict.fromkeys(AGENTS, 0)), memory_type="task_state")
    sessions = {agent: await mind.session(store) for agent in AGENTS}
    chance = random.Random(seed)
    seen: dict[str, tuple[int, dict[str, int]]] = {}
    promised = 0
    for _ in range(8):
        agent = chance.choice(AGENTS)
        if agent not in seen or chance.random() < 0.3:
            head, _, content = (await mind.use(sessions[agent], "memory_read", path="/count")).partition("\n")
            seen[agent] = json.loads(head)["version"], json.loads(content)
            continue
        version, block = seen.pop(agent)
        # What an agent writes depends on the whole block, as a model's edit does.
        patch = {agent: block[agent] + 1, "sum": sum(block[each] for each in AGENTS) + 1}
        said = await mind.use(sessions[agent], "memory_update", path="/count", version=version, patch=patch)
        promised += said.startswith("Saved")
    return promised, json.loads((await mind.contents(store))["/count"])


@pytest.mark.parametrize(
    "seeds",
    [
        range(25),
        pytest.param(range(25, 100), marks=pytest.mark.slow),
        pytest.param(range(100, 1000), marks=[pytest.mark.slow, pytest.mark.thorough]),
    ],
)
@pytest.mark.timeout(1200)
async def test_no_update_of_two_agents_is_lost(mind: Mind, seeds: range):
    for seed in seeds:
        promised, block = await _increments(mind, seed)
        assert sum(block[agent] for agent in AGENTS) == promised, seed
        assert block.get("sum", 0) == promised, seed


async def test_updates_at_the_same_moment_are_not_lost(mind: Mind):
    store = await mind.store()
    await mind.save(store, "/count", '{"n": 0}', memory_type="task_state")
    sessions = [await mind.session(store) for _ in range(2)]

    async def count(session_id: str) -> None:
        for _ in range(10):
            while True:
                head, _, content = (await mind.use(session_id, "memory_read", path="/count")).partition("\n")
                wanted = {"n": json.loads(content)["n"] + 1}
                version = json.loads(head)["version"]
                said = await mind.use(session_id, "memory_update", path="/count", version=version, patch=wanted)
                if said.startswith("Saved"):
                    break

    await asyncio.gather(*(count(session_id) for session_id in sessions))
    assert json.loads((await mind.contents(store))["/count"]) == {"n": 20}


async def test_a_call_that_is_run_again_has_its_effect_once(mind: Mind):
    store = await mind.store()
    session_id = await mind.session(store)
    call = await mind.dispatch(session_id, "save_memory", {"path": "/x", "content": "once"})
    said = await asyncio.gather(*(mind.run(call) for _ in range(4)))
    assert set(said) == {"Saved: /x is version 1 now."}
    assert await mind.count("memory_versions") == 1


async def test_a_call_that_is_killed_leaves_nothing_or_all(mind: Mind):
    store = await mind.store()
    session_id = await mind.session(store)
    for attempt in range(30):
        call = await mind.dispatch(session_id, "save_memory", {"path": f"/{attempt}", "content": "whole"})
        running = asyncio.create_task(mind.run(call))
        await asyncio.sleep(0.001 * attempt)
        running.cancel()
        await asyncio.wait([running])
        assert await mind.run(call) == f"Saved: /{attempt} is version 1 now."
    assert await mind.count("memories") == await mind.count("memory_versions") == 30
    assert await mind.count("memory_vectors") == 30


async def test_what_a_tool_refuses_names_the_field_and_the_next_step(mind: Mind):
    store = await mind.store()
    session_id = await mind.session(store)
    schema = {"type": "object", "properties": {"step": {"type": "integer"}}, "additionalProperties": False}
    await mind.save(store, "/plan", '{"step": 1}', memory_type="plan", json_schema=schema)
    for value, expected in (
        ({"path": "/plan", "version": 1, "patch": {"step": "x"}}, "content.step: is not of type 'integer'"),
        ({"path": "/plan", "version": 1, "patch": {"other": 1}}, "'other' was unexpected"),
        ({"path": "/plan", "version": 7, "patch": {"step": 2}}, "Read the memory again"),
        ({"path": "/none", "version": 1, "patch": {"step": 2}}, "no memory is at /none"),
        ({"path": "/plan", "version": 1, "patch": 3}, "patch must be of type object"),
        ({"path": "no", "version": 0, "patch": {"a": 1}}, "a path starts with '/'"),
        ({"path": "/plan", "version": 1, "patch": {}, "store": "x"}, "store must be one of 'notes'"),
    ):
        assert expected in await mind.use(session_id, "memory_update", **value), value
    assert await mind.use(session_id, "save_memory", path="/plan", content="{}") == (
        "save_memory: /plan holds version 1 already. Read it, then give that version to replace it, or choose another"
        " path."
    )
    assert "no time" in await mind.use(session_id, "search_memory", query="x", as_of="yesterday")


async def test_what_somebody_else_has_changed_is_not_forgotten_unread(mind: Mind):
    store = await mind.store()
    memory = await mind.save(store, "/a", "old")
    await mind.save(store, "/b", "old")
    session_id = await mind.session(store)
    await mind.overwrite(memory, "new")
    assert "changed by somebody else" in await mind.use(session_id, "memory_forget", path="/a")
    assert "Forgotten" in await mind.use(session_id, "memory_forget", path="/b")
    await mind.use(session_id, "save_memory", path="/c", content="own")
    assert "Forgotten" in await mind.use(session_id, "memory_forget", path="/c")
    assert "Forgotten" in await mind.use(session_id, "memory_forget", path="/a", version=2)


async def test_a_prompt_counts_every_block(mind: Mind):
    store = await mind.store()
    await mind.fill(store, 230, size_bytes=150)
    async with mind.database.transaction("*") as connection:
        await connection.execute("UPDATE memories SET memory_type = 'facts'")
    section = await Recall(mind.database, mind.preparer).section(mind.workspace_id, await mind.session(store))
    shown = section.count("<block ")
    assert 20 < shown < 200
    assert f"and {230 - shown - 20} more." in section
