"""Turns that fail, as a user meets them: what the session says of it, and how it goes on."""

import asyncio
import os
import signal
from typing import Any

import pytest

from tests.support.client import Client, run, script, text
from workflows.limits import MAX_TURN_CRASHES


def failing(status: int, *, times: int = 1, message: str = "as the script asked") -> dict[str, Any]:
    return {"status": status, "times": times, "message": message}


async def session(client: Client, session_id: str) -> dict[str, Any]:
    return await client.get(f"/v1/sessions/{session_id}")


async def explained(client: Client, session_id: str) -> dict[str, Any]:
    return await client.get(f"/v1/sessions/{session_id}/explanation")


async def test_a_failure_says_its_cause_and_what_to_do_and_ends_with_the_resumed_turn(client: Client) -> None:
    session_id = await client.session(model="scripted/first")
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script({"text": "at last", "fail": failing(401, message="no such key")}))
        await watcher.until_idle()
        failure = (await session(client, session_id))["failure"]
        assert (failure["status"], failure["cause"]) == ("terminal", "authentication")
        assert "no such key" in failure["message"]
        assert watcher.of("session.error")[-1]["error"]["next_step"] == failure["next_step"]
        said = await explained(client, session_id)
        assert said["because"].startswith("authentication (terminal)")
        assert "correct the provider's API key" in said["next_step"]
        changed = await client.post(f"/v1/sessions/{session_id}/resume", {"model": "scripted/second"})
        assert (changed["agent"]["model"]["id"], changed["failure"]["cause"]) == ("scripted/second", "authentication")
        await watcher.until_idle(times=2)
        assert text(watcher.of("agent.message")[-1]) == "at last"
        assert watcher.of("session.updated")[0]["agent"]["model"]["id"] == "scripted/second"
    assert (await session(client, session_id))["failure"] is None


async def test_what_was_sent_behind_a_turn_that_failed_waits_for_it(client: Client) -> None:
    session_id = await client.session()
    first = script({"text": "first", "fail": failing(401)})
    async with client.watching(session_id) as watcher:
        sent = await client.say(session_id, first, *(script({"text": each}) for each in ("second", "third")))
        await watcher.until_idle()
        await asyncio.sleep(3)
        assert len(watcher.of("session.status_running")) == 1
        queue = (await client.get(f"/v1/sessions/{session_id}/events", limit="100"))["data"]
        waits = [event["id"] for event in queue if event["type"] == "user.message" and event["processed_at"] is None]
        assert waits == [event["id"] for event in sent[1:]]
        said = await explained(client, session_id)
        assert said["waits"].startswith("2 inputs in the queue") and "behind the turn" in said["waits"]
        await client.post(f"/v1/sessions/{session_id}/resume", {})
        await watcher.until_idle(times=4)
        assert [text(event) for event in watcher.of("agent.message")] == ["first", "second", "third"]
    assert (await session(client, session_id))["failure"] is None


@pytest.mark.parametrize("calls_off", [True, False])
async def test_an_interrupt_or_a_new_message_lets_the_queue_go_on_without_the_turn_that_failed(
    client: Client, calls_off: bool
) -> None:
    session_id = await client.session()
    async with client.watching(session_id) as watcher:
        await client.say(
            session_id,
            script({"text": "first", "fail": failing(400, message=f"{calls_off}")}),
            script({"text": "second"}),
        )
        await watcher.until_idle()
        if calls_off:
            await client.send(session_id, {"type": "user.interrupt"})
        else:
            await client.say(session_id, script({"text": "third"}))
        expected = ["second"] if calls_off else ["second", "third"]
        await watcher.until_idle(times=1 + len(expected))
        assert [text(event) for event in watcher.of("agent.message")] == expected


async def test_a_resume_that_cannot_be_changes_nothing(client: Client) -> None:
    session_id = await client.session()
    path = f"/v1/sessions/{session_id}/resume"
    refused = await client.refused(path, {"model": "scripted/other"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "nothing_to_resume")
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script({"text": "never", "fail": failing(400)}))
        await watcher.until_idle()
    before = await session(client, session_id)
    limit = {"type": "limit", "max_list_cost": {"amount": "100", "currency": "USD"}}
    for body, field in (
        ({"model": "scripted/other", "harness": "made-up"}, "harness"),
        ({"model": ""}, "model"),
        ({"model": "scripted/other", "budget": {"type": "limit"}}, "budget.max_list_cost"),
        ({"model": "scripted/other", "budget": limit}, "budget"),
        ({"rate": 3}, "rate"),
    ):
        refused = await client.refused(path, body)
        assert (refused.status_code, refused.json()["error"]["field"]) == (400, field)
    after = await session(client, session_id)
    assert {**after, "stats": None} == {**before, "stats": None}


