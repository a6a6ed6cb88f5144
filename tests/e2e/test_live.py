"""The list of what is alive, the switch that stops it, and agents that are frozen."""

import asyncio
from typing import Any

import pytest

from tests.support.client import Client, run, script, text

pytestmark = pytest.mark.slow

FOREVER = "echo started; (trap '' TERM; sleep 371 & sleep 371) & trap '' TERM; while :; do sleep 1; done"


async def alive(client: Client, **narrowed: str) -> list[tuple[str, str]]:
    found = (await client.get("/v1/live", **narrowed))["data"]
    return [(each["kind"], each["session_id"]) for each in found]


async def until_alive(client: Client, session_id: str, *kinds: str) -> None:
    async with asyncio.timeout(30):
        while not {(kind, session_id) for kind in kinds} <= {*await alive(client)}:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_what_is_alive_is_listed_and_stopped_with_proof(client: Client) -> None:
    stopped, spared = await client.session(), await client.session()
    async with client.watching(stopped) as watcher, client.watching(spared) as other:
        await client.say(stopped, script(run(FOREVER), {"text": "never"}), script({"text": "the queue goes on"}))
        await client.say(spared, script(run("until test -e go; do sleep 0.1; done"), {"text": "spared"}))
        for session_id in (stopped, spared):
            await until_alive(client, session_id, "turn", "command", "sandbox")
        await asyncio.sleep(0.5)
        answer = await client.post("/v1/live/stop", {"session_id": stopped, "wait_seconds": 10})
        assert answer["unproven"] == 0
        took = {each["kind"]: each["ended_after_ms"] for each in answer["data"]}
        assert set(took) == {"turn", "command", "sandbox"}
        assert {each["session_id"] for each in answer["data"]} == {stopped}
        await watcher.until_idle(times=2)
        assert text(watcher.of("agent.message")[-1]) == "the queue goes on"
        assert {kind for kind, session_id in await alive(client) if session_id == spared} >= {"turn", "command"}
        await client.send(spared, {"type": "user.interrupt"})
        await other.until_idle()
    assert [each for each in await alive(client, session_id=stopped) if each[0] != "sandbox"] == []


async def test_a_halted_sandbox_leaves_its_files_to_the_next_and_the_model_is_told(client: Client) -> None:
    session_id = await client.session()
    async with client.watching(session_id) as watcher:
        background = {"command": "sleep 371", "yield_after_seconds": 0}
        steps = [run("echo kept > kept"), {"tools": [{"name": "sandbox_execute", "input": background}]}]
        await client.say(session_id, script(*steps, {"text": "resting"}))
        await watcher.until_idle()
        assert await alive(client, session_id=session_id) == [("sandbox", session_id)]
        answer = await client.post("/v1/live/stop", {"session_id": session_id, "wait_seconds": 10})
        assert (answer["proven"], answer["unproven"]) == (1, 0)
        await client.say(session_id, script(run("cat kept; pgrep sleep || echo none"), {"text": "done"}))
        await watcher.until_idle(times=2)
        said = text(watcher.of("agent.tool_result")[-1])
        assert "was stopped by a person" in said
        assert said.endswith("kept\nnone")


async def test_a_frozen_agent_does_nothing_until_it_is_thawed(client: Client) -> None:
    session_id = await client.session()
    agent = (await client.get(f"/v1/sessions/{session_id}"))["agent"]["id"]
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(run("until test -e go; do sleep 0.1; done"), {"text": "went on"}))
        await until_alive(client, session_id, "command")
        frozen = await client.post(f"/v1/agents/{agent}/freeze")
        assert frozen["frozen_at"] is not None
        await client.send(session_id, {"type": "user.interrupt"})
        await watcher.until_idle()
        await client.say(session_id, script({"text": "after the thaw"}))
        await asyncio.sleep(4)
        assert len(watcher.of("session.status_running")) == 1
        assert (await client.post(f"/v1/agents/{agent}/thaw"))["frozen_at"] is None
        await watcher.until_idle(times=2)
        assert text(watcher.of("agent.message")[-1]) == "after the thaw"


async def test_a_turn_that_meets_the_frost_comes_to_rest_and_goes_on_with_the_thaw(client: Client) -> None:
    session_id = await client.session()
    agent = (await client.get(f"/v1/sessions/{session_id}"))["agent"]["id"]
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(run("echo one >> effects; sleep 2"), {"text": "went on: {{result}}"}))
        await until_alive(client, session_id, "command")
        await client.post(f"/v1/agents/{agent}/freeze")
        await watcher.until_idle()
        found = await client.get(f"/v1/sessions/{session_id}")
        assert found["failure"]["cause"] == "agent_frozen"
        await client.say(session_id, script({"text": "and then"}))
        await client.post(f"/v1/agents/{agent}/thaw")
        await watcher.until_idle(times=3)
        went_on, then = (text(each) for each in watcher.of("agent.message")[-2:])
        assert went_on.startswith("went on") and then == "and then"


@pytest.mark.parametrize(
    "body",
    [
        {"kinds": []},
        {"session_id": None},
        {"agent_id": "agent_none"},
        {"kinds": ["planet"]},
        {"wait_seconds": 31},
        {"wait_seconds": -1},
        {"agent": "x"},
    ],
)
async def test_a_stop_that_is_not_understood_stops_nothing(client: Client, body: dict[str, Any]) -> None:
    refused = await client.refused("/v1/live/stop", body)
    assert refused.status_code == (404 if "agent_id" in body else 400)
