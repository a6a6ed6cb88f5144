"""Who is kept out of the front door: requests that are not Slack's, of another team, or old."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.client import run, script
from tests.support.emulator import ALICE, APP, BOT, SIGNING_SECRET, TEAM, shown
from tests.support.slack import Workspace, workspace
from tests.support.stack import Stack


def told(**changes: Any) -> bytes:
    event = {
        "type": "app_mention",
        "user": ALICE,
        "text": f"<@{BOT}> " + script({"text": "let in"}),
        "ts": f"{time.time():.6f}",
        "channel": "C001",
        **changes.pop("event", {}),
    }
    envelope = {"team_id": TEAM, "api_app_id": APP, "event_id": f"Ev{time.time_ns()}", "type": "event_callback"}
    return json.dumps({**envelope, "event": event, **changes}).encode()


def signed(body: bytes, *, secret: str = SIGNING_SECRET, age_seconds: int = 0) -> dict[str, str]:
    at = str(int(time.time()) - age_seconds)
    digest = hmac.new(secret.encode(), f"v0:{at}:".encode() + body, hashlib.sha256).hexdigest()
    return {
        "content-type": "application/json",
        "x-slack-request-timestamp": at,
        "x-slack-signature": f"v0={digest}",
    }


async def send(slack: Workspace, body: bytes, headers: dict[str, str]) -> int:
    async with httpx.AsyncClient(timeout=20) as client:
        return (await client.post(slack.relay.door_url, content=body, headers=headers)).status_code


async def inbox(slack: Workspace) -> str | None:
    """Which session is the newest: what is let in makes one."""
    newest = (await slack.client.get("/v1/sessions", limit="1"))["data"]
    return newest[0]["id"] if newest else None


async def recorded(slack: Workspace, reason: str, count: int) -> None:
    """Wait until so many refusals are on record, and see that there are no more."""

    async def enough() -> bool:
        return await slack.refused(reason) >= count

    await slack.until(enough, f"{count} refusals: {reason}")
    assert await slack.refused(reason) == count


async def test_what_slack_did_not_sign_just_now_is_refused_and_on_record(slack: Workspace) -> None:
    body, before = told(), await inbox(slack)
    unsigned, forged = {"content-type": "application/json"}, signed(body, secret="another secret")
    counted = await slack.refused("bad_signature")
    for headers in (unsigned, forged, signed(body, age_seconds=3600)):
        assert await send(slack, body, headers) == 401
    await recorded(slack, "bad_signature", counted + 3)
    assert await inbox(slack) == before


@pytest.mark.slow
async def test_no_more_of_a_request_is_read_than_slack_sends(slack: Workspace) -> None:
    before = await slack.refused("bad_signature")
    assert await send(slack, b"x" * 6_000_000, {"content-type": "application/json"}) == 413
    answers = await asyncio.gather(*(send(slack, b"{}", {"content-type": "application/json"}) for _ in range(50)))
    assert set(answers) == {401}
    await recorded(slack, "bad_signature", before + 50)


async def test_what_happens_in_a_channel_that_another_team_shares_with_us_is_ours(slack: Workspace) -> None:
    before = await inbox(slack)
    body = told(team_id="T02HOST", authorizations=[{"team_id": TEAM}], event={"team": TEAM})
    assert await send(slack, body, signed(body)) == 200

    async def let_in() -> bool:
        return await inbox(slack) != before

    await slack.until(let_in, "a session")
    refused = await slack.refused("another_team")
    body = told(team_id="T02HOST", authorizations=[{"team_id": "T03ELSE"}])
    assert await send(slack, body, signed(body)) == 200
    await recorded(slack, "another_team", refused + 1)


async def test_a_stranger_in_a_shared_channel_stops_nothing(slack: Workspace) -> None:
    """The event of a reaction does not say whose the person is."""
    ts = await slack.slack.mention("C001", script(run("sleep 300"), {"text": "never"}))
    refused = await slack.refused("guest_of_another_team")

    async def begun() -> dict[str, Any] | None:
        found = (await slack.client.get("/v1/sessions", limit="10"))["data"]
        return next((each for each in found if each["metadata"].get("thread") == ts), None)

    session = await slack.until(begun, "its session")
    with stranger(slack) as person:
        await slack.slack.react("C001", ts, "x", user=person)
        await recorded(slack, "guest_of_another_team", refused + 1)
    stops = await slack.client.get(f"/v1/sessions/{session['id']}/events", types="user.interrupt")
    assert stops["data"] == []
    await slack.slack.react("C001", ts, "x")

    async def stopped() -> bool:
        return bool((await slack.client.get(f"/v1/sessions/{session['id']}"))["stop_reason"])

    await slack.until(stopped, "our own stop")


async def test_whose_a_message_is_is_asked_if_its_event_does_not_say(slack: Workspace) -> None:
    """The emulator's messages never do."""
    before, refused = await inbox(slack), await slack.refused("guest_of_another_team")
    with stranger(slack) as person:
        ts = await slack.slack.mention("C001", script({"text": "for strangers"}), user=person)
        await recorded(slack, "guest_of_another_team", refused + 1)
    assert await inbox(slack) == before
    unknown = await slack.slack.mention("C001", script({"text": "for nobody"}), user="U98NOBODY")
    await recorded(slack, "guest_of_another_team", refused + 2)
    assert not [call for call in slack.relay.calls if call.message in (ts, unknown)], "nor is it acknowledged"


