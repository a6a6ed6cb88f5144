"""Whose tokens these are, as Slack says."""

from typing import Any, cast

import aiohttp
from pydantic import BaseModel, ConfigDict
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from controlplane.errors import InvalidRequestError, UnavailableError


class Identity(BaseModel):
    """A bot: its team, its app, its user, its id as a bot, and what it may do if Slack said so."""

    model_config = ConfigDict(frozen=True)

    team: str
    team_name: str
    app: str
    bot_user: str
    bot: str
    scopes: tuple[str, ...] | None


async def identity(client: AsyncWebClient) -> Identity:
    """Return whose a bot token is.

    Raises `InvalidRequestError` if Slack does not take it, `UnavailableError` if Slack does not answer.
    """
    try:
        who = await client.auth_test()
        bot = await client.bots_info(bot=str(who.get("bot_id")))
    except SlackApiError as error:
        reason = str(cast("Any", error.response).get("error", "unknown"))
        raise InvalidRequestError(
            f"Slack does not take the bot token: {reason}",
            code="bad_slack_token",
            field="SLACK_BOT_TOKEN",
            next_step="copy it anew from the app's page: OAuth & Permissions, Bot User OAuth Token",
        ) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise UnavailableError(
            f"{client.base_url} does not answer: {type(error).__name__}",
            code="slack_unreachable",
            field="BULKHEAD_SLACK_API_URL",
            next_step="check this machine's way out, then start again",
        ) from error
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
