"""Tool calls that wait: for a person's decision, or for the client that runs them."""

import asyncio
import os
import signal
from typing import Any

import pytest

from tests.support.client import Client, run, script, text

CUSTOM = {
    "type": "custom",
    "name": "lookup",
    "description": "Looks something up.",
    "input_schema": {"type": "object", "properties": {"key": {"type": "string"}}},
}


def asking(*names: str) -> dict[str, Any]:
    """The agent's toolset, with these tools to be asked for."""
    configs = [{"name": name, "permission_policy": {"type": "always_ask"}} for name in names]
    return {"type": "agent_toolset_20260401", "configs": configs}


def call(name: str, **given: Any) -> dict[str, Any]:
    return {"name": name, "input": given}


def confirmation(use: dict[str, Any], result: str, **more: Any) -> dict[str, Any]:
    return {"type": "user.tool_confirmation", "tool_use_id": use["id"], "result": result, **more}


async def calls_of(client: Client, session_id: str) -> list[dict[str, Any]]:
    return (await client.get(f"/v1/sessions/{session_id}/tool_calls"))["data"]


async def test_a_call_waits_until_it_is_allowed_and_then_runs(client: Client) -> None:
    session_id = await client.session(tools=[asking("bash")])
    steps = script({"tools": [call("bash", command="echo done >> log; wc -l < log")]}, {"text": "ran {{result}}"})
    async with client.watching(session_id) as watcher:
        await client.say(session_id, steps)
        await watcher.until_idle()
        (use,) = watcher.of("agent.tool_use")
        assert use["evaluated_permission"] == "ask"
        assert watcher.events[-1]["stop_reason"] == {"type": "requires_action", "event_ids": [use["id"]]}
        (waits,) = [each for each in (await client.get("/v1/approvals"))["data"] if each["session_id"] == session_id]
        assert (waits["id"], waits["name"], waits["input"]) == (use["id"], "bash", use["input"])
        (row,) = await calls_of(client, session_id)
        assert (row["state"], row["verdict"], row["decision"]) == ("intended", "ask", None)
        await client.send(session_id, confirmation(use, "allow"))
        await watcher.until_idle(times=2)
        assert text(watcher.of("agent.message")[-1]).strip() == "ran 1"
        assert watcher.events[-1]["stop_reason"] == {"type": "end_turn"}
    (row,) = await calls_of(client, session_id)
    assert (row["state"], row["decision"]) == ("confirmed", "allow")
    assert row["decided_by"].startswith("key_")
    assert watcher.of("user.tool_confirmation")[0]["decided_by"] == row["decided_by"]
    assert row["exec_id"] == use["id"]
    assert all([row["decided_at"], row["dispatched_at"], row["sandbox_id"], row["result_event_id"]])


async def test_what_is_denied_does_not_run_and_the_model_hears_why(client: Client) -> None:
    session_id = await client.session(tools=[asking("bash")])
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script({"tools": [call("bash", command="touch ran")]}, {"text": "{{result}}"}))
        await watcher.until_idle()
        (use,) = watcher.of("agent.tool_use")
        decided = {"result": "deny", "deny_message": "not on a Friday"}
        await client.post(f"/v1/approvals/{use['id']}", decided)
        await watcher.until_idle(times=2)
        assert "denied" in text(watcher.of("agent.message")[-1])
        assert "not on a Friday" in text(watcher.of("agent.message")[-1])
        assert watcher.of("agent.tool_result")[0]["is_error"] is True
    (row,) = await calls_of(client, session_id)
    assert (row["state"], row["decision"], row["sandbox_id"]) == ("refused", "deny", None)


async def test_the_way_around_a_tool_that_asks_asks_too(client: Client) -> None:
    session_id = await client.session(tools=[asking("bash")])
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(run("touch ran"), {"text": "never"}))
        await watcher.until_idle()
        assert watcher.events[-1]["stop_reason"]["type"] == "requires_action"
        assert "agent.tool_result" not in watcher.types


async def test_a_decision_is_taken_once_and_by_nobody_else(client: Client) -> None:
    session_id, other = await client.session(tools=[asking("bash")]), await client.session()
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script({"tools": [call("bash", command="true")]}, {"text": "ok"}))
        await watcher.until_idle()
        (use,) = watcher.of("agent.tool_use")
        foreign = await client.refused(f"/v1/sessions/{other}/events", {"events": [confirmation(use, "allow")]})
        assert (foreign.status_code, foreign.json()["error"]["code"]) == (400, "tool_use_not_found")
        twice = {"events": [confirmation(use, "allow"), confirmation(use, "deny")]}
        both = await client.refused(f"/v1/sessions/{session_id}/events", twice)
        assert (both.status_code, both.json()["error"]["field"]) == (409, "events.1.tool_use_id")
        await client.send(session_id, confirmation(use, "allow"))
        late = await client.refused(f"/v1/approvals/{use['id']}", {"result": "deny"})
        assert (late.status_code, late.json()["error"]["code"]) == (409, "tool_use_decided")
        assert "'allow'" in late.json()["error"]["message"]
        await watcher.until_idle(times=2)
    missing = await client.refused("/v1/approvals/sevt_none", {"result": "allow"})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "tool_use_not_found")


