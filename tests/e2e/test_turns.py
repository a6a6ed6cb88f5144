"""Turns as a user sees them, on the whole control plane."""

import asyncio
import contextlib
import json
import os
import signal
from typing import Any

import psutil
import pytest

from tests.support.client import Client, run, script, text

UNUSUAL_SECONDS = "61.0625"  # so that no other sleep on this machine is taken for ours


async def test_messages_are_answered_in_order_one_turn_each(client: Client) -> None:
    session_id = await client.session()
    async with client.watching(session_id) as watcher:
        await client.say(session_id, *(script({"text": f"answer {n}"}) for n in range(5)))
        await watcher.until_idle(times=5)
        assert [text(e) for e in watcher.of("agent.message")] == [f"answer {n}" for n in range(5)]


async def test_a_session_that_runs_no_command_never_has_a_sandbox(client: Client) -> None:
    session_id = await client.session(config={"provider": "namespace"})
    provision = {"tools": [{"name": "sandbox_provision", "input": {"task_description": "the first"}}]}
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script({"text": "no hands needed"}))
        await watcher.until_idle()
        await client.say(session_id, script(provision, {"text": "hands needed"}))
        await watcher.until_idle(times=2)
        made = json.loads(text(watcher.of("agent.tool_result")[0]))
    # A sandbox's generation counts those that its session has had.
    assert (made["generation"], made["source"] in {"warm", "cold"}) == (1, True)


async def test_parallel_tool_calls_run_at_the_same_time(client: Client) -> None:
    session_id = await client.session()
    meet = "touch /workspace/{0}; for i in $(seq 100); do [ -e /workspace/{1} ] && exit 0; sleep 0.1; done; exit 1"
    calls = [
        {"name": "sandbox_execute", "input": {"command": meet.format("a", "b")}},
        {"name": "sandbox_execute", "input": {"command": meet.format("b", "a")}},
    ]
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script({"tools": calls}, {"text": "met"}))
        await watcher.until_idle()
        assert [e["is_error"] for e in watcher.of("agent.tool_result")] == [False, False]


async def test_an_interrupt_kills_the_command_and_the_queue_goes_on(client: Client) -> None:
    session_id = await client.session()
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(run("sleep 300 & sleep 300"), {"text": "never"}))
        await client.say(session_id, script(run("pgrep sleep || echo none"), {"text": "next: {{result}}"}))
        await watcher.until(lambda w: "agent.tool_use" in w.types)
        await asyncio.sleep(0.5)
        await client.send(session_id, {"type": "user.interrupt"})
        await watcher.until_idle(times=2, timeout_seconds=30)
        assert "interrupted" in text(watcher.of("agent.tool_result")[0])
        assert text(watcher.of("agent.message")[-1]).startswith("next: none")
    listed = (await client.get(f"/v1/sessions/{session_id}/events", limit="100"))["data"]
    assert all(event["processed_at"] for event in listed)


async def test_a_failed_turn_is_resumed_from_its_last_answer(client: Client) -> None:
    session_id = await client.session()
    steps = script(
        run("echo once >> /workspace/effects"),
        {"text": "counted {{result}}", "fail": {"status": 400, "times": 1}, **run("wc -l < /workspace/effects")},
        {"text": "lines: {{result}}"},
    )
    async with client.watching(session_id) as watcher:
        await client.say(session_id, steps)
        await watcher.until_idle()
        assert watcher.events[-1]["stop_reason"]["type"] == "retries_exhausted"
        assert watcher.of("session.error")[-1]["error"]["retry_status"]["type"] == "terminal"
        await client.post(f"/v1/sessions/{session_id}/resume")
        await watcher.until_idle(times=2)
        assert text(watcher.of("agent.message")[-1]).strip() == "lines: 1"
    refused = await client.refused(f"/v1/sessions/{session_id}/resume")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "nothing_to_resume")


async def test_an_overloaded_model_is_asked_again_after_the_time_it_names(client: Client) -> None:
    session_id = await client.session()
    failing = {"text": "at last", "fail": {"status": 529, "times": 2, "retry_after_seconds": 0.2}}
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(failing))
        await watcher.until_idle()
        errors = [e["error"] for e in watcher.of("session.error")]
        assert [(e["type"], e["retry_status"]["type"]) for e in errors] == [
            ("model_overloaded_error", "retrying")
        ] * 2
        assert text(watcher.of("agent.message")[-1]) == "at last"
        assert watcher.events[-1]["stop_reason"]["type"] == "end_turn"


