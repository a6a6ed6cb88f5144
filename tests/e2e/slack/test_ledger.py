"""However often, late or out of order Slack tells us things, and whatever becomes of ours: one turn, one answer."""

import asyncio
from typing import Any

import pytest

from tests.support.client import script, text
from tests.support.emulator import BOT, BOT_TOKEN, shown
from tests.support.slack import Fault, Workspace


async def said_in(slack: Workspace, channel: str, thread: str) -> list[str]:
    """What the thread's session was told, as its log has it."""
    (answer, *_) = await slack.answers(channel, thread)
    session_id = shown(answer).rpartition("/")[2]
    found = await slack.client.get(f"/v1/sessions/{session_id}/events", types="user.message", limit="1000")
    return [text(event) for event in found["data"]]


async def test_what_is_told_five_times_is_one_turn(slack: Workspace) -> None:
    slack.relay.copies = 5
    ts = await slack.slack.mention("C001", script({"text": "once"}))
    slack.relay.copies = 1
    (answer,) = await slack.answers("C001", ts)
    assert shown(answer).startswith("once\n")
    assert len(await said_in(slack, "C001", ts)) == 1
    again = await slack.slack.mention("C001", script({"text": "and again"}), thread=ts)
    assert again > ts
    assert len(await slack.answers("C001", ts, times=2)) == 2, "nothing came late of the first"


async def test_a_mention_and_its_message_are_one_in_either_order(slack: Workspace) -> None:
    slack.relay.hold = lambda told: True
    ts = await slack.slack.mention("C001", script({"text": "one of two events"}))
    kinds = [told["event"]["type"] for told in slack.relay.events[-2:]]
    assert kinds == ["message", "app_mention"]
    await slack.relay.release()
    (answer,) = await slack.answers("C001", ts)
    assert shown(answer).startswith("one of two events")
    assert len(await said_in(slack, "C001", ts)) == 1


@pytest.mark.slow
async def test_what_is_told_first_is_on_record_though_slack_does_not_say_whose_the_token_is(slack: Workspace) -> None:
    troubles = ["ratelimited", "internal_error"]

    async def troubled(_: dict[str, Any]) -> dict[str, Any]:
        return {"ok": False, "error": troubles.pop()} if troubles else await slack.slack.whose()

    slack.relay.stubs["auth.test"] = troubled
    await slack.door.kill()
    assert not troubles, "it waits until Slack says whose the token is"
    slack.relay.stubs["auth.test"] = lambda _: {"ok": False, "error": "fatal_error"}
    ts = await slack.slack.mention("C001", script({"text": "told first"}))
    try:
        (answer,) = await slack.answers("C001", ts)
    finally:
        del slack.relay.stubs["auth.test"]
    assert shown(answer).startswith("told first")


async def test_a_reply_that_overtakes_the_mention_is_not_lost(slack: Workspace) -> None:
    slack.relay.hold = lambda told: "overtaken" in told["event"].get("text", "")
    ts = await slack.slack.mention("C001", script({"text": "overtaken"}))
    slack.relay.hold = None
    await slack.slack.say("C001", script({"text": "the reply"}), thread=ts)
    assert await slack.slack.thread("C001", ts) == []
    await slack.relay.release()
    first, second = await slack.answers("C001", ts, times=2)
    assert [shown(each).splitlines()[0] for each in (first, second)] == ["overtaken", "the reply"]


async def test_what_people_say_to_each_other_is_left_alone(slack: Workspace) -> None:
    root = await slack.slack.say("C002", "lunch?")
    await slack.slack.say("C002", "yes", thread=root)
    ts = await slack.slack.mention("C002", script({"text": "I do not eat"}), thread=root)
    await slack.answers("C002", root)
    assert len(await said_in(slack, "C002", root)) == 1, "what was said before is not for the agent"
    await slack.slack.say("C002", "<@U02BOB> what do you think?", thread=root)
    await slack.slack.mention("C002", script({"text": "done"}), thread=root)
    await slack.answers("C002", root, times=2)
    assert len(await said_in(slack, "C002", root)) == 2, "what begins with somebody else's mention neither"
    assert ts > root


async def stands_despite(slack: Workspace, channel: str, fault: Fault, *, times: int = 2) -> None:
    """See that an answer stands once, and what follows it, though this is done to so many requests to post it."""
    due = slack.relay.faults[f"chat.postMessage {channel}"] = [fault] * times
    ts = await slack.slack.mention(channel, script({"text": f"despite {fault}"}))
    await slack.answers(channel, ts, seconds=250)
    await slack.slack.say(channel, script({"text": "after it"}), thread=ts)
    found = await slack.answers(channel, ts, times=2)
    assert [shown(each).splitlines()[0] for each in found] == [f"despite {fault}", "after it"]
    assert not due


