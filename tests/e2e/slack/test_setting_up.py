"""From nothing to a front door: manifest, connect, check."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse

from controlplane.frontdoors.slack.manifest import SCOPES
from controlplane.models.listening import listening
from tests.support.client import script
from tests.support.emulator import APP_TOKEN, BOT_TOKEN, SIGNING_SECRET, shown
from tests.support.slack import Workspace, workspace
from tests.support.stack import Stack

pytestmark = pytest.mark.slow


async def bulkhead(slack: Workspace, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "controlplane.cli", "slack", *arguments],
        env={
            **os.environ,
            "BULKHEAD_DATA_DIR": str(slack.client.stack.data_dir),
            "BULKHEAD_SLACK_API_URL": slack.relay.api_url,
            "BULKHEAD_SLACK_FRONT_DOOR": slack.front_door["id"],
            "BULKHEAD_SLACK_PORT": str(slack.door.port),
            **variables,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_the_manifest_is_for_either_way(slack: Workspace) -> None:
    by_socket = json.loads((await bulkhead(slack, "manifest")).stdout)
    assert by_socket["settings"]["socket_mode_enabled"] is True
    assert "request_url" not in str(by_socket)
    url = "https://bulkhead.example/slack/events"
    by_http = json.loads((await bulkhead(slack, "manifest", "--request-url", url, "--name", "Helper")).stdout)
    assert by_http["settings"]["socket_mode_enabled"] is False
    assert by_http["settings"]["event_subscriptions"]["request_url"] == url
    assert by_http["settings"]["interactivity"]["request_url"] == url
    assert by_http["display_information"]["name"] == "Helper"
    assert by_http["oauth_config"]["scopes"]["bot"] == list(SCOPES)


async def test_a_check_says_what_is_right(slack: Workspace) -> None:
    checked = await bulkhead(slack, "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "bot token: team Test" in checked.stdout
    assert "answers what is signed with the secret in the vault" in checked.stdout
    counted = await slack.refused("bad_signature")
    elsewhere = await bulkhead(slack, "check", "--request-url", slack.relay.door_url, BULKHEAD_SLACK_PORT="9")
    assert elsewhere.returncode == 0, elsewhere.stdout
    assert await slack.refused("bad_signature") == counted, "its own question is no stranger's"
    async with listening(PlainTextResponse("hello")) as url:
        other = await bulkhead(slack, "check", "--request-url", url)
    assert other.returncode == 1
    assert "answered 200 to what the vault's secret signed" in other.stdout.replace("\n", " ")


async def test_a_check_says_what_is_wrong(slack: Workspace) -> None:
    slack.relay.stubs["auth.test"] = lambda _: {"ok": False, "error": "invalid_auth"}
    refused = await bulkhead(slack, "check")
    del slack.relay.stubs["auth.test"]
    assert refused.returncode == 1
    assert "invalid_auth" in refused.stdout
    slack.relay.headers["auth.test"] = {"x-oauth-scopes": "chat:write,commands"}
    lacking = await bulkhead(slack, "check", "--json")
    del slack.relay.headers["auth.test"]
    scopes = next(each for each in json.loads(lacking.stdout) if each["name"] == "scopes")
    assert scopes["state"] == "bad"
    assert "app_mentions:read" in scopes["detail"]
    unreachable = await bulkhead(slack, "check", BULKHEAD_SLACK_API_URL="http://127.0.0.1:9/api/")
    assert unreachable.returncode == 1
    assert "does not answer" in unreachable.stdout
    silent = await bulkhead(slack, "check", BULKHEAD_SLACK_PORT="9")
    assert "nothing listens" in silent.stdout


async def test_connecting_puts_the_tokens_into_a_vault_and_shows_none(slack: Workspace) -> None:
    tokens = {"SLACK_BOT_TOKEN": BOT_TOKEN, "SLACK_APP_TOKEN": APP_TOKEN, "SLACK_SIGNING_SECRET": SIGNING_SECRET}
    made = await bulkhead(slack, "connect", "--name", "another", "--json", **tokens)
    assert made.returncode == 0, made.stderr
    door = json.loads(made.stdout)
    assert not any(token in made.stdout + made.stderr for token in tokens.values())
    found = (await slack.client.get(f"/v1/vaults/{door['vault_id']}/credentials"))["data"]
    assert {each["auth"]["secret_name"] for each in found} == set(tokens)
    several = await bulkhead(slack, "check", BULKHEAD_SLACK_FRONT_DOOR="")
    assert several.returncode == 1
    assert "2 Slack front doors" in several.stderr, "the newest is not taken for the one that is meant"
    unclear = await bulkhead(slack, "place", "C042", "--json", BULKHEAD_SLACK_FRONT_DOOR="")
    assert "2 Slack front doors" in unclear.stderr
    limit = ("place", "C042", "--only-person", "U01ALICE", "--json")
    limited = json.loads((await bulkhead(slack, *limit, BULKHEAD_SLACK_FRONT_DOOR="another")).stdout)
    assert limited["id"] == door["id"]
    assert limited["rules"]["places"]["C042"]["people"] == ["U01ALICE"]
    assert limited["rules"]["session_url"] is None, "what people cannot open is no link"
    for where, options in (("direct", ["--only-person", "*"]), ("everywhere", ["--decider", "U02BOB"]), ("C042", [])):
        said = await bulkhead(slack, "place", where, *options, "--json", BULKHEAD_SLACK_FRONT_DOOR="another")
        limited = json.loads(said.stdout)
    rules = limited["rules"]
    assert (rules["direct"]["people"], rules["deciders"], rules["places"]) == (["*"], ["U02BOB"], {})
    before = (await slack.client.get("/v1/vaults", limit="1000"))["data"]
    again = await bulkhead(slack, "connect", "--name", "another", **tokens)
    assert "already" in again.stderr
    assert (await slack.client.get("/v1/vaults", limit="1000"))["data"] == before, "no vault is left behind"
    nothing = await bulkhead(slack, "connect", "--name", "third", SLACK_BOT_TOKEN="", SLACK_APP_TOKEN="")
    assert nothing.returncode == 1
    assert "missing" in nothing.stderr or "needed" in nothing.stderr
    gone = await bulkhead(slack, "disconnect", "--json", BULKHEAD_SLACK_FRONT_DOOR="another")
    assert json.loads(gone.stdout)["id"] == door["id"]


async def test_a_token_that_was_replaced_is_used_as_soon_as_it_is_in_the_vault(stack: Stack, tmp_path: Path) -> None:
    async with workspace(stack, tmp_path, "events") as opened:
        path = f"/v1/vaults/{opened.front_door['vault_id']}/credentials"
        found = (await opened.client.get(path))["data"]
        (bot,) = [each["id"] for each in found if each["auth"]["secret_name"] == "SLACK_BOT_TOKEN"]

        async def rotate(token: str) -> None:
            auth = {"type": "environment_variable", "secret_value": token}
            await opened.client.post(f"{path}/{bot}", {"auth": auth})

        async def said_no() -> bool:
            return "slack_tokens_not_replaced" in opened.door.known.tail()

        async def confused() -> bool:
            return "TypeError" in opened.door.known.tail()

        opened.relay.revoked = {BOT_TOKEN, "xoxb-mistyped"}
        opened.relay.issued = {"xoxb-issued"}
        ts = await opened.slack.mention("C001", script({"text": "after all"}))
        await rotate("xoxb-mistyped")
        await opened.until(said_no, "that Slack does not take the new one either")
        opened.relay.stubs["bots.info"] = lambda _: {"ok": True}
        await rotate("xoxb-issued")
        await opened.until(confused, "that nothing is known of the new one")
        del opened.relay.stubs["bots.info"]
        (answer,) = await opened.answers("C001", ts)
        assert shown(answer).startswith("after all")
        assert opened.door.known.running.poll() is None, "nobody had to start it again"
        assert "xoxb-" not in opened.door.known.log.read_text()
