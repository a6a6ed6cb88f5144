"""``bulkhead slack``: a process that serves one front door; any number of them may serve the same one."""

import asyncio
import base64
import contextlib
import logging
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, cast

import psycopg
import structlog
from pydantic import SecretStr
from slack_bolt.adapter.asgi.async_handler import AsyncSlackRequestHandler
from slack_bolt.adapter.socket_mode.async_handler import AsyncSocketModeHandler
from slack_sdk.http_retry.async_handler import AsyncRetryHandler
from slack_sdk.web.async_client import AsyncWebClient
from starlette.types import ASGIApp

from controlplane.errors import BulkheadError, ConflictError, InvalidRequestError, NotFoundError, UnavailableError
from controlplane.frontdoors.contract import DeclinedError
from controlplane.frontdoors.courier import Courier
from controlplane.frontdoors.desk import Desk
from controlplane.frontdoors.leaving import Leaving
from controlplane.frontdoors.parts import Parts
from controlplane.frontdoors.plane import Plane, RefusedError
from controlplane.frontdoors.receipts import Receipts
from controlplane.frontdoors.slack.door import SlackDoor
from controlplane.frontdoors.slack.entrance import Entrance
from controlplane.frontdoors.slack.identity import Identity, identity, patiently, refusals
from controlplane.frontdoors.slack.service import TIMEOUT_SECONDS, SlackService
from controlplane.settings import Settings
from controlplane.store import frontdoors, keys
from controlplane.store.frontdoors import FrontDoorRecord
from controlplane.store.pool import ALL_WORKSPACES, Database
from controlplane.vault.keyring import Keyring
from harness_adapters.guest import serving as serving_on

PATH = "/slack/events"
_BACKLOG = 1024
_ENTRANCE_CONNECTIONS = 6
_VAULT_SECONDS = 5.0  # until it is seen that the vault has other tokens
TOKENS = BOT_TOKEN, SIGNING_SECRET, APP_TOKEN = "SLACK_BOT_TOKEN", "SLACK_SIGNING_SECRET", "SLACK_APP_TOKEN"

_log = structlog.get_logger(__name__)


async def serve(settings: Settings, database: Database, keyring: Keyring, api_url: str) -> None:
    """Serve the installation's Slack front door until cancelled: anew as soon as its vault has other tokens."""
    while True:
        async with _serving(settings, database, keyring, api_url) as run:
            await run()
        _log.info("slack_tokens_replaced")


@contextlib.asynccontextmanager
async def _serving(
    settings: Settings, database: Database, keyring: Keyring, api_url: str
) -> AsyncGenerator[Callable[[], Coroutine[Any, Any, None]]]:
    """Open the front door with the tokens that its vault has; yields what runs until it has others."""
    door, tokens = await opened(database, keyring, name=settings.slack_front_door)
    if not _are_enough(tokens):
        raise InvalidRequestError(
            f"the vault {door.vault_id!r} lacks {BOT_TOKEN}, or both {SIGNING_SECRET} and {APP_TOKEN}",
            code="missing_credential",
            field="vault_id",
            next_step="store what is missing in that vault with `bulkhead vaults credentials create`",
        )
    client = _web_client(settings.slack_api_url, tokens[BOT_TOKEN])
    who = await patiently(lambda: _whose(settings, tokens))
    door = await _known(database, door, who)
    plane = Plane(api_url, await api_key(database, keyring, door))
    entrance = Database(database.url, max_connections=_ENTRANCE_CONNECTIONS)
    await entrance.open()
    leaving = Leaving(database, keyring, door.workspace_id)
    service = SlackService(client, team=who.team, bot_user=who.bot_user)
    parts = Parts(
        database=database,
        service=service,
        door=door,
        plane=plane,
        key=_derived(keyring, "buttons of a front door"),
        courier=Courier(database=database, service=service, door=door, content=_content_of(plane), leaving=leaving),
        leaving=leaving,
        receipts=Receipts(service),
    )
    desk = Desk(parts, entrance)
    signing_secret = tokens.get(SIGNING_SECRET)
    app_token = tokens.get(APP_TOKEN)
    logging.getLogger("slack_bolt").setLevel(logging.CRITICAL)  # it repeats requests, and with them what people said
    entry = SlackDoor(
        client=client,
        signing_secret=signing_secret.get_secret_value() if signing_secret and not app_token else None,
        door=door,
        who=who,
        database=database,
        desk=desk,
        parts=parts,
        service=service,
    )

    async def run() -> None:
        entrance = _by_socket(entry, client, app_token) if app_token else _by_http(entry, settings, desk)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(desk.run()), group.create_task(entrance)]
                await _replaced(settings, database, keyring, door, tokens)
                for task in tasks:
                    task.cancel()
        except* BulkheadError as several:
            raise several.exceptions[0] from several

    try:
        yield run
    finally:
        await plane.close()
        await entrance.close()