async def test_a_strangers_command_is_answered_with_a_refusal(slack: Workspace) -> None:
    refused = await slack.refused("guest_of_another_team")
    with stranger(slack) as person:
        await slack.slack.command("C004", "agents", user=person)
        await recorded(slack, "guest_of_another_team", refused + 1)
        told = [each for each in await slack.slack.messages("C004") if each.get("ephemeral_to") == person]
    said = [each["text"] for each in told if not each.get("thread_ts")]
    assert said == ["Sorry, only people of this workspace may talk with agents."]


@contextlib.contextmanager
def stranger(slack: Workspace) -> Generator[str]:
    """Have somebody of another team in the channel, whom Slack describes as it does such people."""
    user = {"id": "U99STRANGER", "team_id": "T02HOST", "real_name": "Sam"}
    slack.relay.stubs["users.info"] = lambda _: {"ok": True, "user": user}
    try:
        yield user["id"]
    finally:
        del slack.relay.stubs["users.info"]


async def test_a_vault_with_a_front_doors_tokens_is_not_deleted(slack: Workspace) -> None:
    refused = await slack.client.refused(f"/v1/vaults/{slack.front_door['vault_id']}", method="DELETE")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "vault_in_use")
    assert refused.headers["x-should-retry"] == "false"


async def test_what_is_no_text_is_no_reason_to_tell_it_again(slack: Workspace) -> None:
    body = told(event={"text": f"<@{BOT}> \0\ud800\n" + script({"text": "let in"})})
    assert await send(slack, body, signed(body)) == 200
    (answer,) = await slack.answers("C001", json.loads(body)["event"]["ts"])
    assert shown(answer).startswith("let in")


async def test_a_replay_within_its_time_does_nothing_again(slack: Workspace) -> None:
    body = told()
    headers = signed(body)
    assert [await send(slack, body, headers) for _ in range(3)] == [200, 200, 200]
    ts = json.loads(body)["event"]["ts"]
    (answer,) = await slack.answers("C001", ts)
    assert shown(answer).startswith("let in")
    await slack.slack.say("C001", script({"text": "and on"}), thread=ts)
    found = await slack.answers("C001", ts, times=2)
    assert [shown(each).splitlines()[0] for each in found] == ["let in", "and on"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"team_id": "T99OTHER"}, "another_team"),
        ({"api_app_id": "A99OTHER"}, "another_team"),
        ({"event": {"user_team": "T99OTHER", "ts": "1.1"}}, "guest_of_another_team"),
    ],
)
async def test_another_team_is_refused_though_the_signature_holds(
    slack: Workspace, changes: dict[str, Any], reason: str
) -> None:
    before, counted = await inbox(slack), await slack.refused(reason)
    body = told(**changes)
    assert await send(slack, body, signed(body)) == 200, "Slack need not tell it again"
    assert await slack.refused(reason) == counted + 1
    assert await inbox(slack) == before


