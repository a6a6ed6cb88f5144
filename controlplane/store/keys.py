"""API keys: kept as SHA-256 only.

A plain hash is enough because a key is 256 random bits: there is nothing to guess, so slowing the hash down or
salting it would protect nothing, and it would cost every request.
"""

import hashlib
import secrets
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from controlplane.errors import ConflictError, InvalidRequestError, NotFoundError
from controlplane.ids import new_id, shown_id
from controlplane.store.pool import Connection, one, rows

_SHORTEST_SECRET = 16
"""Characters of a key that somebody chose themselves; below this a stolen hash could be searched."""

_SHOWN_CHARACTERS = 8


class KeyRecord(BaseModel):
    """An API key without its secret. ``may_decide``: about calls that wait, and what rules are to decide."""

    model_config = ConfigDict(frozen=True)

    id: str
    workspace_id: str
    name: str
    prefix: str
    may_decide: bool
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


class IssuedKey(BaseModel):
    """A new key; the only time that its secret is known."""

    model_config = ConfigDict(frozen=True)

    record: KeyRecord
    secret: str


def new_secret() -> str:
    """Return a fresh key of 256 random bits."""
    return "bhk_" + secrets.token_urlsafe(32)


async def create(connection: Connection, workspace_id: str, *, name: str, may_decide: bool = True) -> IssuedKey:
    """Make a key and return it with its secret."""
    secret = new_secret()
    record = await _insert(connection, workspace_id, name, secret, may_decide=may_decide)
    return IssuedKey(record=record, secret=secret)


async def ensure_key(connection: Connection, workspace_id: str, name: str, secret: str) -> KeyRecord:
    """Make sure that ``secret`` opens ``workspace_id``; raises `ConflictError` if it was revoked."""
    if len(secret) < _SHORTEST_SECRET or not secret.isascii() or not secret.isprintable() or " " in secret:
        raise InvalidRequestError(
            f"an API key needs at least {_SHORTEST_SECRET} printable ASCII characters without spaces",
            code="weak_api_key",
            field="BULKHEAD_API_KEY",
            next_step="unset it to have one made, or choose a longer one",
        )
    found = await _by_hash(connection, secret) or await _insert(connection, workspace_id, name, secret)
    if found.revoked_at is not None:
        raise ConflictError(
            f"the API key {found.id!r} was revoked",
            code="key_revoked",
            field="BULKHEAD_API_KEY",
            next_step="set another key, or unset it to have one made",
        )
    return found


async def forget_others(connection: Connection, name: str, *, keep_id: str) -> None:
    """Remove every key of this name that holds, except the one to keep; revoked ones stay on record.

    Deployments that acted for one of them act for the one that is kept: it is the same owner's. So do those whose key
    is not even on record, for nothing else removes keys.
    """
    await connection.execute(
        "DELETE FROM api_keys WHERE name = %(name)s AND id <> %(keep_id)s AND revoked_at IS NULL",
        {"name": name, "keep_id": keep_id},
    )
    await connection.execute(
        "UPDATE deployments d SET created_by = %(keep_id)s"
        " WHERE NOT EXISTS (SELECT FROM api_keys k WHERE k.id = d.created_by)",
        {"keep_id": keep_id},
    )


async def listing(connection: Connection) -> list[KeyRecord]:
    """Return every key of the workspace, newest first, revoked ones too."""
    found = await rows(
        connection,
        "SELECT id, workspace_id, name, prefix, may_decide, created_at, last_used_at, revoked_at FROM api_keys"
        " ORDER BY created_at DESC, id DESC",
        {},
    )
    return [KeyRecord.model_validate(row) for row in found]


async def revoke(connection: Connection, key_id: str) -> KeyRecord:
    """Revoke a key for good; revoking it again changes nothing."""
    row = await one(
        connection,
        "UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE id = %(id)s"
        " RETURNING id, workspace_id, name, prefix, may_decide, created_at, last_used_at, revoked_at",
        {"id": key_id},
    )
    if row is None:
        raise NotFoundError(
            f"no API key {shown_id(key_id)!r}", code="key_not_found", field="key_id", next_step="list the keys"
        )
    return KeyRecord.model_validate(row)


async def authenticate(connection: Connection, secret: str) -> KeyRecord | None:
    """Return the key that ``secret`` opens, if it holds, and note its use at most once a minute."""
    found = await _by_hash(connection, secret)
    if found is None or found.revoked_at is not None:
        return None
    await connection.execute(
        "UPDATE api_keys SET last_used_at = now() WHERE id = %(id)s"
        " AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')",
        {"id": found.id},
    )
    return found


async def _by_hash(connection: Connection, secret: str) -> KeyRecord | None:
    row = await one(
        connection,
        "SELECT id, workspace_id, name, prefix, may_decide, created_at, last_used_at, revoked_at FROM api_keys"
        " WHERE key_hash = %(hash)s",
        {"hash": _hash(secret)},
    )
    return KeyRecord.model_validate(row) if row else None


async def _insert(
    connection: Connection, workspace_id: str, name: str, secret: str, *, may_decide: bool = True
) -> KeyRecord:
    # Who comes second waits here for the first, and is given the same key.
    row = await one(
        connection,
        "INSERT INTO api_keys (id, workspace_id, name, prefix, key_hash, may_decide)"
        " VALUES (%(id)s, %(workspace_id)s, %(name)s, %(prefix)s, %(hash)s, %(may_decide)s)"
        " ON CONFLICT (key_hash) DO UPDATE SET key_hash = excluded.key_hash"
        " RETURNING id, workspace_id, name, prefix, may_decide, created_at, last_used_at, revoked_at",
        {
            "id": new_id("key"),
            "workspace_id": workspace_id,
            "name": name,
            "prefix": secret[:_SHOWN_CHARACTERS],
            "hash": _hash(secret),
            "may_decide": may_decide,
        },
    )
    return KeyRecord.model_validate(row)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
