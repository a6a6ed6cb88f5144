"""Vaults: each with a data key of its own, which only a master key opens."""

from datetime import datetime

from psycopg import errors
from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict

from controlplane.errors import ConflictError, InvalidRequestError, NotFoundError
from controlplane.ids import new_id, shown_id
from controlplane.store.pool import Connection, one, rows
from controlplane.store.positions import Position
from controlplane.vault import cipher
from controlplane.vault.cipher import Place
from controlplane.vault.keyring import Keyring, Wrapped


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class VaultContent(_Frozen):
    """What the owner of a vault says about it."""

    display_name: str
    metadata: dict[str, str]


class VaultRecord(VaultContent):
    """A vault as recorded."""

    id: str
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None


async def create(
    connection: Connection, workspace_id: str, *, content: VaultContent, keyring: Keyring
) -> VaultRecord:
    """Make a vault with a fresh data key; raises `UnavailableError` without a master key."""
    vault_id = new_id("vlt")
    wrapped = keyring.wrap(cipher.new_key(), data_key_place(workspace_id, vault_id))
    row = await one(
        connection,
        "INSERT INTO vaults (id, workspace_id, display_name, metadata, master_key_id, wrapped_key)"
        " VALUES (%(id)s, %(workspace_id)s, %(display_name)s, %(metadata)s, %(master_key_id)s, %(wrapped)s)"
        " RETURNING id, display_name, metadata, created_at, updated_at, archived_at",
        {"id": vault_id, "workspace_id": workspace_id, **wrapped.model_dump(), **_columns(content)},
    )
    return VaultRecord.model_validate(row)


async def get(connection: Connection, vault_id: str) -> VaultRecord:
    """Return a vault; raises `NotFoundError`."""
    row = await one(
        connection,
        "SELECT id, display_name, metadata, created_at, updated_at, archived_at FROM vaults WHERE id = %(id)s",
        {"id": vault_id},
    )
    if row is None:
        raise _unknown(vault_id)
    return VaultRecord.model_validate(row)


async def lock(connection: Connection, vault_id: str) -> VaultRecord:
    """Return a vault and keep others from changing it until the caller's transaction ends."""
    await connection.execute("SELECT 1 FROM vaults WHERE id = %(id)s FOR UPDATE", {"id": vault_id})
    return await get(connection, vault_id)


async def replace(connection: Connection, vault_id: str, content: VaultContent) -> VaultRecord:
    """Give a vault new content."""
    row = await one(
        connection,
        "UPDATE vaults SET display_name = %(display_name)s, metadata = %(metadata)s, updated_at = clock_timestamp()"
        " WHERE id = %(id)s RETURNING id, display_name, metadata, created_at, updated_at, archived_at",
        {"id": vault_id, **_columns(content)},
    )
    return VaultRecord.model_validate(row)


async def archive(connection: Connection, vault_id: str) -> VaultRecord:
    """Drop a vault's data key and its secrets for good, and keep the rest; doing it again changes nothing."""
    await lock(connection, vault_id)
    await connection.execute(
        "UPDATE credentials SET sealed = NULL, mark_head = NULL, mark_whole = NULL, mark_length = NULL,"
        " archived_at = now(), updated_at = now()"
        " WHERE vault_id = %(id)s AND archived_at IS NULL",
        {"id": vault_id},
    )
    await connection.execute(
        "UPDATE vaults SET wrapped_key = NULL, master_key_id = NULL, archived_at = now(), updated_at = now()"
        " WHERE id = %(id)s AND archived_at IS NULL",
        {"id": vault_id},
    )
    return await get(connection, vault_id)


async def delete(connection: Connection, vault_id: str) -> None:
    """Remove a vault with its data key and its credentials; sessions that name it go on without them."""
    try:
        gone = await one(connection, "DELETE FROM vaults WHERE id = %(id)s RETURNING id", {"id": vault_id})
    except errors.ForeignKeyViolation as error:
        raise ConflictError(
            "a front door has its tokens in this vault",
            code="vault_in_use",
            field="vault_id",
            next_step="delete the front door first, or archive the vault",
        ) from error
    if gone is None:
        raise _unknown(vault_id)


async def listing(
    connection: Connection, *, include_archived: bool, beyond: Position | None, limit: int
) -> list[VaultRecord]:
    """Return up to ``limit`` vaults, newest first."""
    found = await rows(
        connection,
        """
        SELECT id, display_name, metadata, created_at, updated_at, archived_at
          FROM vaults
         WHERE (%(include_archived)s OR archived_at IS NULL)
           AND (%(beyond_at)s::timestamptz IS NULL
                OR (created_at, id) < (%(beyond_at)s::timestamptz, %(beyond_id)s::text))
         ORDER BY created_at DESC, id DESC
         LIMIT %(limit)s
        """,
        {
            "include_archived": include_archived,
            "beyond_at": beyond.created_at if beyond else None,
            "beyond_id": beyond.id if beyond else None,
            "limit": limit,
        },
    )
    return [VaultRecord.model_validate(row) for row in found]


async def data_key(connection: Connection, workspace_id: str, *, vault_id: str, keyring: Keyring) -> bytes:
    """Return the key of a vault that is not archived; raises `UnavailableError` without its master key."""
    row = await one(
        connection,
        "SELECT master_key_id, wrapped_key AS wrapped FROM vaults WHERE id = %(id)s AND archived_at IS NULL",
        {"id": vault_id},
    )
    if row is None:
        raise _unknown(vault_id)
    return keyring.unwrap(Wrapped.model_validate(row), data_key_place(workspace_id, vault_id))


async def check_usable(connection: Connection, vault_ids: list[str]) -> None:
    """Refuse vaults that are not there or archived; they stay as they are until the caller's transaction ends."""
    found = await rows(
        connection, "SELECT id, archived_at FROM vaults WHERE id = ANY(%(ids)s) FOR SHARE", {"ids": vault_ids}
    )
    archived = {row["id"]: row["archived_at"] is not None for row in found}
    for index, vault_id in enumerate(vault_ids):
        if vault_id not in archived:
            raise _unknown(vault_id, field=f"vault_ids.{index}")
        if archived[vault_id]:
            raise InvalidRequestError(
                f"vault {vault_id!r} is archived, and its secrets are gone",
                code="vault_archived",
                field=f"vault_ids.{index}",
                next_step="use another vault, or make a new one",
            )


def data_key_place(workspace_id: str, vault_id: str) -> Place:
    """What a vault's wrapped data key belongs to."""
    return ("data key", workspace_id, vault_id)


def _columns(content: VaultContent) -> dict[str, object]:
    return {"display_name": content.display_name, "metadata": Jsonb(content.metadata)}


def _unknown(vault_id: str, *, field: str = "vault_id") -> NotFoundError:
    return NotFoundError(
        f"no vault {shown_id(vault_id)!r}", code="vault_not_found", field=field, next_step="list the vaults"
    )