async def test_a_call_that_needs_no_decision_takes_none(client: Client) -> None:
    session_id = await client.session()
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(run("true"), {"text": "ok"}))
        await watcher.until_idle()
        (use,) = watcher.of("agent.tool_use")
    refused = await client.refused(f"/v1/approvals/{use['id']}", {"result": "allow"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "tool_use_not_waiting")


async def test_parallel_calls_run_without_the_one_that_waits_and_messages_queue_behind_it(client: Client) -> None:
    session_id = await client.session(tools=[asking("write")])
    both = [call("write", file_path="a", content="x"), call("sandbox_execute", command="echo free")]
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script({"tools": both}, {"text": "one: {{result.1}} two: {{result.2}}"}))
        await watcher.until_idle()
        assert [text(event) for event in watcher.of("agent.tool_result")] == ["free"]
        await client.say(session_id, script({"text": "the next"}))
        await asyncio.sleep(1)
        assert watcher.types.count("session.status_running") == 1, "nothing runs while it waits"
        use = next(event for event in watcher.of("agent.tool_use") if event["name"] == "write")
        await client.send(session_id, confirmation(use, "allow"))
        await watcher.until_idle(times=3)
        first, second = (text(event) for event in watcher.of("agent.message"))
        assert "free" in first
        assert second == "the next"


async def test_two_decisions_are_both_waited_for(client: Client) -> None:
    session_id = await client.session(tools=[asking("bash")])
    both = [call("bash", command="echo one"), call("bash", command="echo two")]
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script({"tools": both}, {"text": "{{result.1}} {{result.2}}"}))
        await watcher.until_idle()
        one, two = watcher.of("agent.tool_use")
        await client.send(session_id, confirmation(two, "deny"))
        await asyncio.sleep(1)
        assert watcher.types.count("session.status_running") == 1
        await client.send(session_id, confirmation(one, "allow"))
        await watcher.until_idle(times=2)
        said = text(watcher.of("agent.message")[-1])
        assert said.startswith("one ")
        assert "denied" in said


async def test_an_interrupt_withdraws_what_waits(client: Client) -> None:
    session_id = await client.session(tools=[asking("bash")])
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script({"tools": [call("bash", command="touch ran")]}, {"text": "never"}))
        await watcher.until_idle()
        (use,) = watcher.of("agent.tool_use")
        await client.send(session_id, {"type": "user.interrupt"})
        await watcher.until_idle(times=2)
        assert watcher.events[-1]["stop_reason"] == {"type": "end_turn"}
        assert watcher.events[-1]["interrupted"] is True
        late = await client.refused(f"/v1/approvals/{use['id']}", {"result": "allow"})
        assert late.json()["error"]["code"] == "tool_use_not_waiting"
        await client.say(session_id, script(run("ls /workspace"), {"text": "ls: {{result}}"}))
        await watcher.until(lambda w: w.types.count("agent.tool_use") == 2)
    (row, _) = await calls_of(client, session_id)
    assert row["state"] == "refused"


async def test_a_custom_tool_is_run_by_its_client(client: Client) -> None:
    session_id = await client.session(tools=[CUSTOM])
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script({"tools": [call("lookup", key="k")]}, {"text": "found {{result}}"}))
        await watcher.until_idle()
        (use,) = watcher.of("agent.custom_tool_use")
        assert (use["name"], use["input"]) == ("lookup", {"key": "k"})
        assert watcher.events[-1]["stop_reason"] == {"type": "requires_action", "event_ids": [use["id"]]}
        wrong = await client.refused(f"/v1/sessions/{session_id}/events", {"events": [confirmation(use, "allow")]})
        assert wrong.json()["error"]["code"] == "tool_use_not_found"
        result = {
            "type": "user.custom_tool_result",
            "custom_tool_use_id": use["id"],
            "content": [{"type": "text", "text": "42"}],
        }
        await client.send(session_id, result)
        repeated = await client.refused(f"/v1/sessions/{session_id}/events", {"events": [result]})
        assert repeated.json()["error"]["code"] == "tool_use_decided"
        await watcher.until_idle(times=2)
        assert text(watcher.of("agent.message")[-1]) == "found 42"
    (row,) = await calls_of(client, session_id)
    assert (row["state"], row["verdict"], row["decision"]) == ("confirmed", "client", "result")


@pytest.mark.slow
async def test_what_waits_outlives_the_brain(client: Client) -> None:
    session_id = await client.session(tools=[asking("bash")])
    async with client.watching(session_id) as watcher:
        await client.say(
            session_id, script({"tools": [call("bash", command="echo survived")]}, {"text": "{{result}}"})
        )
        await watcher.until_idle()
        os.kill(client.stack.parts()["brain"], signal.SIGKILL)
        (use,) = watcher.of("agent.tool_use")
        await client.send(session_id, confirmation(use, "allow"))
        await watcher.until_idle(times=2)
        assert text(watcher.of("agent.message")[-1]) == "survived"


@pytest.mark.slow
@pytest.mark.parametrize("part", ["brain", "sandboxes", "api"])
async def test_what_was_allowed_runs_once_whoever_dies(client: Client, part: str) -> None:
    session_id = await client.session(tools=[asking("bash")], config={"provider": "namespace"})
    command = "echo ran >> log; touch begun; sleep 1.5; wc -l < log"
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script({"tools": [call("bash", command=command)]}, {"text": "{{result}}"}))
        await watcher.until_idle()
        (use,) = watcher.of("agent.tool_use")
        await client.send(session_id, confirmation(use, "allow"))
        if part != "api":
            await watcher.until(lambda w: w.types.count("session.status_running") == 2)
        os.kill(client.stack.parts()[part], signal.SIGKILL)
        await watcher.until_idle(times=2)
        assert text(watcher.of("agent.message")[-1]).strip() == "1"
    await client.stack.ready_again()
    (row,) = await calls_of(client, session_id)
    assert (row["state"], row["decision"]) == ("confirmed", "allow")
