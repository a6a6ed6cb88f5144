"""What a deployment's runs come to is told in a channel, and one can go on talking there."""

import asyncio
from typing import Any

import pytest

from tests.e2e.slack.test_words_and_buttons import replied
from tests.support.client import run, script
from tests.support.emulator import BOT, buttons, shown
from tests.support.slack import STAGES, Kills, Workspace

pytestmark = pytest.mark.slow


async def deployed(slack: Workspace, words: str, *, channel: str, **more: Any) -> dict[str, Any]:
    """Make a deployment whose runs are told in a channel."""
    rules = slack.front_door["rules"]
    message = {"type": "user.message", "content": [{"type": "text", "text": words}]}
    wanted = {
        "name": "nightly",
        "agent": rules["agent_id"],
        "environment_id": rules["environment_id"],
        "initial_events": [message],
        "reports_to": {"front_door_id": slack.front_door["id"], "place": channel},
        **more,
    }
    return await slack.client.post("/v1/deployments", wanted)


async def begun(slack: Workspace, channel: str, words: str) -> dict[str, Any]:
    """Wait for the message of ours that begins a thread and says this; there is one."""

    async def found() -> list[dict[str, Any]]:
        ours = [each for each in await slack.slack.messages(channel) if each.get("user") == BOT]
        return [each for each in ours if not each.get("thread_ts") and words in shown(each)]

    await slack.until(found, f"{words!r} in {channel}")
    (message,) = await found()
    return message


async def test_a_runs_answer_begins_a_thread_that_is_its_session(slack: Workspace) -> None:
    words = script({"text": "first a word", **run("echo counted")}, {"text": "the result: {{result}}"})
    made = await deployed(slack, words, channel="C001")
    assert made["reports_to"] == {"front_door_id": slack.front_door["id"], "place": "C001"}
    started = await slack.client.post(f"/v1/deployments/{made['id']}/run")
    root = await begun(slack, "C001", "nightly")
    assert shown(root).startswith("**nightly**\n\nthe result: counted")
    assert "first a word" not in str(await slack.slack.messages("C001")), "only what it came to"
    assert started["session_id"] in shown(root)
    await slack.slack.say("C001", script({"text": "a reply"}), thread=root["ts"])
    (reply,) = await slack.answers("C001", root["ts"])
    assert shown(reply).startswith("a reply")
    assert started["session_id"] in shown(reply)


async def test_a_run_that_fails_can_be_resumed_there(slack: Workspace) -> None:
    failing = {"fail": {"status": 400, "times": 1}, "text": "in the end"}
    made = await deployed(slack, script(failing), channel="C002")
    await slack.client.post(f"/v1/deployments/{made['id']}/run")
    root = await begun(slack, "C002", "nightly: ")
    assert "The turn failed" in shown(root)
    assert [each["text"]["text"] for each in buttons(root)] == ["Resume"]
    await slack.slack.press(root, "resume")
    (answer,) = await slack.answers("C002", root["ts"])
    assert shown(answer).startswith("in the end")


async def test_a_report_that_is_declined_as_it_is_begins_its_thread_with_words(slack: Workspace) -> None:
    slack.relay.declines["chat.postMessage"] = ["msg_blocks_too_long"]
    steps = script(run("echo kept > /mnt/session/outputs/kept.txt"), {"text": "what it came to"})
    made = await deployed(slack, steps, channel="C003", name="declined")
    await slack.client.post(f"/v1/deployments/{made['id']}/run")
    root = await begun(slack, "C003", "declined")
    assert shown(root) == "**declined**: see the file."

    async def files() -> list[str] | None:
        found = [
            file["name"] for each in await slack.slack.thread("C003", root["ts"]) for file in each.get("files", [])
        ]
        return found if len(found) == 2 else None

    assert await slack.until(files, "the answer and the file, in its thread") == ["answer.md", "kept.txt"]
    await slack.slack.say("C003", script({"text": "a reply"}), thread=root["ts"])
    await replied(slack, "C003", root["ts"], "a reply")