def _are_enough(tokens: Mapping[str, SecretStr]) -> bool:
    return BOT_TOKEN in tokens and (SIGNING_SECRET in tokens or APP_TOKEN in tokens)


async def _whose(settings: Settings, tokens: Mapping[str, SecretStr]) -> Identity:
    """Return whose tokens these are; raises as `refusals` says.

    Also if Slack does not take the app-level one: who connects with that asks again for ever, whatever the answer.
    """
    who = await identity(_web_client(settings.slack_api_url, tokens[BOT_TOKEN]))
    if APP_TOKEN in tokens:
        web = _web_client(settings.slack_api_url, tokens[APP_TOKEN])
        with refusals(web, APP_TOKEN, "Basic Information, App-Level Tokens, scope connections:write"):
            await web.apps_connections_open(app_token=tokens[APP_TOKEN].get_secret_value())
    return who


async def _replaced(
    settings: Settings,
    database: Database,
    keyring: Keyring,
    door: FrontDoorRecord,
    tokens: Mapping[str, SecretStr],
) -> None:
    """Return when the vault has other tokens than these, which Slack takes for the same app's."""
    held = {name: tokens.get(name) for name in TOKENS}
    while True:
        await asyncio.sleep(_VAULT_SECONDS)
        try:
            async with database.transaction(door.workspace_id) as connection:
                found = await frontdoors.tokens(connection, door.vault_id, keyring=keyring)
            if {name: found.get(name) for name in TOKENS} == held or not _are_enough(found):
                continue
            who = await _whose(settings, found)
        except psycopg.Error:
            continue
        except BulkheadError as error:
            _log.warning("slack_tokens_not_replaced", error=error.code, cause=error.message)
            continue
        except Exception as error:  # noqa: BLE001 - whatever it is, the door stays open with the tokens that it has
            _log.error("slack_tokens_not_replaced", error=type(error).__name__, exc_info=error)
            continue
        if (who.team, who.app) == (door.team, door.app):
            return
        _log.warning("slack_tokens_not_replaced", error="another_team", team=who.team, app=who.app)


def _web_client(url: str, token: SecretStr) -> AsyncWebClient:
    """Return a client that sends what it is given once: by itself it sends again what a connection broke over."""
    never = list[AsyncRetryHandler]()
    return AsyncWebClient(token=token.get_secret_value(), base_url=url, timeout=TIMEOUT_SECONDS, retry_handlers=never)


def _content_of(plane: Plane) -> Callable[[str], Awaitable[bytes]]:
    async def content(file_id: str) -> bytes:
        try:
            return await plane.content(file_id)
        except RefusedError as error:
            raise DeclinedError(str(error)) from error

    return content


async def _by_socket(entry: SlackDoor, client: AsyncWebClient, app_token: SecretStr) -> None:
    web = _web_client(client.base_url, app_token)
    handler = AsyncSocketModeHandler(entry.app, app_token.get_secret_value(), web_client=web)
    try:
        await handler.connect_async()
        _log.info("front_door_open", mode="socket")
        await asyncio.Event().wait()
    finally:
        await handler.close_async()