async def test_an_answer_stands_once_though_slack_fails_after_it_took_it(slack: Workspace) -> None:
    await stands_despite(slack, "C003", "take_and_fail")


@pytest.mark.slow
async def test_an_answer_outlives_a_token_that_did_not_hold_for_a_while(slack: Workspace) -> None:
    slack.relay.declines["chat.postMessage"] = ["token_revoked", "invalid_auth", "account_inactive"]
    slack.relay.declines["conversations.replies"] = ["token_revoked", "invalid_auth"]
    ts = await slack.slack.mention("C001", script({"text": "after all that"}))
    (answer,) = await slack.answers("C001", ts)
    assert shown(answer).startswith("after all that")
    assert not slack.relay.declines["chat.postMessage"]
    assert not slack.relay.declines["conversations.replies"]


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_an_answer_stands_once_whatever_slack_does_with_it(slack: Workspace) -> None:
    """At the same time, each in a channel of its own: a minute of refusals, failures, and answers that never come."""
    faults: list[Fault] = ["fail", "take_and_cut", "take_and_reset", "take_and_hang", "take_late"]
    *others, limited = slack.slack.channels[-6:]
    await asyncio.gather(
        stands_despite(slack, limited, "limit", times=60),
        *(stands_despite(slack, channel, fault) for channel, fault in zip(others, faults, strict=True)),
    )
    refused = [call for call in slack.relay.calls if (call.place, call.status) == (limited, 429)]
    assert len(refused) == 60, "each of them a second at least, which is what Slack asked for"


@pytest.mark.parametrize("reason", ["msg_blocks_too_long", "invalid_metadata_format"])
async def test_what_slack_declines_is_said_in_another_way_and_listed(slack: Workspace, reason: str) -> None:
    slack.relay.declines["chat.postMessage"] = [reason]
    before = await slack.refused(f"declined: {reason}")
    ts = await slack.slack.mention("C001", script({"text": "too long it is"}))

    async def as_file() -> bool:
        return "answer.md" in str(await slack.slack.thread("C001", ts))

    await slack.until(as_file, "the answer as a file")
    assert await slack.refused(f"declined: {reason}") == before + 1


@pytest.mark.slow
async def test_a_long_answer_is_whole(slack: Workspace) -> None:
    table = "| n | square |\n|---|---|\n" + "\n".join(f"| {n} | {n * n} |" for n in range(400))
    code = "```python\n" + "\n".join(f"print({n})  # {'x' * 40}" for n in range(400)) + "\n```"
    whole = f"# Long\n\n{table}\n\n{code}\n\n" + "\n\n".join(f"Paragraph {n} " + "word " * 60 for n in range(40))
    ts = await slack.slack.mention("C002", script({"text": whole}))
    parts = await slack.answers("C002", ts)
    texts = [each["blocks"][0]["text"] for each in parts]
    assert len(texts) > 3
    assert all(len(each) <= 12_000 for each in texts)
    joined = "\n".join(texts)
    for n in range(400):
        assert joined.count(f"| {n} | {n * n} |") == joined.count(f"print({n})  #") == 1
    assert all(joined.count(f"Paragraph {n} ") == 1 for n in range(40))
    assert all(each.count("```") % 2 == 0 for each in texts), "code is closed in every part"


@pytest.mark.slow
async def test_a_very_long_answer_comes_as_a_file(slack: Workspace) -> None:
    whole = "\n\n".join(f"Paragraph {n} " + "word " * 100 for n in range(200))
    ts = await slack.slack.mention("C002", script({"text": whole}))

    async def with_file() -> list[dict[str, Any]]:
        return [each for each in await slack.slack.thread("C002", ts) if each.get("files")]

    (message,) = await slack.until(with_file, "the file")
    (file,) = message["files"]
    content = (await slack.slack.http.get(file["url_private"], headers={"Authorization": f"Bearer {BOT_TOKEN}"})).text
    assert content == whole
    assert message["user"] == BOT


async def test_mentions_of_everybody_and_secrets_do_not_leave(slack: Workspace) -> None:
    token = "ghp_" + "a1B2" * 9
    said = f"<!channel> @here look: {token} <@U02BOB>"
    ts = await slack.slack.mention("C001", script({"text": said}))
    (answer,) = await slack.answers("C001", ts)
    whole = str(answer)
    assert token not in whole
    assert "<!channel" not in whole
    assert "@here" not in whole
    assert "[redacted: GitHub Token]" in shown(answer)
    assert "<@U02BOB>" in shown(answer)
