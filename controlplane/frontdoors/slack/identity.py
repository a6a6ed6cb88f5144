"""Whose tokens these are, as Slack says."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar, cast

import aiohttp
import structlog
from pydantic import BaseModel, ConfigDict
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from controlplane.errors import InvalidRequestError, UnavailableError
from controlplane.frontdoors.slack.service import LIMITED, UNSURE

T = TypeVar("T")

_LONGEST_PAUSE_SECONDS = 30.0

_log = structlog.get_logger(__name__)


class Identity(BaseModel):
    """A bot: its team, its app, its user, its id as a bot, and what it may do if Slack said so."""

    model_config = ConfigDict(frozen=True)

    team: str
    team_name: str
    app: str
    bot_user: str
    bot: str
    scopes: tuple[str, ...] | None


@contextlib.contextmanager
def refusals(client: AsyncWebClient, token: str, where: str) -> Generator[None]:
    """Raise `InvalidRequestError` if Slack does not take a token, `UnavailableError` if it says nothing of it now.

    ``where``: on which page of the app's the token is.
    """
    try:
        yield
    except SlackApiError as error:
        response = cast("Any", error.response)
        status = int(getattr(response, "status_code", 0) or 0)
        data = getattr(response, "data", None)
        reason = str(cast("Any", data).get("error", "")) if isinstance(data, dict) else ""
        if status == 429 or status >= 500 or not reason or reason in LIMITED | UNSURE:
            raise UnavailableError(
                f"Slack is troubled: {reason or f'HTTP {status}'}",
                code="slack_unavailable",
                field="BULKHEAD_SLACK_API_URL",
                next_step="wait: it is asked again, and nothing is wrong with the token as far as is known",
            ) from error
        raise InvalidRequestError(
            f"Slack does not take {token}: {reason}",
            code="bad_slack_token",
            field=token,
            next_step=f"copy it from the app's page ({where}) into the vault: `bulkhead vaults credentials rotate`",
        ) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise UnavailableError(
            f"{client.base_url} does not answer: {type(error).__name__}",
            code="slack_unreachable",
            field="BULKHEAD_SLACK_API_URL",
            next_step="check this machine's way out",
        ) from error


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until Slack has an answer; raises `InvalidRequestError` if that is that it does not take the token."""
    pause = 1.0
    while True:
        try:
            return await ask()
        except UnavailableError as error:
            _log.warning("slack_unavailable", cause=error.message)
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


async def identity(client: AsyncWebClient) -> Identity:
    """Return whose a bot token is; raises as `refusals` says."""
    with refusals(client, "SLACK_BOT_TOKEN", "OAuth & Permissions, Bot User OAuth Token"):
        who = await client.auth_test()
        bot = await client.bots_info(bot=str(who.get("bot_id")))
    headers = {str(name).lower(): str(value) for name, value in dict(who.headers).items()}
    scopes = headers.get("x-oauth-scopes")
    return Identity(
        team=str(who["team_id"]),
        team_name=str(who.get("team") or ""),
        app=str(cast("Any", bot.get("bot"))["app_id"]),
        bot_user=str(who["user_id"]),
        bot=str(who.get("bot_id")),
        scopes=tuple(each.strip() for each in scopes.split(",")) if scopes is not None else None,
    )
