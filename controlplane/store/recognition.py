"""What the secrets of a workspace's vaults are known by, where nobody may have the secrets themselves."""

from dataclasses import dataclass

from psycopg.rows import DictRow

from controlplane.redaction.marks import Mark, mark_of
from controlplane.store.pool import Connection, one, rows
from controlplane.vault import cipher
from controlplane.vault.cipher import Place
from controlplane.vault.keyring import Keyring, Wrapped


@dataclass(frozen=True)
class Known:
    """What the secrets of a workspace are known by, and the key that they are hashed under."""

    key: bytes
    marks: list[Mark]


async def known(connection: Connection, workspace_id: str, *, keyring: Keyring) -> Known:
    """Return what a text is to be looked through for; raises `UnavailableError` without the master key."""
    found = await marks(connection, workspace_id)
    return Known(await key_of(connection, workspace_id, keyring=keyring) if found else b"", found)


async def key_of(connection: Connection, workspace_id: str, *, keyring: Keyring) -> bytes:
    """Return the key that a workspace's secrets are hashed under, made at its first use.

    Raises `UnavailableError` without its master key.
    """
    row = await _key(connection, workspace_id)
    if row is None:
        wrapped = keyring.wrap(cipher.new_key(), key_place(workspace_id, workspace_id))
        await connection.execute(
            "INSERT INTO recognition_keys (workspace_id, master_key_id, wrapped_key)"
            " VALUES (%(workspace_id)s, %(master_key_id)s, %(wrapped)s) ON CONFLICT DO NOTHING",
            {"workspace_id": workspace_id, **wrapped.model_dump()},
        )
        row = await _key(connection, workspace_id)
    return keyring.unwrap(Wrapped.model_validate(row), key_place(workspace_id, workspace_id))


async def mark(connection: Connection, credential_id: str, secret: str, *, key: bytes) -> None:
    """Keep what a credential's secret is known by."""
    made = mark_of(key, secret)
    await connection.execute(
        "UPDATE credentials SET mark_head = %s, mark_whole = %s, mark_length = %s WHERE id = %s",
        (made.head, made.whole, made.length, credential_id),
    )


async def marks(connection: Connection, workspace_id: str) -> list[Mark]:
    """Return what the secrets of a workspace are known by."""
    found = await rows(
        connection,
        "SELECT mark_head AS head, mark_whole AS whole, mark_length AS length FROM credentials"
        " WHERE workspace_id = %(workspace_id)s AND archived_at IS NULL AND mark_head IS NOT NULL",
        {"workspace_id": workspace_id},
    )
    return [Mark(**row) for row in found]


def key_place(workspace_id: str, _: str) -> Place:
    """What a workspace's wrapped key belongs to."""
    return ("recognition key", workspace_id)


async def _key(connection: Connection, workspace_id: str) -> DictRow | None:
    return await one(
        connection,
        "SELECT master_key_id, wrapped_key AS wrapped FROM recognition_keys WHERE workspace_id = %(id)s",
        {"id": workspace_id},
    )
