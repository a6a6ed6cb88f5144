"""Putting every key that a master key wraps under the newest one, while readers go on with either."""

from typing import LiteralString

import structlog
from psycopg.rows import DictRow
from pydantic import BaseModel, ConfigDict

from controlplane.errors import UnavailableError
from controlplane.store.authorities import seed_place
from controlplane.store.pool import ALL_WORKSPACES, Connection, Database, one, rows
from controlplane.store.recognition import key_place
from controlplane.store.triggers import secret_place
from controlplane.store.vaults import data_key_place
from controlplane.vault.cipher import SealBrokenError
from controlplane.vault.keyring import Keyring, Wrapped

_log = structlog.get_logger(__name__)

_PLACES = {
    "vault": data_key_place,
    "authority": seed_place,
    "trigger": secret_place,
    "recognition": key_place,
}

_WRITES: dict[str, LiteralString] = {
    "vault": "UPDATE vaults SET master_key_id = %(master_key_id)s, wrapped_key = %(wrapped)s"
    " WHERE id = %(id)s AND wrapped_key = %(before)s RETURNING id",
    "authority": "UPDATE session_authorities SET master_key_id = %(master_key_id)s, wrapped_seed = %(wrapped)s"
    " WHERE session_id = %(id)s AND wrapped_seed = %(before)s RETURNING session_id",
    "trigger": "UPDATE deployment_triggers SET master_key_id = %(master_key_id)s, wrapped_secret = %(wrapped)s"
    " WHERE deployment_id = %(id)s AND wrapped_secret = %(before)s RETURNING deployment_id",
    "recognition": "UPDATE recognition_keys SET master_key_id = %(master_key_id)s, wrapped_key = %(wrapped)s"
    " WHERE workspace_id = %(id)s AND wrapped_key = %(before)s RETURNING workspace_id",
}


class Rewrapped(BaseModel):
    """What became of the keys that were under an older master key."""

    model_config = ConfigDict(frozen=True)

    master_key_id: str
    rewrapped: int
    unreadable: int


async def rewrap(database: Database, keyring: Keyring) -> Rewrapped:
    """Wrap every key again that is not under the newest master key.

    Each is written only if it is still what was read, so that it may run anywhere, also twice at once; killed, it is
    run again. ``unreadable`` are those whose master key is not present: they stay as they are.
    """
    keyring.reload()
    async with database.transaction(ALL_WORKSPACES) as connection:
        found = await rows(
            connection,
            "SELECT 'vault' AS kind, id, workspace_id, master_key_id, wrapped_key AS wrapped FROM vaults"
            " WHERE master_key_id <> %(newest)s UNION ALL"
            " SELECT 'authority', session_id, workspace_id, master_key_id, wrapped_seed FROM session_authorities"
            " WHERE master_key_id <> %(newest)s UNION ALL"
            " SELECT 'trigger', deployment_id, workspace_id, master_key_id, wrapped_secret FROM deployment_triggers"
            " WHERE master_key_id <> %(newest)s UNION ALL"
            " SELECT 'recognition', workspace_id, workspace_id, master_key_id, wrapped_key FROM recognition_keys"
            " WHERE master_key_id <> %(newest)s",
            {"newest": keyring.newest_id},
        )
    rewrapped = unreadable = 0
    for row in found:
        async with database.transaction(ALL_WORKSPACES) as connection:
            try:
                rewrapped += await _rewrap_one(connection, row, keyring)
            except (UnavailableError, SealBrokenError) as error:
                unreadable += 1
                _log.warning("key_not_rewrapped", kind=row["kind"], id=row["id"], cause=error.code)
    return Rewrapped(master_key_id=keyring.newest_id, rewrapped=rewrapped, unreadable=unreadable)


async def _rewrap_one(connection: Connection, row: DictRow, keyring: Keyring) -> bool:
    """Write a key again; False if somebody else has changed it. Raises `UnavailableError`, `SealBrokenError`."""
    place = _PLACES[row["kind"]](row["workspace_id"], row["id"])
    key = keyring.unwrap(Wrapped(master_key_id=row["master_key_id"], wrapped=row["wrapped"]), place)
    values = {"id": row["id"], "before": row["wrapped"], **keyring.wrap(key, place).model_dump()}
    return await one(connection, _WRITES[row["kind"]], values) is not None
