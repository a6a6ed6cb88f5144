"""Credentials of a vault: a sealed secret and where it may be used."""

from datetime import datetime

from psycopg import errors
from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict, SecretStr

from controlplane.definitions import stored
from controlplane.errors import ConflictError, NotFoundError
from controlplane.ids import new_id, shown_id
from controlplane.store import recognition, vaults
from controlplane.store.pool import Connection, one, rows
from controlplane.store.positions import Position
from controlplane.vault import cipher
from controlplane.vault.cipher import Place
from controlplane.vault.keyring import Keyring
from sandbox.egress.contract import Binding

MAX_CREDENTIALS = 20
"""Of one vault that are not archived; the wire format's limit."""


class CredentialContent(BaseModel):
    """What the owner of a credential says about it, but for the secret."""

    model_config = ConfigDict(frozen=True)

    display_name: str | None
    metadata: dict[str, str]
    binding: Binding


class CredentialRecord(CredentialContent):
    """A credential as recorded; ``version`` grows with each new secret."""

    id: str
    workspace_id: str
    vault_id: str
    name: str
    version: int
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None


async def create(
    connection: Connection,
    vault_id: str,
    *,
    name: str,
    content: CredentialContent,
    secret: SecretStr,
    keyring: Keyring,
) -> CredentialRecord:
    """Store a credential; raises `ConflictError` if the vault is full or has one of this name."""
    workspace_id = await _room_for_one(connection, vault_id)
    credential_id = new_id("vcrd")
    key = await vaults.data_key(connection, workspace_id, vault_id=vault_id, keyring=keyring)
    place = _place(workspace_id, vault_id, credential_id=credential_id, version=1)
    try:
        row = await one(
            connection,
            "INSERT INTO credentials (id, workspace_id, vault_id, name, display_name, metadata, binding, version,"
            " sealed) VALUES (%(id)s, %(workspace_id)s, %(vault_id)s, %(name)s, %(display_name)s, %(metadata)s,"
            " %(binding)s, 1, %(sealed)s) RETURNING id, workspace_id, vault_id, name, display_name, metadata,"
            " binding, version, created_at, updated_at, archived_at",
            {
                "id": credential_id,
                "workspace_id": workspace_id,
                "vault_id": vault_id,
                "name": name,
                "sealed": cipher.seal(key, secret.get_secret_value().encode(), place),
                **_columns(content),
            },
        )
    except errors.UniqueViolation as error:
        raise ConflictError(
            f"the vault has a credential named {name!r} already",
            code="credential_exists",
            field="auth.secret_name",
            next_step="update that one, or archive it first",
        ) from error
    await _mark(connection, workspace_id, credential_id, secret, keyring=keyring)
    return CredentialRecord.model_validate(row)


async def get(connection: Connection, vault_id: str, credential_id: str) -> CredentialRecord:
    """Return a credential; raises `NotFoundError`."""
    row = await one(
        connection,
        "SELECT id, workspace_id, vault_id, name, display_name, metadata, binding, version, created_at, updated_at,"
        " archived_at FROM credentials WHERE vault_id = %(vault_id)s AND id = %(id)s",
        {"vault_id": vault_id, "id": credential_id},
    )
    if row is None:
        raise _unknown(credential_id)
    return CredentialRecord.model_validate(row)


async def lock(connection: Connection, vault_id: str, credential_id: str) -> CredentialRecord:
    """Return a credential and keep others from changing it, or archiving its vault, until the transaction ends."""
    await connection.execute("SELECT 1 FROM vaults WHERE id = %(id)s FOR SHARE", {"id": vault_id})
    await connection.execute("SELECT 1 FROM credentials WHERE id = %(id)s FOR UPDATE", {"id": credential_id})
    return await get(connection, vault_id, credential_id)


async def replace(connection: Connection, before: CredentialRecord, content: CredentialContent) -> CredentialRecord:
    """Give a credential new content; it holds from the next request on that a sandbox makes."""
    row = await one(
        connection,
        "UPDATE credentials SET display_name = %(display_name)s, metadata = %(metadata)s, binding = %(binding)s,"
        " updated_at = clock_timestamp() WHERE id = %(id)s RETURNING id, workspace_id, vault_id, name, display_name,"
        " metadata, binding, version, created_at, updated_at, archived_at",
        {"id": before.id, **_columns(content)},
    )
    return CredentialRecord.model_validate(row)