async def test_a_command_whose_sandbox_dies_has_an_unknown_outcome_and_the_model_is_told(client: Client) -> None:
    session_id = await client.session(config={"provider": "namespace"})
    async with client.watching(session_id) as watcher:
        steps = script(run("true"), run(f"sleep {UNUSUAL_SECONDS}"), run("echo again"), {"text": "{{result}}"})
        await client.say(session_id, steps)
        await watcher.until(lambda w: len(w.of("agent.tool_use")) == 2)
        await kill_sandbox(UNUSUAL_SECONDS)
        await watcher.until_idle()
        results = watcher.of("agent.tool_result")
        assert "Outcome unknown" in text(results[1])
        assert results[1]["is_error"]
        assert results[1]["tool_call"]["state"] == "unknown"
        assert "new sandbox" in text(results[2])


async def kill_sandbox(marker: str) -> None:
    """Kill the supervisor, process 1, of the sandbox in which a command runs, once it does."""
    found = _sleeping(marker)
    while not found:
        await asyncio.sleep(0.1)
        found = _sleeping(marker)
    command = found[0]
    supervisors = [
        p for p in command.parents() if "supervisor" in (line := " ".join(p.cmdline())) and "/bwrap" not in line
    ]
    supervisors[-1].kill()


def _sleeping(marker: str) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() == "sleep" and marker in " ".join(process.cmdline()):
                found.append(process)
    return found


async def test_a_file_of_the_session_is_in_the_sandbox(client: Client) -> None:
    file_id = await client.upload("data.csv", b"a,b\n1,2\n")
    resources = [{"type": "file", "file_id": file_id, "mount_path": "/workspace/data.csv"}]
    session_id = await client.session(resources=resources)
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(run("cat /workspace/data.csv"), {"text": "{{result}}"}))
        await watcher.until_idle()
        assert text(watcher.of("agent.tool_result")[0]) == "a,b\n1,2"


async def test_a_command_that_takes_too_long_is_killed_and_says_so(client: Client) -> None:
    session_id = await client.session()
    async with client.watching(session_id) as watcher:
        command = run("echo before; setsid sleep 300 & sleep 300", timeout_seconds=1)
        await client.say(session_id, script(command, run("pgrep sleep || echo none"), {"text": "{{result}}"}))
        await watcher.until_idle()
        results = [text(e) for e in watcher.of("agent.tool_result")]
        assert "before" in results[0]
        assert "timed out" in results[0]
        assert results[1].strip() == "none"


async def test_the_toolset_reads_writes_and_edits_in_the_same_sandbox(client: Client) -> None:
    session_id = await client.session(tools=[{"type": "agent_toolset_20260401"}])
    edit = {"file_path": "/workspace/a.txt", "old_string": "two", "new_string": "2"}
    steps = script(
        {"tools": [{"name": "write", "input": {"file_path": "/workspace/a.txt", "content": "one\ntwo\n"}}]},
        {"tools": [{"name": "edit", "input": edit}]},
        {"tools": [{"name": "read", "input": {"file_path": "/workspace/a.txt"}}]},
        {"tools": [{"name": "grep", "input": {"pattern": "^2$", "path": "/workspace"}}]},
        {"tools": [{"name": "bash", "input": {"command": "cat /workspace/a.txt"}}]},
        {"text": "{{result}}"},
    )
    async with client.watching(session_id) as watcher:
        await client.say(session_id, steps)
        await watcher.until_idle()
        assert [e["is_error"] for e in watcher.of("agent.tool_result")] == [False] * 5
        assert text(watcher.of("agent.message")[-1]).split() == ["one", "2"]


async def test_a_tool_that_is_not_the_agents_or_is_called_wrongly_is_refused_and_nothing_runs(client: Client) -> None:
    session_id = await client.session()
    steps = script(
        {"tools": [{"name": "rm_rf", "input": {}}]},
        {"tools": [{"name": "sandbox_execute", "input": {"command": 7}}]},
        {"text": "refused twice"},
    )
    async with client.watching(session_id) as watcher:
        await client.say(session_id, steps)
        await watcher.until_idle()
        results = watcher.of("agent.tool_result")
        assert [(e["is_error"], e["tool_call"]["state"]) for e in results] == [(True, "refused")] * 2
        assert "rm_rf" in text(results[0])
        assert "command" in text(results[1])


async def test_a_deleted_session_stops_its_turn(client: Client) -> None:
    session_id = await client.session()
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(run("true"), {"text": "done"}))
        await watcher.until_idle()
        await client.delete(f"/v1/sessions/{session_id}")
        await watcher.until(lambda w: bool(w.events) and w.events[-1]["type"] == "session.deleted")


async def test_output_that_is_not_text_comes_back_as_far_as_it_can_be_kept(client: Client) -> None:
    session_id = await client.session()
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(run(r"printf 'a\0b\377c'"), {"text": "{{result}}"}))
        await watcher.until_idle()
        assert text(watcher.of("agent.tool_result")[0]) == "a\ufffdb\ufffdc"