async def test_a_forged_interaction_is_refused(slack: Workspace) -> None:
    payload = {
        "type": "block_actions",
        "team": {"id": TEAM},
        "api_app_id": APP,
        "user": {"id": ALICE},
        "channel": {"id": "C001"},
        "message": {"ts": "1.000001"},
        "trigger_id": "1.2.3",
        "actions": [{"type": "button", "action_id": "bulkhead:allow", "value": "sevt_x:y", "action_ts": "1.5"}],
    }
    body = httpx.Request("POST", "http://x", data={"payload": json.dumps(payload)}).content
    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert await send(slack, body, {**signed(body, secret="another"), **kind}) == 401
    unknown, forged = await slack.refused("unknown_button"), await slack.refused("forged_button")
    assert await send(slack, body, {**signed(body), **kind}) == 200
    assert await slack.refused("unknown_button") == unknown + 1, (
        "a button in a thread that is none of ours, or no more"
    )
    for n, metadata in enumerate((json.dumps(["sevt_x:y", "C001", "1.000001"]), "{")):
        values = {"reason": {"reason": {"type": "plain_text_input", "value": "no"}}}
        view = {"id": f"V{n}", "type": "modal", "callback_id": "deny", "private_metadata": metadata}
        form = {**payload, "type": "view_submission", "view": {**view, "state": {"values": values}}}
        body = httpx.Request("POST", "http://x", data={"payload": json.dumps(form)}).content
        assert await send(slack, body, {**signed(body), **kind}) == 200
        assert await slack.refused("unknown_button") == unknown + 2
        assert await slack.refused("forged_button") == forged + n


@pytest.mark.slow
async def test_tokens_of_another_team_open_nothing(slack: Workspace) -> None:
    def somebody_else(_: dict[str, Any]) -> dict[str, Any]:
        return {"ok": True, "team_id": "T99OTHER", "team": "Other", "user_id": BOT, "bot_id": "B0BOT"}

    slack.relay.stubs["auth.test"] = somebody_else
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "controlplane.cli", "slack"],
        env={
            **os.environ,
            "BULKHEAD_DATA_DIR": str(slack.client.stack.data_dir),
            "BULKHEAD_SLACK_API_URL": str(slack.relay.api_url),
            "BULKHEAD_SLACK_FRONT_DOOR": slack.front_door["id"],
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    del slack.relay.stubs["auth.test"]
    assert ended.returncode == 1
    assert "T99OTHER" in ended.stderr
    assert await slack.refused("token_of_another_team") == 1


@pytest.mark.slow
async def test_a_revoked_key_shuts_the_door(stack: Stack, tmp_path: Path) -> None:
    async with workspace(stack, tmp_path, "events") as opened:
        ts = await opened.slack.mention("C001", script({"text": "open"}))
        await opened.answers("C001", ts)
        keys = (await opened.client.get("/v1/api_keys"))["data"]
        (own,) = [each for each in keys if each["name"] == f"front door {opened.front_door['name']}"]
        await opened.client.post(f"/v1/api_keys/{own['id']}/revoke")

        async def turned_away() -> bool:
            await opened.slack.say("C001", script({"text": "is it?"}), thread=ts)
            return await opened.refused("key_revoked") > 0

        await opened.until(turned_away, "somebody turned away")
        before, refused = await inbox(opened), await opened.refused("key_revoked")
        await opened.slack.mention("C002", script({"text": "shut"}))
        await opened.slack.react("C001", ts, "x")

        async def both() -> bool:
            # More may be: what was said before it was known is turned away as well, a moment later.
            return await opened.refused("key_revoked") >= refused + 2

        await opened.until(both, "both turned away")
        assert await inbox(opened) == before

        async def told() -> bool:
            return "key was revoked" in str(await opened.slack.messages("C002"))

        await opened.until(told, "a word about it")
        opened.door.known.kill()
        assert await asyncio.to_thread(opened.door.start().running.wait, 60) == 1
        assert "was revoked: it is shut" in opened.door.known.tail()