async def test_the_failed_sessions_of_an_outage_are_resumed_at_a_bounded_rate(client: Client) -> None:
    sessions = [await client.session(title=f"of the outage {n}") for n in range(3)]
    spared = await client.session(title="another cause")
    for n, session_id in enumerate(sessions):
        async with client.watching(session_id) as watcher:
            await client.say(session_id, script({"text": f"{n} is back", "fail": failing(400, message="outage")}))
            await watcher.until_idle()
    async with client.watching(spared) as watcher:
        await client.say(spared, script({"text": "never", "fail": failing(401)}))
        await watcher.until_idle()
    first = (await session(client, sessions[0]))["failure"]["at"]
    wanted = {"causes": ["invalid_request"], "statuses": ["terminal"], "failed_after": first, "rate_per_second": 1}
    dry = await client.post("/v1/sessions/resume", {**wanted, "dry_run": True})
    assert [each["session_id"] for each in dry["data"]] == sessions
    assert (await session(client, sessions[0]))["failure"] is not None
    answer = await client.post("/v1/sessions/resume", wanted)
    assert [each["session_id"] for each in answer["data"]] == sessions
    assert (await client.post("/v1/sessions/resume", wanted))["data"] == []
    for session_id in sessions:
        async with asyncio.timeout(30):
            await succeeded(client, session_id)
    begun = [await resumed_at(client, session_id) for session_id in sessions]
    assert begun == sorted(begun)
    assert (await session(client, spared))["failure"]["cause"] == "authentication"


async def succeeded(client: Client, session_id: str) -> None:
    while (found := await session(client, session_id))["failure"] or found["status"] != "idle":  # noqa: ASYNC110
        await asyncio.sleep(0.1)


async def resumed_at(client: Client, session_id: str) -> str:
    listed = (await client.get(f"/v1/sessions/{session_id}/events", limit="100"))["data"]
    return [event["processed_at"] for event in listed if event["type"] == "session.status_running"][-1]


@pytest.mark.slow
async def test_a_turn_that_crashes_its_worker_again_and_again_is_parked_with_the_evidence(client: Client) -> None:
    session_id = await client.session()
    slow = {"text": "slow " * 2000, "chunk_chars": 5, "chunk_ms": 100}
    crashed: list[int] = []
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(slow))
        for n in range(MAX_TURN_CRASHES):
            await watcher.until(
                lambda w, asked=n + 1: len(w.of("span.model_request_start")) == asked, timeout_seconds=60
            )
            crashed.append(client.stack.parts()["brain"])
            os.kill(crashed[-1], signal.SIGKILL)
            await client.stack.ready_again()
        await watcher.until_idle(timeout_seconds=60)
        assert watcher.events[-1]["stop_reason"]["type"] == "retries_exhausted"
    failure = (await session(client, session_id))["failure"]
    assert (failure["status"], failure["cause"]) == ("exhausted", "worker_crashed")
    assert [(each["pid"], each["ending"]) for each in failure["evidence"]] == [(pid, "crashed") for pid in crashed]


async def test_an_explanation_follows_what_the_session_does(client: Client) -> None:
    session_id = await client.session()
    assert (await explained(client, session_id))["because"] == "no turn has run yet"
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(run("until test -e go; do sleep 0.1; done"), {"text": "done"}))
        await client.say(session_id, script({"text": "the second"}))
        await watcher.until(lambda w: "agent.tool_use" in w.types)
        await asyncio.sleep(1)
        said = await explained(client, session_id)
        assert said["stands"].startswith("running: a turn began")
        assert said["does"].startswith("1 tool call (process ")
        assert "sandbox_execute" in said["does"]
        assert said["waits"].startswith("1 input in the queue")
        await client.send(session_id, {"type": "user.interrupt"})
        await watcher.until_idle(times=2)
    said = await explained(client, session_id)
    assert said["because"] == "the last turn came to its end"
    assert (said["does"], said["waits"]) == ("nothing runs for it", "nothing waits")