async def _by_http(entry: SlackDoor, settings: Settings, desk: Desk) -> None:
    app = Entrance(cast("ASGIApp", AsyncSlackRequestHandler(entry.app, path=PATH)), desk)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.slack_host, settings.slack_port))
        except OSError as error:
            raise ConflictError(
                f"{settings.slack_host} has no port {settings.slack_port} to listen on: {error.strerror}",
                code="port_in_use",
                field="BULKHEAD_SLACK_PORT",
                next_step="choose another port, or stop what listens there",
            ) from error
        listener.listen(_BACKLOG)
        async with serving_on(app, listener):
            _log.info("front_door_open", mode="http", port=settings.slack_port)
            await asyncio.Event().wait()


async def opened(database: Database, keyring: Keyring, *, name: str) -> tuple[FrontDoorRecord, dict[str, SecretStr]]:
    """Return the Slack front door of this name or id, or the only one if none is named, and the tokens in its vault.

    Raises `NotFoundError` if there is none, `ConflictError` if it could be several: another one, which another
    workspace may have made since, is not served by accident.
    """
    async with database.transaction(ALL_WORKSPACES) as connection:
        doors = [each for each in await frontdoors.listing(connection) if each.kind == "slack"]
        found = [each for each in doors if not name or name in (each.id, each.name)]
        if not found:
            named = f" named {name!r}" if name else ""
            raise NotFoundError(
                f"there is no Slack front door{named} yet",
                code="front_door_not_found",
                field="BULKHEAD_SLACK_FRONT_DOOR" if name else None,
                next_step="make one with `bulkhead slack connect`",
            )
        if len(found) > 1:
            raise ConflictError(
                f"there are {len(found)} Slack front doors: {', '.join(each.id for each in found[:10])}",
                code="several_front_doors",
                field="BULKHEAD_SLACK_FRONT_DOOR",
                next_step="say which of them this process is to serve, by its id",
            )
        (door,) = found
        tokens = await frontdoors.tokens(connection, door.vault_id, keyring=keyring)
    return door, tokens


async def _known(database: Database, door: FrontDoorRecord, who: Identity) -> FrontDoorRecord:
    """Return the front door with whose it is; raises if its tokens have become another team's or app's."""
    async with database.transaction(door.workspace_id) as connection:
        same = await frontdoors.identify(connection, door.id, team=who.team, app=who.app)
        if not same:
            await frontdoors.refuse(connection, door, reason="token_of_another_team")
        door = await frontdoors.get(connection, door.id)
    if not same:
        raise ConflictError(
            f"the tokens are of app {who.app!r} in {who.team!r}; this front door is of {door.app!r} in {door.team!r}",
            code="another_team",
            field="vault_id",
            next_step="put the right tokens into the vault, or delete the front door and connect anew",
        )
    return door


async def api_key(database: Database, keyring: Keyring, door: FrontDoorRecord) -> str:
    """Return the front door's API key: every process of it makes the same one, and nobody has to keep it.

    Raises `ConflictError` if it was revoked.
    """
    digest = _derived(keyring, f"API key of {door.id}")
    secret = "bhk_" + base64.urlsafe_b64encode(digest).decode().rstrip("=")
    try:
        async with database.transaction(door.workspace_id) as connection:
            key = await keys.ensure_key(connection, door.workspace_id, f"front door {door.name}", secret)
            await frontdoors.keep_key(connection, door.id, key.id)
    except ConflictError as error:
        raise ConflictError(
            f"the key of the front door {door.id!r} was revoked: it is shut",
            code=error.code,
            next_step="to open another, run `bulkhead slack disconnect` and `bulkhead slack connect`",
        ) from error
    return secret


def _derived(keyring: Keyring, purpose: str) -> bytes:
    derived = keyring.derived(purpose)
    if not derived:
        raise UnavailableError(
            "this process has no master key, so that no vault can be opened",
            code="master_key_missing",
            field="BULKHEAD_MASTER_KEY",
            next_step="give it the API's: BULKHEAD_MASTER_KEY, BULKHEAD_MASTER_KEY_FILE or the data directory",
        )
    return derived[0]