async def rotate(connection: Connection, before: CredentialRecord, secret: SecretStr, *, keyring: Keyring) -> None:
    """Put a new secret in place of the old one, which is gone at once; the stubs in sandboxes stay as they are."""
    key = await vaults.data_key(connection, before.workspace_id, vault_id=before.vault_id, keyring=keyring)
    version = before.version + 1
    place = _place(before.workspace_id, before.vault_id, credential_id=before.id, version=version)
    await connection.execute(
        "UPDATE credentials SET sealed = %(sealed)s, version = %(version)s WHERE id = %(id)s",
        {"id": before.id, "version": version, "sealed": cipher.seal(key, secret.get_secret_value().encode(), place)},
    )
    await _mark(connection, before.workspace_id, before.id, secret, keyring=keyring)


async def archive(connection: Connection, vault_id: str, credential_id: str) -> CredentialRecord:
    """Drop a credential's secret for good and free its name; doing it again changes nothing."""
    await connection.execute(
        "UPDATE credentials SET sealed = NULL, mark_head = NULL, mark_whole = NULL, mark_length = NULL,"
        " archived_at = now(), updated_at = now()"
        " WHERE vault_id = %(vault_id)s AND id = %(id)s AND archived_at IS NULL",
        {"vault_id": vault_id, "id": credential_id},
    )
    return await get(connection, vault_id, credential_id)


async def delete(connection: Connection, vault_id: str, credential_id: str) -> None:
    """Remove a credential with its secret."""
    row = await one(
        connection,
        "DELETE FROM credentials WHERE vault_id = %(vault_id)s AND id = %(id)s RETURNING id",
        {"vault_id": vault_id, "id": credential_id},
    )
    if row is None:
        raise _unknown(credential_id)


async def listing(
    connection: Connection, vault_id: str, *, include_archived: bool, beyond: Position | None, limit: int
) -> list[CredentialRecord]:
    """Return up to ``limit`` credentials of a vault, newest first."""
    found = await rows(
        connection,
        """
        SELECT id, workspace_id, vault_id, name, display_name, metadata, binding, version, created_at, updated_at,
               archived_at
          FROM credentials
         WHERE vault_id = %(vault_id)s
           AND (%(include_archived)s OR archived_at IS NULL)
           AND (%(beyond_at)s::timestamptz IS NULL
                OR (created_at, id) < (%(beyond_at)s::timestamptz, %(beyond_id)s::text))
         ORDER BY created_at DESC, id DESC
         LIMIT %(limit)s
        """,
        {
            "vault_id": vault_id,
            "include_archived": include_archived,
            "beyond_at": beyond.created_at if beyond else None,
            "beyond_id": beyond.id if beyond else None,
            "limit": limit,
        },
    )
    return [CredentialRecord.model_validate(row) for row in found]


async def reveal(connection: Connection, credential_id: str, *, keyring: Keyring) -> SecretStr | None:
    """Return the secret, None if it was archived or deleted; only the egress proxy asks."""
    row = await one(
        connection,
        "SELECT workspace_id, vault_id, version, sealed FROM credentials WHERE id = %(id)s AND archived_at IS NULL",
        {"id": credential_id},
    )
    if row is None:
        return None
    key = await vaults.data_key(connection, row["workspace_id"], vault_id=row["vault_id"], keyring=keyring)
    place = _place(row["workspace_id"], row["vault_id"], credential_id=credential_id, version=row["version"])
    return SecretStr(cipher.unseal(key, row["sealed"], place).decode())


async def _mark(
    connection: Connection, workspace_id: str, credential_id: str, secret: SecretStr, *, keyring: Keyring
) -> None:
    key = await recognition.key_of(connection, workspace_id, keyring=keyring)
    await recognition.mark(connection, credential_id, secret.get_secret_value(), key=key)


async def _room_for_one(connection: Connection, vault_id: str) -> str:
    await vaults.lock(connection, vault_id)
    row = await one(
        connection,
        "SELECT v.workspace_id, (SELECT count(*) FROM credentials c WHERE c.vault_id = v.id"
        " AND c.archived_at IS NULL) AS taken FROM vaults v WHERE v.id = %(id)s",
        {"id": vault_id},
    )
    if row is None or row["taken"] >= MAX_CREDENTIALS:
        raise ConflictError(
            f"the vault has {MAX_CREDENTIALS} credentials already",
            code="vault_full",
            field="vault_id",
            next_step="archive those that are not used, or make another vault",
        )
    return row["workspace_id"]


def _place(workspace_id: str, vault_id: str, *, credential_id: str, version: int) -> Place:
    return ("secret", workspace_id, vault_id, credential_id, version)


def _columns(content: CredentialContent) -> dict[str, object]:
    return {
        "display_name": content.display_name,
        "metadata": Jsonb(content.metadata),
        "binding": Jsonb(stored(content.binding)),
    }


def _unknown(credential_id: str) -> NotFoundError:
    return NotFoundError(
        f"no credential {shown_id(credential_id)!r} in this vault",
        code="credential_not_found",
        field="credential_id",
        next_step="list the credentials of the vault",
    )
