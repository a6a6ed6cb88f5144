"""Versions of memories: read, listed, redacted."""

from datetime import datetime
from typing import Any, Literal

from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict

from controlplane.errors import ConflictError, NotFoundError
from controlplane.ids import shown_id
from controlplane.store import idempotency, shown_memories
from controlplane.store.pool import Connection, one, rows
from controlplane.store.positions import Position

Operation = Literal["created", "modified", "deleted"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class VersionRecord(_Frozen):
    """A version as recorded; path, content and what is said of it are None once it is redacted."""

    id: str
    workspace_id: str
    store_id: str
    memory_id: str
    version: int
    operation: Operation
    path: str | None
    content: str | None
    sha256: str | None
    size_bytes: int | None
    memory_type: str | None
    json_schema: dict[str, Any] | None
    size_limit: int | None
    protected: bool
    untrusted: bool
    supersedes: str | None
    expires_at: datetime | None
    created_by: dict[str, str] | None
    provenance: dict[str, str]
    held_from: datetime
    held_to: datetime | None
    created_at: datetime
    redacted_at: datetime | None
    redacted_by: dict[str, str] | None


class VersionFilter(_Frozen):
    """What a listing of versions is narrowed to."""

    memory_id: str | None = None
    path: str | None = None
    operation: Operation | None = None
    session_id: str | None = None
    api_key_id: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    beyond: Position | None = None


async def get(connection: Connection, store_id: str, version_id: str) -> VersionRecord:
    """Return a version; raises `NotFoundError`."""
    row = await one(
        connection,
        "SELECT * FROM memory_versions WHERE store_id = %(store_id)s AND id = %(id)s",
        {"store_id": store_id, "id": version_id},
    )
    if row is None:
        raise NotFoundError(
            f"no memory version {shown_id(version_id)!r} in this store",
            code="memory_version_not_found",
            field="memory_version_id",
            next_step="list the memory versions of the store",
        )
    return VersionRecord.model_validate(row)


async def listing(
    connection: Connection, store_id: str, narrowed: VersionFilter, *, limit: int
) -> list[VersionRecord]:
    """Return up to ``limit`` versions, newest first."""
    found = await rows(
        connection,
        "SELECT * FROM memory_versions WHERE store_id = %(store_id)s"
        " AND (%(memory_id)s::text IS NULL OR memory_id = %(memory_id)s)"
        " AND (%(path)s::text IS NULL OR path = %(path)s)"
        " AND (%(operation)s::text IS NULL OR operation = %(operation)s)"
        " AND (%(session_id)s::text IS NULL OR created_by ->> 'session_id' = %(session_id)s)"
        " AND (%(api_key_id)s::text IS NULL OR created_by ->> 'api_key_id' = %(api_key_id)s)"
        " AND (%(created_from)s::timestamptz IS NULL OR created_at >= %(created_from)s)"
        " AND (%(created_to)s::timestamptz IS NULL OR created_at <= %(created_to)s)"
        " AND (%(beyond_at)s::timestamptz IS NULL"
        "      OR (created_at, id) < (%(beyond_at)s::timestamptz, %(beyond_id)s::text))"
        " ORDER BY created_at DESC, id DESC LIMIT %(limit)s",
        {
            **narrowed.model_dump(exclude={"beyond"}),
            "store_id": store_id,
            "beyond_at": narrowed.beyond.created_at if narrowed.beyond else None,
            "beyond_id": narrowed.beyond.id if narrowed.beyond else None,
            "limit": limit,
        },
    )
    return [VersionRecord.model_validate(row) for row in found]


async def redact(
    connection: Connection, store_id: str, version_id: str, *, by: dict[str, str] | None
) -> VersionRecord:
    """Remove what a version of a locked store said, with its vectors and the answers that are kept for repeats.

    Raises `ConflictError` for what a memory says now. Doing it again changes nothing.
    """
    version = await get(connection, store_id, version_id)
    head = await one(connection, "SELECT FROM memories WHERE version_id = %(id)s", {"id": version_id})
    if head is not None:
        raise ConflictError(
            "this version is what its memory says now",
            code="memory_version_is_current",
            field="memory_version_id",
            next_step="update or delete the memory first, then redact the version",
        )
    if version.redacted_at is not None:
        return version
    await shown_memories.redact(connection, version_id)
    await connection.execute(
        "UPDATE memory_versions SET path = NULL, content = NULL, sha256 = NULL, size_bytes = NULL, supersedes = NULL,"
        " json_schema = NULL, redacted_at = clock_timestamp(), redacted_by = %s WHERE id = %s",
        (Jsonb(by) if by else None, version_id),
    )
    await connection.execute("DELETE FROM memory_vectors WHERE version_id = %s", (version_id,))
    await idempotency.empty_about(connection, "memory_version_id", version_id, kind="memory_version_redacted")
    return await get(connection, store_id, version_id)
