"""What comes in from Slack: verified by Bolt, put on record, and acknowledged once that is committed."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import structlog
from slack_bolt.app.async_app import AsyncApp
from slack_bolt.authorization import AuthorizeResult
from slack_bolt.authorization.async_authorize import AsyncAuthorize
from slack_bolt.request.async_request import AsyncBoltRequest
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from controlplane.frontdoors.contract import AmbiguousError, Card, DeclinedError, LimitedError
from controlplane.frontdoors.desk import Desk
from controlplane.frontdoors.parts import Parts
from controlplane.frontdoors.slack import blocks, inbound
from controlplane.frontdoors.slack.commands import Commands
from controlplane.frontdoors.slack.identity import Identity
from controlplane.frontdoors.slack.service import SlackService
from controlplane.store import front_door_posts, front_door_threads
from controlplane.store.frontdoors import FrontDoorRecord
from controlplane.store.pool import Database

Json = Mapping[str, Any]

_UNKNOWN = "unknown_button"
"""Why a button is refused that stands in no thread of ours: its session was deleted, or it never was one of ours."""

_LOOK_SECONDS = 2.0  # Slack waits for three

_log = structlog.get_logger(__name__)


class _Known(AsyncAuthorize):
    """Says whose the token is, which is known.

    Left to itself Bolt asks Slack at its first request, and acknowledges that without a listener if it has no answer.
    """

    def __init__(self, who: Identity, token: str | None):
        self._who = who
        self._token = token

    async def __call__(self, **_: Any) -> AuthorizeResult:
        return AuthorizeResult(
            enterprise_id=None,
            team_id=self._who.team,
            bot_user_id=self._who.bot_user,
            bot_id=self._who.bot,
            bot_token=self._token,
        )


async def _storable(req: AsyncBoltRequest, next: Callable[[], Awaitable[Any]]) -> Any:  # noqa: A002 - Bolt's name for it
    req.body = inbound.storable(req.body)
    return await next()


class SlackDoor:
    """Bolt's listeners. A request is answered when its listener is through: what could not be put on record is not
    acknowledged, and Slack tells it again."""

    def __init__(
        self,
        *,
        client: AsyncWebClient,
        signing_secret: str | None,
        door: FrontDoorRecord,
        who: Identity,
        database: Database,
        desk: Desk,
        parts: Parts,
        service: SlackService,
    ):
        self._client = client
        self._door = door
        self._bot_user = who.bot_user
        self._database = database
        self._desk = desk
        self._leaving = parts.leaving
        self._gate = parts.gate
        self._service = service
        self._commands = Commands(parts, desk)
        self.app = AsyncApp(
            client=client,
            authorize=_Known(who, client.token),
            signing_secret=signing_secret or "socket mode has none",
            request_verification_enabled=signing_secret is not None,
            process_before_response=True,
        )
        self.app.middleware(_storable)
        self.app.event("message")(self._message)
        self.app.event("app_mention")(self._message)
        self.app.event("reaction_added")(self._reaction)
        self.app.event(re.compile(".*"))(self._other)
        self.app.action(re.compile(r"^bulkhead:"))(self._press)
        self.app.view("deny")(self._denied)
        self.app.command(re.compile(".*"))(self._command)

    async def _message(self, body: Json, event: Json) -> None:
        if not await self._ours(body):
            return
        found = inbound.said(body, event, bot_user=self._bot_user)
        if found is not None:
            await self._desk.take_in(found)

    async def _reaction(self, body: Json, event: Json) -> None:
        item = event.get("item") or {}
        if event.get("reaction") not in inbound.STOPS or event.get("user") == self._bot_user or "channel" not in item:
            return
        if not await self._ours(body):
            return
        thread = await self._thread_of(str(item["channel"]), str(item["ts"]))
        await self._desk.take_in(inbound.crossed(body, event, thread=thread))

    async def _other(self, event: Json) -> None:
        _log.debug("event_not_used", type=event.get("type"))

    async def _press(self, ack: Callable[..., Awaitable[Any]], body: Json, action: Json) -> None:
        if await self._ours(body):
            name = str(action["action_id"])
            if name in ("bulkhead:arguments", "bulkhead:deny_reason"):
                await self._open(body, action, name)
            else:
                found = inbound.pressed(body, action)
                if found is not None and await self._desk.take_in(found) == "not_ours":
                    await self._desk.refuse(_UNKNOWN, place=found.place, person=found.person)
        await ack()

    async def _denied(self, ack: Callable[..., Awaitable[Any]], body: Json) -> None:
        if await self._ours(body):
            found = inbound.denied(body)
            if found is None:
                await self._desk.refuse("forged_button", person=str(body["user"]["id"]))
            elif await self._desk.take_in(found) == "not_ours":
                await self._desk.refuse(_UNKNOWN, place=found.place, person=found.person)
        await ack()

    async def _command(self, ack: Callable[..., Awaitable[Any]], command: Json) -> None:
        """Do what a word does, and answer whoever gave it alone: Slack has no such command in a thread."""
        if await self._ours(command):
            said = await self._leaving.text(await self._commands.answer(command))
            await ack(text=said, response_type="ephemeral")
        else:
            await ack()

    async def _open(self, body: Json, action: Json, name: str) -> None:
        """Open a window; its trigger is good for three seconds, so that nothing is put on record for it."""
        message = body.get("message") or {}
        place, thread = str(body["channel"]["id"]), str(message.get("thread_ts") or message.get("ts"))
        person = str(body["user"]["id"])
        vouched = inbound.team_of_person(body) is not None
        denial = await self._gate.denial(await self._gate.rules(), place, person, vouched=vouched)
        if denial is not None:
            await self._desk.refuse(denial.reason, place=place, person=person)
            return
        if name == "bulkhead:deny_reason":
            view = blocks.reason_form(str(action["value"]), place, thread)
        else:
            card = await self._card(place, thread, str(action["value"]))
            if card is None:
                await self._desk.refuse(_UNKNOWN, place=place, person=person)
                return
            fit = await self._leaving.body(card)
            view = blocks.arguments_view(blocks.arguments(fit if isinstance(fit, Card) else card))
        try:
            await self._client.views_open(trigger_id=str(body["trigger_id"]), view=view)
        except SlackApiError as error:
            _log.info("view_not_opened", error=str(cast("Any", error.response).get("error")))

    async def _card(self, place: str, thread: str, tool_use_id: str) -> Card | None:
        async with self._database.transaction(self._door.workspace_id) as connection:
            found = await front_door_threads.at(connection, self._door.id, place, thread)
            bodies = await front_door_posts.bodies(connection, found.id, f"card:{tool_use_id}") if found else {}
        card = bodies.get(f"card:{tool_use_id}")
        return card if isinstance(card, Card) else None

    async def _thread_of(self, place: str, message: str) -> str:
        async with self._database.transaction(self._door.workspace_id) as connection:
            found = await front_door_threads.of_message(connection, self._door.id, place, message)
        if found is not None:
            return found
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                return await self._service.thread_of(place, message) or message
        except (TimeoutError, LimitedError, AmbiguousError, DeclinedError):
            return message

    async def _ours(self, body: Json) -> bool:
        """Refuse what is another team's or app's, though the signature holds."""
        team = str(body.get("team_id") or (body.get("team") or {}).get("id") or "")
        # In a channel that is shared the event may be another team's; for whom it was told to us is said beside it.
        told_for = {team, *(str(each.get("team_id")) for each in body.get("authorizations") or [])}
        app = str(body.get("api_app_id") or "")
        event = body.get("event") or {}
        person = str(event.get("user") or (body.get("user") or {}).get("id") or body.get("user_id") or "")
        place = str(event.get("channel") or (body.get("channel") or {}).get("id") or body.get("channel_id") or "")
        if self._door.team not in told_for or app != self._door.app:
            await self._desk.refuse("another_team", place=place, person=person)
            return False
        if inbound.team_of_person(body) not in (None, self._door.team):
            await self._desk.refuse("guest_of_another_team", place=place, person=person)
            return False
        return True