@pytest.mark.timeout(200)
async def test_it_stands_there_once_whatever_dies(slack: Workspace) -> None:
    async def told(channel: str) -> None:
        words = f"killed over {channel}"
        made = await deployed(slack, script({"text": words}), channel=channel)
        await slack.client.post(f"/v1/deployments/{made['id']}/run")
        root = await begun(slack, channel, words)
        await slack.slack.say(channel, script({"text": "heard"}), thread=root["ts"])
        await slack.answers(channel, root["ts"])
        await begun(slack, channel, words)

    with Kills(slack, [("chat.postMessage", stage) for stage in STAGES]) as kills:
        await asyncio.gather(*map(told, slack.slack.channels[4:6]))
    assert not kills.left


async def test_runs_of_one_session_are_told_in_one_thread(slack: Workspace) -> None:
    made = await deployed(slack, script({"text": "once more"}), channel="C003", session="continue")
    await slack.client.post(f"/v1/deployments/{made['id']}/run")
    root = await begun(slack, "C003", "once more")
    await slack.client.post(f"/v1/deployments/{made['id']}/run")
    (second,) = await slack.answers("C003", root["ts"])
    assert "once more" in shown(second)
    await begun(slack, "C003", "once more")


async def test_what_a_session_did_before_is_not_told_again(slack: Workspace) -> None:
    made = await deployed(
        slack, script({"text": "not once more"}), channel="C002", session="continue", reports_to=None
    )
    path = f"/v1/deployments/{made['id']}"
    first = await slack.client.post(f"{path}/run")

    async def rested() -> bool:
        return (await slack.client.get(f"/v1/sessions/{first['session_id']}"))["stop_reason"] is not None

    await slack.until(rested, "the first run's rest")
    await slack.client.post(path, {"reports_to": {"front_door_id": slack.front_door["id"], "place": "C002"}})
    await slack.client.post(f"{path}/run")
    root = await begun(slack, "C002", "not once more")
    await slack.slack.say("C002", script({"text": "a reply"}), thread=root["ts"])
    (reply,) = await slack.answers("C002", root["ts"])
    assert shown(reply).startswith("a reply")
    await slack.slack.say("C002", "new", thread=root["ts"])
    await replied(slack, "C002", root["ts"], "begins a new session")
    await slack.client.post(f"{path}/run")

    async def roots() -> list[dict[str, Any]] | None:
        ours = [each for each in await slack.slack.messages("C002") if each.get("user") == BOT]
        found = [each for each in ours if not each.get("thread_ts") and "not once more" in shown(each)]
        return found if len(found) == 2 else None

    *_, last = await slack.until(roots, "the third run's thread")
    await slack.slack.say("C002", script({"text": "another reply"}), thread=last["ts"])
    (reply,) = await slack.answers("C002", last["ts"])
    assert shown(reply).startswith("another reply"), "what came before is told nowhere twice"


async def test_a_deployment_names_a_place_where_its_agent_may_be(slack: Workspace) -> None:
    to = {"front_door_id": "fdr_00000000000000000000000000", "place": "C001"}
    refused = await slack.client.refused(
        "/v1/deployments",
        {
            "name": "x",
            "agent": slack.front_door["rules"]["agent_id"],
            "environment_id": slack.front_door["rules"]["environment_id"],
            "initial_events": [{"type": "user.message", "content": [{"type": "text", "text": "x"}]}],
            "reports_to": to,
        },
    )
    assert refused.json()["error"]["code"] == "front_door_not_found"
    async with slack.ruled(places={"C001": {"agent_ids": []}}):
        refused = await slack.client.refused(
            "/v1/deployments",
            {
                "name": "x",
                "agent": slack.front_door["rules"]["agent_id"],
                "environment_id": slack.front_door["rules"]["environment_id"],
                "initial_events": [{"type": "user.message", "content": [{"type": "text", "text": "x"}]}],
                "reports_to": {"front_door_id": slack.front_door["id"], "place": "C001"},
            },
        )
    assert (refused.status_code, refused.json()["error"]["field"]) == (400, "reports_to.place")
