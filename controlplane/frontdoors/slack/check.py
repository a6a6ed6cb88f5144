"""What is right and wrong about a Slack front door: its tokens, its scopes, and who reaches whom."""

import json
import secrets
import time
from collections.abc import Mapping
from typing import Literal

import aiohttp
from pydantic import BaseModel, ConfigDict, SecretStr
from slack_sdk.signature import SignatureVerifier
from slack_sdk.web.async_client import AsyncWebClient

from controlplane.errors import BulkheadError
from controlplane.frontdoors.slack.identity import identity, refusals
from controlplane.frontdoors.slack.manifest import SCOPES
from controlplane.frontdoors.slack.process import APP_TOKEN, BOT_TOKEN, PATH, SIGNING_SECRET
from controlplane.settings import Settings
from controlplane.store.frontdoors import FrontDoorRecord

_TIMEOUT_SECONDS = 10
_ANSWER_BYTES = 10_000
_STORE = "store it in that vault with `bulkhead vaults credentials create`"


class Finding(BaseModel):
    """What one check came to."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: Literal["ok", "note", "bad"]
    detail: str
    next_step: str = ""


async def check(
    settings: Settings, door: FrontDoorRecord, tokens: Mapping[str, SecretStr], *, request_url: str | None
) -> list[Finding]:
    """Return what was found, good and bad. ``request_url``: where Slack reaches us; asked instead of this machine."""
    bot = tokens.get(BOT_TOKEN)
    if bot is None:
        return [_bad("bot token", f"{BOT_TOKEN} is not in the vault {door.vault_id}", _STORE)]
    client = AsyncWebClient(token=bot.get_secret_value(), base_url=settings.slack_api_url, timeout=_TIMEOUT_SECONDS)
    found = await _bot(client, door)
    if APP_TOKEN in tokens:
        found.append(await _socket(settings, tokens[APP_TOKEN]))
    elif SIGNING_SECRET in tokens:
        found += await _http(settings, tokens[SIGNING_SECRET].get_secret_value(), request_url)
    else:
        missing = f"neither {SIGNING_SECRET} (HTTP) nor {APP_TOKEN} (Socket Mode) is in the vault"
        found.append(_bad("transport", missing, _STORE))
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
        found.append(Finding(name="scopes", state="note", detail="Slack did not say which scopes the bot has"))
    elif missing := [scope for scope in SCOPES if scope not in who.scopes]:
        fix = "put the manifest of `bulkhead slack manifest` into the app again, then reinstall it"
        found.append(_bad("scopes", f"missing: {', '.join(missing)}", fix))
    else:
        found.append(_ok("scopes", f"all {len(SCOPES)}"))
    return found


async def _socket(settings: Settings, token: SecretStr) -> Finding:
    client = AsyncWebClient(base_url=settings.slack_api_url, timeout=_TIMEOUT_SECONDS)
    try:
        with refusals(client, APP_TOKEN, "Basic Information, App-Level Tokens, scope connections:write"):
            await client.apps_connections_open(app_token=token.get_secret_value())
    except BulkheadError as error:
        return _bad("Socket Mode", error.message, error.next_step or "")
    return _ok("Socket Mode", "Slack gives a connection")


async def _http(settings: Settings, secret: str, request_url: str | None) -> list[Finding]:
    """Ask as Slack does when it is given the URL: a challenge that the vault's secret signs must be answered."""
    url = request_url or f"http://{settings.slack_host}:{settings.slack_port}{PATH}"
    challenge = secrets.token_urlsafe(16)
    body = json.dumps({"type": "url_verification", "challenge": challenge}).encode()
    at = str(int(time.time()))
    signature = SignatureVerifier(secret).generate_signature(timestamp=at, body=body) or ""
    try:
        status, said = await _answer(url, body, {"X-Slack-Request-Timestamp": at, "X-Slack-Signature": signature})
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        fix = "see that its name, certificate and proxy lead here" if request_url else "start `bulkhead slack`"
        return [_bad("HTTP", f"nothing listens at {url}: {type(error).__name__}", fix)]
    if challenge not in said:
        fix = f"start `bulkhead slack` again, or put the app's signing secret into the vault as {SIGNING_SECRET}"
        return [_bad("HTTP", f"{url} answered {status} to what the vault's secret signed", fix)]
    found = [_ok("HTTP", f"{url} answers what is signed with the secret in the vault")]
    if request_url is None:
        said = "whether Slack reaches it by its public address was not tried; --request-url tries it"
        found.append(Finding(name="request URL", state="note", detail=said))
    return found


async def _answer(url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, str]:
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
    kind = {"Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.post(url, data=body, headers={**kind, **headers}, allow_redirects=False) as response,
    ):
        said = await response.content.read(_ANSWER_BYTES)
        return response.status, said.decode(errors="replace")


def _ok(name: str, detail: str) -> Finding:
    return Finding(name=name, state="ok", detail=detail)


def _bad(name: str, detail: str, next_step: str) -> Finding:
    return Finding(name=name, state="bad", detail=detail, next_step=next_step)
