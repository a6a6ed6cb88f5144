"""Rules on arguments, and decisions that say more than yes or no, on the whole control plane."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.e2e.test_approvals import CUSTOM, asking, call, calls_of
from tests.support.client import Client, run, script, text

pytestmark = pytest.mark.slow

LS_ONLY = {"command": [{"program": "ls", "arguments": ["**"]}, {"program": "echo", "arguments": ["**"]}]}


async def rule(client: Client, scope: str, verdict: str, **more: Any) -> dict[str, Any]:
    return await client.post("/v1/rules", {"scope": scope, "tool": "bash", "verdict": verdict, **more})


async def cli(client: Client, *arguments: str) -> Any:
    """Run a command against the stack and return the JSON that it prints."""
    environment = {**os.environ, "BULKHEAD_URL": client.stack.url, "BULKHEAD_API_KEY": client.stack.api_key}
    command = [sys.executable, "-m", "controlplane.cli", *arguments, "--json"]
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


async def test_a_rule_spares_the_question_and_another_denies_at_once(client: Client) -> None:
    session_id = await client.session(tools=[asking("bash")])
    allow = await rule(client, session_id, "allow", arguments=[LS_ONLY])
    deny = await rule(client, session_id, "deny", arguments=[{"command": [{"program": "rm"}]}], reason="keep it")
    steps = [run("echo fine"), run("echo x; rm y"), run("touch asked"), {"text": "{{result}}"}]
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(*steps))
        await watcher.until_idle()
        permissions = [use["evaluated_permission"] for use in watcher.of("agent.tool_use")]
        assert permissions == ["allow", "deny", "ask"]
        first, second = (text(result) for result in watcher.of("agent.tool_result"))
        assert first == "fine"
        assert (deny["id"] in second, "keep it" in second) == (True, True)
        assert watcher.events[-1]["stop_reason"]["type"] == "requires_action"
    rows = await calls_of(client, session_id)
    assert [row["rule_id"] for row in rows] == [allow["id"], deny["id"], None]
    assert [row["state"] for row in rows] == ["confirmed", "refused", "intended"]


async def test_a_rule_that_changes_while_a_turn_runs_holds_from_its_next_call(client: Client) -> None:
    session_id = await client.session(tools=[{"type": "agent_toolset_20260401"}])
    made = await rule(client, session_id, "allow")
    steps = [run("sleep 2; echo one"), run("echo two"), {"text": "{{result}}"}]
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(*steps))
        await watcher.until(lambda w: "agent.tool_use" in w.types)
        async with asyncio.timeout(30):
            while (await calls_of(client, session_id))[0]["state"] == "intended":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await client.post(f"/v1/rules/{made['id']}", {"verdict": "deny", "reason": "stop"})
        await watcher.until_idle()
        assert text(watcher.of("agent.tool_result")[0]) == "one", "what was sent goes on"
        assert "stop" in text(watcher.of("agent.message")[-1])
        assert watcher.types.count("session.status_running") == 1
        await client.delete(f"/v1/rules/{made['id']}")
        await client.say(session_id, script(run("echo three"), {"text": "{{result}}"}))
        await watcher.until_idle(times=2)
        assert text(watcher.of("agent.message")[-1]) == "three"


async def test_a_call_runs_with_other_arguments_and_the_model_is_told(client: Client) -> None:
    session_id = await client.session(tools=[asking("bash")])
    steps = [{"tools": [call("bash", command="echo wiped > log; cat log")]}, {"text": "{{result}}"}]
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(*steps))
        await watcher.until_idle()
        (use,) = watcher.of("agent.tool_use")
        changed = {"command": "echo kept > log; cat log"}
        said = await cli(client, "approvals", "allow", use["id"], "--input", json.dumps(changed))
        assert said["input"] == changed
        await watcher.until_idle(times=2)
        heard = text(watcher.of("agent.message")[-1])
        assert "changed its arguments to" in heard
        assert "echo kept" in heard
        assert heard.strip().endswith("kept")
    (row,) = await calls_of(client, session_id)
    assert (row["input"], row["edited_input"]) == (use["input"], changed)


async def test_allowed_for_the_session_is_asked_once(client: Client) -> None:
    session_id = await client.session(tools=[asking("bash")])
    same = {"tools": [call("bash", command="echo same >> log; wc -l < log")]}
    async with client.watching(session_id) as watcher:
        await client.say(
            session_id, script(same, same, {"tools": [call("bash", command="echo other")]}, {"text": "x"})
        )
        await watcher.until_idle()
        await cli(client, "approvals", "allow", watcher.of("agent.tool_use")[0]["id"], "--for-session")
        await watcher.until_idle(times=2)
        assert [text(result).strip() for result in watcher.of("agent.tool_result")] == ["1", "2"]
        waits = watcher.of("agent.tool_use")[2]["id"]
        assert watcher.events[-1]["stop_reason"] == {"type": "requires_action", "event_ids": [waits]}
    first, second, _ = await calls_of(client, session_id)
    (remembered,) = await cli(client, "rules", "list", "--session", session_id)
    assert remembered["created_by"] == first["decided_by"]
    assert second["rule_id"] == remembered["id"]


@pytest.mark.parametrize("part", [None, pytest.param("brain", marks=pytest.mark.slow), "api"])
async def test_a_call_that_nobody_decides_ends_by_itself(client: Client, part: str | None) -> None:
    session_id = await client.session(tools=[asking("bash")])
    await rule(client, session_id, "ask", expires_after_seconds=4, reason="who looks?")
    steps = [{"tools": [call("bash", command="touch ran")]}, {"text": "{{result}}"}]
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(*steps))
        await watcher.until_idle()
        (use,) = watcher.of("agent.tool_use")
        found = (await client.get("/v1/approvals", limit="1000"))["data"]
        (waits,) = [each for each in found if each["id"] == use["id"]]
        assert waits["on_expiry"] == "deny"
        assert "who looks?" in waits["reason"]
        if part is not None:
            os.kill(client.stack.parts()[part], signal.SIGKILL)
        await watcher.until_idle(times=2)
        assert "nobody decided about this call until" in text(watcher.of("agent.message")[-1])
        (said,) = watcher.of("user.tool_confirmation")
        assert (said["result"], said["decided_by"]) == ("deny", "expiry")
    await client.stack.ready_again()
    late = await client.refused(f"/v1/approvals/{use['id']}", {"result": "allow"})
    assert (late.status_code, "expiry" in late.json()["error"]["message"]) == (409, True)
    (row,) = await calls_of(client, session_id)
    assert (row["state"], row["decided_by"], row["sandbox_id"]) == ("refused", "expiry", None)


@pytest.mark.parametrize("part", ["api", "brain"])
async def test_an_edited_call_runs_once_whoever_dies_right_after_the_decision(client: Client, part: str) -> None:
    session_id = await client.session(tools=[asking("bash")], config={"provider": "namespace"})
    steps = [{"tools": [call("bash", command="echo original >> log")]}, run("cat log"), {"text": "{{result}}"}]
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(*steps))
        await watcher.until_idle()
        (use,) = watcher.of("agent.tool_use")
        await rule(client, session_id, "allow", arguments=[{"command": [{"program": "cat"}]}])
        changed = {"result": "allow", "input": {"command": "echo edited >> log"}, "remember": "session"}
        await client.post(f"/v1/approvals/{use['id']}", changed)
        os.kill(client.stack.parts()[part], signal.SIGKILL)
        await watcher.until_idle(times=2)
        assert text(watcher.of("agent.message")[-1]).split() == ["edited"]
    await client.stack.ready_again()
    assert len((await client.get("/v1/rules", scope=session_id))["data"]) == 2


async def test_rules_are_made_tried_and_deleted_on_the_command_line(client: Client) -> None:
    session_id = await client.session(tools=[asking("bash")])
    options = ["--session", session_id, "--tool", "bash", "--command", "git status", "--command", "ls **"]
    made = await cli(client, "rules", "create", "allow", *options)
    inside = {"path": "$.file_path", "glob": "/workspace/*"}
    await cli(
        client,
        "rules",
        "create",
        "deny",
        "--session",
        session_id,
        "--tool",
        "write",
        "--condition",
        json.dumps(inside),
    )
    tried = await cli(client, "rules", "test", "bash", "ls -l | ls", "--session", session_id)
    assert (tried["verdict"], tried["rule"]["id"]) == ("allow", made["id"])
    tried = await cli(client, "rules", "test", "bash", "ls | sh", "--session", session_id)
    assert (tried["verdict"], tried["decided_by"]) == ("ask", "policy")
    tried = await cli(client, "rules", "test", "bash", "{ls,sh} x", "--session", session_id)
    assert tried["verdict"] == "deny"
    tried = await cli(client, "rules", "test", "write", '{"file_path": "a/../b"}', "--session", session_id)
    assert tried["verdict"] == "deny"
    assert (await cli(client, "rules", "delete", made["id"]))["id"] == made["id"]


async def test_a_rule_denies_what_a_client_would_run_and_the_client_is_not_asked(client: Client) -> None:
    session_id = await client.session(tools=[CUSTOM])
    await client.post(
        "/v1/rules",
        {
            "scope": session_id,
            "tool": "lookup",
            "verdict": "deny",
            "arguments": [{"path": "$.key", "regex": "secret.*"}],
        },
    )
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script({"tools": [call("lookup", key="secrets")]}, {"text": "{{result}}"}))
        await watcher.until_idle()
        assert watcher.events[-1]["stop_reason"] == {"type": "end_turn"}
        assert "denies this call" in text(watcher.of("agent.message")[-1])
        assert "agent.custom_tool_use" not in watcher.types
