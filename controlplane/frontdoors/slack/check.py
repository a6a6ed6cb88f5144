"""What is right and wrong about a Slack front door: its tokens, its scopes, and who reaches whom."""

from collections.abc import Mapping
from typing import Any, Literal, cast

import aiohttp
from pydantic import BaseModel, ConfigDict, SecretStr
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from controlplane.errors import BulkheadError
from controlplane.frontdoors.slack.identity import identity
from controlplane.frontdoors.slack.manifest import SCOPES
from controlplane.frontdoors.slack.process import APP_TOKEN, BOT_TOKEN, PATH, SIGNING_SECRET
from controlplane.settings import Settings
from controlplane.store.frontdoors import FrontDoorRecord

_TIMEOUT_SECONDS = 10


class Finding(BaseModel):
    """What one check came to."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: Literal["ok", "note", "bad"]
    detail: str
    next_step: str = ""


async def check(settings: Settings, door: FrontDoorRecord, tokens: Mapping[str, SecretStr]) -> list[Finding]:
    """Return what was found, good and bad."""
    bot = tokens.get(BOT_TOKEN)
    if bot is None:
        return [_bad("bot token", f"{BOT_TOKEN} is not in the vault {door.vault_id}", "run `bulkhead slack connect`")]
    client = AsyncWebClient(token=bot.get_secret_value(), base_url=settings.slack_api_url, timeout=_TIMEOUT_SECONDS)
    found = await _bot(client, door)
    if APP_TOKEN in tokens:
        found.append(await _socket(settings, tokens[APP_TOKEN]))
    elif SIGNING_SECRET in tokens:
        found.append(await _http(settings))
    else:
        missing = f"neither {SIGNING_SECRET} (HTTP) nor {APP_TOKEN} (Socket Mode) is in the vault"
        found.append(_bad("transport", missing, "store one of them with `bulkhead vaults credentials create`"))
    return found


async def _bot(client: AsyncWebClient, door: FrontDoorRecord) -> list[Finding]:
    try:
        who = await identity(client)
    except BulkheadError as error:
        return [_bad("bot token", error.message, error.next_step or "")]
    found = [_ok("bot token", f"team {who.team_name or who.team} ({who.team}), app {who.app}")]
    if door.team is not None and (door.team, door.app) != (who.team, who.app):
        was = f"this front door is of app {door.app} in team {door.team}"
        found.append(_bad("team", was, "put that app's tokens into the vault, or delete the front door"))
    if who.scopes is None:
        found.append(
            Finding(name="scopes", state="note", detail="Slack did not say which scopes the bot has", next_step="")
        )
    elif missing := [scope for scope in SCOPES if scope not in who.scopes]:
        fix = "put the manifest of `bulkhead slack manifest` into the app again, then reinstall it"
        found.append(_bad("scopes", f"missing: {', '.join(missing)}", fix))
    else:
        found.append(_ok("scopes", f"all {len(SCOPES)}"))
    return found


async def _socket(settings: Settings, token: SecretStr) -> Finding:
    client = AsyncWebClient(base_url=settings.slack_api_url, timeout=_TIMEOUT_SECONDS)
    try:
        await client.apps_connections_open(app_token=token.get_secret_value())
    except SlackApiError as error:
        reason = str(cast("Any", error.response).get("error", "unknown"))
        fix = "make one on the app's page: Basic Information, App-Level Tokens, scope connections:write"
        return _bad("Socket Mode", f"Slack does not take {APP_TOKEN}: {reason}", fix)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return _bad("Socket Mode", f"Slack does not answer: {type(error).__name__}", "check this machine's way out")
    return _ok("Socket Mode", "Slack gives a connection")


async def _http(settings: Settings) -> Finding:
    url = f"http://{settings.slack_host}:{settings.slack_port}{PATH}"
    try:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.post(url, data=b"{}") as response:
            status = response.status
    except (aiohttp.ClientError, TimeoutError, OSError):
        return _bad("HTTP", f"nothing listens at {url}", "start `bulkhead slack`")
    if status != 401:
        return _bad("HTTP", f"{url} answered {status} to a request without a signature", "see what listens there")
    return _ok("HTTP", f"{url} listens and refuses what is not signed; Slack must reach it by its public address")


def _ok(name: str, detail: str) -> Finding:
    return Finding(name=name, state="ok", detail=detail)


def _bad(name: str, detail: str, next_step: str) -> Finding:
    return Finding(name=name, state="bad", detail=detail, next_step=next_step)