async def test_every_parallel_call_of_an_interrupted_turn_says_how_it_ended(client: Client) -> None:
    session_id = await client.session()
    sleeping = {"name": "sandbox_execute", "input": {"command": "echo started; sleep 300"}}
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script({"tools": [sleeping, sleeping, sleeping]}))
        await watcher.until(lambda w: len(w.of("agent.tool_use")) == 3)
        await asyncio.sleep(1)
        await client.send(session_id, {"type": "user.interrupt"})
        await watcher.until_idle(timeout_seconds=30)
        results = [text(e) for e in watcher.of("agent.tool_result")]
        assert ["started" in each and "interrupted" in each for each in results] == [True] * 3
        assert watcher.types[-1] == "session.status_idle"


@pytest.mark.slow
async def test_an_interrupt_holds_when_the_brain_dies_before_it_obeys(client: Client) -> None:
    session_id = await client.session()
    async with client.watching(session_id) as watcher:
        steps = script({"text": "slow " * 40, "chunk_chars": 5, "chunk_ms": 100, **run("echo never")})
        await client.say(session_id, steps, script({"text": "the queue goes on"}))
        await watcher.until(lambda w: any(p["type"] == "event_delta" for p in w.previews))
        os.kill(client.stack.parts()["brain"], signal.SIGSTOP)
        await client.send(session_id, {"type": "user.interrupt"})
        await asyncio.sleep(0.3)
        os.kill(client.stack.parts()["brain"], signal.SIGKILL)
        await watcher.until_idle(times=2, timeout_seconds=40)
        assert "agent.tool_use" not in watcher.types
        assert [text(e) for e in watcher.of("agent.message")] == ["the queue goes on"]


async def test_a_system_message_goes_with_the_message_that_it_accompanies(client: Client) -> None:
    session_id = await client.session()
    said = {"type": "user.message", "content": [{"type": "text", "text": script({"text": "heard"})}]}
    noted = {"type": "system.message", "content": [{"type": "text", "text": "the user is in a hurry"}]}
    async with client.watching(session_id) as watcher:
        await client.send(session_id, said, noted)
        await watcher.until_idle()
    listed = (await client.get(f"/v1/sessions/{session_id}/events", limit="100"))["data"]
    assert all(event["processed_at"] for event in listed)


async def test_a_session_with_a_message_to_answer_is_not_archived(client: Client) -> None:
    session_id = await client.session()
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(run("sleep 1"), {"text": "answered"}))
        refused = await client.refused(f"/v1/sessions/{session_id}/archive")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "session_running")
        await watcher.until_idle()
        await client.post(f"/v1/sessions/{session_id}/archive")


def execute(**fields: object) -> dict[str, Any]:
    return {"tools": [{"name": "sandbox_execute", "input": fields}]}


async def test_a_command_goes_on_in_the_background_and_is_fed_read_and_signalled(client: Client) -> None:
    session_id = await client.session()
    command = "trap 'exit 3' INT; while :; do read -r line && echo \"got $line\"; done"
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(execute(command=command, yield_after_seconds=0), {"text": "started"}))
        await watcher.until_idle()
        exec_id = watcher.of("agent.tool_use")[0]["id"]
        assert f'exec_id "{exec_id}"' in text(watcher.of("agent.tool_result")[0])
        await client.say(
            session_id, script(execute(exec_id=exec_id, stdin="one\n", wait_seconds=30), {"text": "fed"})
        )
        await watcher.until_idle(times=2)
        assert text(watcher.of("agent.tool_result")[1]).startswith("got one\n[the command still runs")
        asked = execute(exec_id=exec_id, signal="INT", wait_seconds=30, cursor="8.0")
        await client.say(session_id, script(asked, {"text": "ended"}))
        await watcher.until_idle(times=3)
        assert text(watcher.of("agent.tool_result")[2]) == "[exit code 3]"
        await client.say(session_id, script(execute(exec_id=exec_id, stdin="two\n"), {"text": "too late"}))
        await watcher.until_idle(times=4)
        assert "has ended" in text(watcher.of("agent.tool_result")[3])


async def test_an_interrupt_leaves_what_runs_in_the_background_alone(client: Client) -> None:
    session_id = await client.session()
    command = "until test -e go; do sleep 0.05; done; echo survived"
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(execute(command=command, yield_after_seconds=0), {"text": "started"}))
        await watcher.until_idle()
        exec_id = watcher.of("agent.tool_use")[0]["id"]
        await client.say(session_id, script(execute(exec_id=exec_id, wait_seconds=300), {"text": "never"}))
        await watcher.until(lambda w: len(w.of("agent.tool_use")) == 2)
        await asyncio.sleep(0.5)
        await client.send(session_id, {"type": "user.interrupt"})
        await watcher.until_idle(times=2)
        assert "nothing was done to the command" in text(watcher.of("agent.tool_result")[1])
        steps = script(run("touch go"), execute(exec_id=exec_id, wait_seconds=60), {"text": "done"})
        await client.say(session_id, steps)
        await watcher.until_idle(times=3)
        assert "survived" in text(watcher.of("agent.tool_result")[-1])
