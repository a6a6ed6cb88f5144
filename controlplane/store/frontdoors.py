"""Front doors: which there are, whose tokens they use, what holds there, and what was refused."""

from datetime import datetime
from typing import Annotated, Literal, LiteralString

from psycopg import errors
from psycopg.types.json import Jsonb
from pydantic import BaseModel, BeforeValidator, ConfigDict, SecretStr

from controlplane.definitions import stored
from controlplane.errors import ConflictError, NotFoundError
from controlplane.frontdoors.policy import Rules, readable
from controlplane.ids import new_id, shown_id
from controlplane.store import credentials, keys
from controlplane.store.pool import Connection, one, rows
from controlplane.vault.keyring import Keyring

_SELECT: LiteralString = (
    "SELECT id, workspace_id, kind, name, vault_id, rules, team, app, created_at, updated_at FROM front_doors"
)


class FrontDoorRecord(BaseModel):
    """A front door. ``team`` and ``app``: whose its tokens are, once they have been used."""

    model_config = ConfigDict(frozen=True)

    id: str
    workspace_id: str
    kind: Literal["slack"]
    name: str
    vault_id: str
    rules: Annotated[Rules, BeforeValidator(readable)]
    team: str | None
    app: str | None
    created_at: datetime
    updated_at: datetime


class Refusal(BaseModel):
    """What was refused to somebody, and how often within the hour."""

    model_config = ConfigDict(frozen=True)

    reason: str
    place: str
    person: str
    hour: datetime
    count: int
    last_at: datetime


async def create(
    connection: Connection, workspace_id: str, *, name: str, vault_id: str, rules: Rules
) -> FrontDoorRecord:
    """Make a front door; raises `ConflictError` if there is one of this name."""
    front_door_id = new_id("fdr")
    try:
        await connection.execute(
            "INSERT INTO front_doors (id, workspace_id, kind, name, vault_id, rules)"
            " VALUES (%(id)s, %(workspace)s, 'slack', %(name)s, %(vault)s, %(rules)s)",
            {
                "id": front_door_id,
                "workspace": workspace_id,
                "name": name,
                "vault": vault_id,
                "rules": Jsonb(stored(rules)),
            },
        )
    except errors.UniqueViolation as error:
        raise ConflictError(
            f"there is a front door named {name!r} already",
            code="front_door_exists",
            field="name",
            next_step="change that one, delete it first, or choose another name",
        ) from error
    return await get(connection, front_door_id)


async def get(connection: Connection, front_door_id: str) -> FrontDoorRecord:
    """Return a front door; raises `NotFoundError`."""
    found = await find(connection, front_door_id)
    if found is None:
        raise _unknown(front_door_id)
    return found


async def find(connection: Connection, front_door_id: str) -> FrontDoorRecord | None:
    """Return a front door, if it is there."""
    row = await one(connection, _SELECT + " WHERE id = %(id)s", {"id": front_door_id})
    return FrontDoorRecord.model_validate(row) if row else None


async def listing(connection: Connection) -> list[FrontDoorRecord]:
    """Return every front door, newest first."""
    found = await rows(connection, _SELECT + " ORDER BY created_at DESC, id DESC", {})
    return [FrontDoorRecord.model_validate(row) for row in found]


async def replace_rules(connection: Connection, front_door_id: str, rules: Rules) -> FrontDoorRecord:
    """Give a front door other rules; they hold from the next message and the next click on."""
    await connection.execute(
        "UPDATE front_doors SET rules = %(rules)s, updated_at = clock_timestamp() WHERE id = %(id)s",
        {"id": front_door_id, "rules": Jsonb(stored(rules))},
    )
    return await get(connection, front_door_id)


async def identify(connection: Connection, front_door_id: str, *, team: str, app: str) -> bool:
    """Note whose the tokens are the first time; say whether they are the same ones as then."""
    row = await one(
        connection,
        "UPDATE front_doors SET team = coalesce(team, %(team)s), app = coalesce(app, %(app)s) WHERE id = %(id)s"
        " RETURNING team = %(team)s AND app = %(app)s AS same",
        {"id": front_door_id, "team": team, "app": app},
    )
    return row is not None and bool(row["same"])


async def keep_key(connection: Connection, front_door_id: str, key_id: str) -> None:
    """Note under which key the front door's process asks the API."""
    await connection.execute("UPDATE front_doors SET key_id = %s WHERE id = %s", (key_id, front_door_id))


async def delete(connection: Connection, front_door_id: str) -> None:
    """Remove a front door with its ledger, and revoke its key; its sessions stay."""
    row = await one(
        connection, "DELETE FROM front_doors WHERE id = %(id)s RETURNING id, key_id", {"id": front_door_id}
    )
    if row is None:
        raise _unknown(front_door_id)
    if row["key_id"] is not None:
        await keys.revoke(connection, row["key_id"])


async def tokens(connection: Connection, vault_id: str, *, keyring: Keyring) -> dict[str, SecretStr]:
    """Return the secrets of a vault by name; only the process of a front door asks, for its own vault."""
    found = await rows(
        connection,
        "SELECT id, name FROM credentials WHERE vault_id = %(id)s AND archived_at IS NULL",
        {"id": vault_id},
    )
    revealed = {row["name"]: await credentials.reveal(connection, row["id"], keyring=keyring) for row in found}
    return {name: secret for name, secret in revealed.items() if secret is not None}


async def refuse(
    connection: Connection,
    front_door: FrontDoorRecord,
    *,
    reason: str,
    place: str = "",
    person: str = "",
    count: int = 1,
) -> None:
    """Put on record that somebody was refused; the same in the hour is counted, as ``count`` times."""
    await connection.execute(
        "INSERT INTO front_door_refusals (front_door_id, workspace_id, reason, place, person, hour, count)"
        " VALUES (%s, %s, %s, %s, %s, date_trunc('hour', now()), %s)"
        " ON CONFLICT (front_door_id, reason, place, person, hour)"
        " DO UPDATE SET count = front_door_refusals.count + excluded.count, last_at = clock_timestamp()",
        (front_door.id, front_door.workspace_id, reason, place[:100], person[:100], count),
    )


async def refusals(connection: Connection, front_door_id: str, *, limit: int) -> list[Refusal]:
    """Return what was refused, the latest first."""
    found = await rows(
        connection,
        "SELECT reason, place, person, hour, count, last_at FROM front_door_refusals WHERE front_door_id = %(id)s"
        " ORDER BY last_at DESC LIMIT %(limit)s",
        {"id": front_door_id, "limit": limit},
    )
    return [Refusal.model_validate(row) for row in found]


def _unknown(front_door_id: str) -> NotFoundError:
    return NotFoundError(
        f"no front door {shown_id(front_door_id)!r}",
        code="front_door_not_found",
        field="front_door_id",
        next_step="list the front doors",
    )
