"""Idempotency keys: claimed and answered in the same transaction as the effect that they guard."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from psycopg.types.json import Json
from pydantic import BaseModel, ConfigDict

from controlplane.errors import ConflictError
from controlplane.store.pool import Connection, one


class FirstAnswer(BaseModel):
    """What the first request with a key was answered."""

    model_config = ConfigDict(frozen=True)

    status_code: int
    response: Any


async def claim(
    connection: Connection, workspace_id: str, *, key: str, request_hashes: Sequence[bytes]
) -> FirstAnswer | None:
    """Take ``key`` for the caller's transaction, or return what its first use was answered.

    The first of ``request_hashes`` is kept; a repeat may match any of them, so that it is still known when the
    key that they are made with has changed. A second request waits here until the first one's transaction ends.
    Raises `ConflictError` where the first request was another one.
    """
    claimed = await one(
        connection,
        "INSERT INTO idempotency_keys (workspace_id, key, request_hash)"
        " VALUES (%(workspace_id)s, %(key)s, %(hash)s) ON CONFLICT DO NOTHING RETURNING key",
        {"workspace_id": workspace_id, "key": key, "hash": request_hashes[0]},
    )
    if claimed is not None:
        return None
    first = await one(
        connection,
        "SELECT request_hash, status_code, response FROM idempotency_keys"
        " WHERE workspace_id = %(workspace_id)s AND key = %(key)s",
        {"workspace_id": workspace_id, "key": key},
    )
    if first is None or bytes(first["request_hash"]) not in request_hashes:
        raise ConflictError(
            f"the idempotency key {key!r} was used for a different request",
            code="idempotency_key_reused",
            field="Idempotency-Key",
            next_step="send a new key with every new request; repeat a key only with the same method, path and body",
        )
    return FirstAnswer(status_code=first["status_code"], response=first["response"])


async def record(
    connection: Connection,
    workspace_id: str,
    *,
    key: str,
    status_code: int,
    response: dict[str, Any],
    session_id: str | None,
) -> None:
    """Keep the answer to the request that claimed ``key``; ``session_id``: whose content is in it."""
    await connection.execute(
        "UPDATE idempotency_keys SET status_code = %(status_code)s, response = %(response)s, session_id = %(session)s"
        " WHERE workspace_id = %(workspace_id)s AND key = %(key)s",
        {
            "workspace_id": workspace_id,
            "key": key,
            "status_code": status_code,
            "response": Json(response),
            "session": session_id,
        },
    )


async def empty(connection: Connection, session_id: str) -> None:
    """Forget what was answered about a session, but not that it was: a repeated request does nothing again."""
    await connection.execute(
        "UPDATE idempotency_keys SET response = %s WHERE session_id = %s",
        (Json({"type": "session_deleted", "id": session_id}), session_id),
    )


async def empty_about(connection: Connection, field: str, value: str, *, kind: str) -> None:
    """Forget what was answered with this value in a field, but not that it was: see `empty`."""
    await connection.execute(
        "UPDATE idempotency_keys SET response = %s WHERE response ->> %s = %s",
        (Json({"type": kind, field: value}), field, value),
    )


async def forget(connection: Connection, *, older_than: timedelta) -> None:
    """Forget the keys of requests that nobody repeats any more."""
    await connection.execute("DELETE FROM idempotency_keys WHERE created_at < now() - %s::interval", (older_than,))
