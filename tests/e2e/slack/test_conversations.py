"""Talking with an agent in Slack, read back from the channel."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.slack.test_words_and_buttons import replied
from tests.support.cli import Cli
from tests.support.client import run, script, text
from tests.support.emulator import BOB, shown
from tests.support.slack import Workspace, workspace
from tests.support.stack import Stack


async def test_a_mention_is_seen_and_answered_once_in_its_thread(slack: Workspace) -> None:
    ts = await slack.slack.mention("C001", script({"text": "**hello** there"}))
    (answer,) = await slack.answers("C001", ts)
    assert shown(answer).startswith("**hello** there\nscripted/test · $0 · ")
    (mine,) = [each for each in await slack.slack.messages("C001") if each["ts"] == ts]
    assert [each["name"] for each in mine["reactions"]] == ["eyes"]


@pytest.mark.slow
async def test_where_nothing_is_streamed_the_answer_comes_whole(slack: Workspace) -> None:
    said = " ".join(f"word{n}" for n in range(60))
    ts = await slack.slack.mention("C001", script({"text": said, "chunk_ms": 200, "chunk_chars": 20}))
    (answer,) = await slack.answers("C001", ts)
    assert shown(answer).startswith(said)
    tried = [call.method for call in slack.relay.calls].count("chat.startStream")
    await slack.slack.say("C001", script({"text": said, "chunk_ms": 200, "chunk_chars": 20}), thread=ts)
    await slack.answers("C001", ts, times=2)
    assert [call.method for call in slack.relay.calls].count("chat.startStream") == tried, "it is not tried again"


async def test_a_thread_is_a_session(slack: Workspace) -> None:
    ts = await slack.slack.mention("C001", script({"text": "one"}))
    await slack.answers("C001", ts)
    await slack.slack.say("C001", script({"text": "two"}), thread=ts, user=BOB)
    first, second = await slack.answers("C001", ts, times=2)
    assert shown(first).split(" · ")[-1] == shown(second).split(" · ")[-1], "the links name one session"


@pytest.mark.slow
async def test_an_answer_that_is_cut_refused_or_empty_says_so(slack: Workspace) -> None:
    cut, refused = ":warning: the answer was cut at its limit of ", ":warning: the model refused to answer"
    silent = "_(nothing more was said)_"
    ts = await slack.slack.mention("C004", script({"text": "half an", "stop_reason": "max_tokens"}))
    await replied(slack, "C004", ts, cut)
    await slack.slack.say("C004", script({"thinking": "hm", "stop_reason": "refusal"}), thread=ts)
    await replied(slack, "C004", ts, refused)
    await slack.slack.say("C004", script({"thinking": "hm"}), thread=ts)
    await replied(slack, "C004", ts, silent)
    found = [shown(each) for each in await slack.answers("C004", ts, times=3)]
    assert all(said.startswith(begin) for said, begin in zip(found, ("half an", cut, refused, silent), strict=True))


@pytest.mark.slow
async def test_what_is_said_may_have_any_line_end_in_it(slack: Workspace, tmp_path: Path) -> None:
    ends = "one\u2028two\u2029three\x85four"
    ts = await slack.slack.mention("C001", script(run(f"printf '{ends}'"), {"text": ends + " {{result}}"}))
    (answer,) = await slack.answers("C001", ts)
    assert shown(answer).startswith(f"{ends} {ends}")
    cli = Cli(slack.client.stack, tmp_path)
    session_id = shown(answer).rpartition("/")[2]
    told = await asyncio.to_thread(cli.text, "sessions", "events", session_id, "--json")
    said = [text(event) for event in map(json.loads, told.split("\n")[:-1]) if event["type"] == "agent.message"]
    assert said == [f"{ends} {ends}"]


@pytest.mark.slow
async def test_socket_mode_does_the_same(slack: Workspace, stack: Stack, tmp_path: Path) -> None:
    async with workspace(stack, tmp_path, "socket") as opened:
        ts = await opened.slack.mention("C001", script(run("echo from the sandbox"), {"text": "it says {{result}}"}))
        (answer,) = await opened.answers("C001", ts)
        assert "it says from the sandbox" in shown(answer)
        opened.door.known.kill()
        opened.relay.stubs["apps.connections.open"] = lambda _: {"ok": False, "error": "invalid_auth"}
        assert await asyncio.to_thread(opened.door.start().running.wait, 60) == 1
        assert "Slack does not take SLACK_APP_TOKEN: invalid_auth" in opened.door.known.tail()
    keys = (await slack.client.get("/v1/api_keys"))["data"]
    (own,) = [each for each in keys if each["name"] == f"front door {opened.front_door['name']}"]
    assert own["revoked_at"] is not None, "it goes with its front door"


async def test_a_message_is_seen_while_it_waits_for_its_agent(slack: Workspace) -> None:
    ts = await slack.slack.mention("C002", script(run("sleep 300"), {"text": "never"}))

    async def seen() -> bool:
        return any(call.method == "reactions.add" and call.message == ts for call in slack.relay.calls)

    await slack.until(seen, "the sign")
    await slack.slack.say("C002", "stop", thread=ts)
    await slack.slack.say("C002", script({"text": "and on"}), thread=ts)
    await slack.answers("C002", ts)
    seen_at = [call.at for call in slack.relay.calls if call.method == "reactions.add" and call.message == ts]
    assert len(seen_at) == 1
    print(f"\nacknowledged after {seen_at[0] - slack.relay.told_at[ts]:.2f} s")


@pytest.mark.slow
async def test_slacks_own_status_is_used_where_there_is_one(slack: Workspace) -> None:
    """The emulator has no such method; the stub is shaped after slack_sdk's ``assistant_threads_setStatus``."""
    said: list[str] = []

    def stub(given: dict[str, Any]) -> dict[str, Any]:
        assert given["thread_ts"]
        said.append(given["status"])
        return {"ok": True}

    slack.relay.stubs["assistant.threads.setStatus"] = stub
    await slack.door.kill()
    ts = await slack.slack.mention("C003", script(run("sleep 300"), {"text": "never"}))

    async def running() -> bool:
        return "running `sleep 300`" in said

    async def cleared() -> bool:
        return said[-1] == ""

    await slack.until(running, "what it does")
    await slack.slack.say("C003", "stop", thread=ts)
    await slack.until(cleared, "the status cleared")
    assert await slack.slack.thread("C003", ts) == [], "no message says it"
    del slack.relay.stubs["assistant.threads.setStatus"]
