"""Memory stores: who may attach one, how much it may hold, and how much it does."""

from datetime import datetime
from typing import Literal, LiteralString

from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict, Field

from controlplane.errors import ConflictError, InvalidRequestError, NotFoundError
from controlplane.ids import new_id, shown_id
from controlplane.store import idempotency
from controlplane.store.pool import Connection, one, rows
from controlplane.store.positions import Position

OwnerKind = Literal["agent", "user", "session", "shared"]
Access = Literal["read_write", "read_only"]

MAX_MEMORIES = 100_000
MAX_BYTES = 1 << 30


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class StoreContent(_Frozen):
    """What the maker of a store says about it."""

    name: str
    description: str = ""
    metadata: dict[str, str] = Field(default_factory=dict)
    owner_kind: OwnerKind = "shared"
    owner_id: str | None = None
    access: Access = "read_write"
    max_memories: int = MAX_MEMORIES
    max_bytes: int = MAX_BYTES


class StoreRecord(StoreContent):
    """A store as recorded; ``memories`` and ``bytes``: what it holds."""

    id: str
    workspace_id: str
    memories: int
    bytes: int
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None


_SELECT: LiteralString = "SELECT * FROM memory_stores"


async def create(connection: Connection, workspace_id: str, content: StoreContent) -> StoreRecord:
    """Make an empty store."""
    row = await one(
        connection,
        "INSERT INTO memory_stores (id, workspace_id, name, description, metadata, owner_kind, owner_id, access,"
        " max_memories, max_bytes) VALUES (%(id)s, %(workspace_id)s, %(name)s, %(description)s, %(metadata)s,"
        " %(owner_kind)s, %(owner_id)s, %(access)s, %(max_memories)s, %(max_bytes)s) RETURNING *",
        {"id": new_id("memstore"), "workspace_id": workspace_id, **_columns(content)},
    )
    return StoreRecord.model_validate(row)


async def get(connection: Connection, store_id: str) -> StoreRecord:
    """Return a store; raises `NotFoundError`."""
    row = await one(connection, _SELECT + " WHERE id = %(id)s", {"id": store_id})
    if row is None:
        raise unknown(store_id)
    return StoreRecord.model_validate(row)


async def lock(connection: Connection, store_id: str) -> StoreRecord:
    """Return a store and keep others from writing to it until the caller's transaction ends."""
    row = await one(connection, _SELECT + " WHERE id = %(id)s FOR UPDATE", {"id": store_id})
    if row is None:
        raise unknown(store_id)
    return StoreRecord.model_validate(row)


async def hold(connection: Connection, store_id: str) -> None:
    """Keep others from writing to a store until the caller's transaction ends, but not from holding it too."""
    await connection.execute("SELECT FROM memory_stores WHERE id = %s FOR SHARE", (store_id,))


async def replace(connection: Connection, store_id: str, content: StoreContent) -> StoreRecord:
    """Give a store new content."""
    row = await one(
        connection,
        "UPDATE memory_stores SET name = %(name)s, description = %(description)s, metadata = %(metadata)s,"
        " access = %(access)s, max_memories = %(max_memories)s, max_bytes = %(max_bytes)s,"
        " updated_at = clock_timestamp() WHERE id = %(id)s RETURNING *",
        {"id": store_id, **_columns(content)},
    )
    return StoreRecord.model_validate(row)


async def archive(connection: Connection, store_id: str) -> StoreRecord:
    """Let nobody write to a store or attach it any more; doing it again changes nothing."""
    await connection.execute(
        "UPDATE memory_stores SET archived_at = clock_timestamp(), updated_at = clock_timestamp()"
        " WHERE id = %s AND archived_at IS NULL",
        (store_id,),
    )
    return await get(connection, store_id)


async def delete(connection: Connection, store_id: str) -> None:
    """Remove a store with its memories, their versions and vectors, and what answers to its making still say."""
    if await one(connection, "DELETE FROM memory_stores WHERE id = %(id)s RETURNING id", {"id": store_id}) is None:
        raise unknown(store_id)
    await connection.execute("DELETE FROM session_resources WHERE config ->> 'memory_store_id' = %s", (store_id,))
    await connection.execute("DELETE FROM shown_memories WHERE store_id = %s", (store_id,))
    for field in ("id", "memory_store_id"):
        await idempotency.empty_about(connection, field, store_id, kind="memory_store_deleted")


async def listing(
    connection: Connection,
    *,
    include_archived: bool,
    created_from: datetime | None,
    created_to: datetime | None,
    beyond: Position | None,
    limit: int,
) -> list[StoreRecord]:
    """Return up to ``limit`` stores, newest first."""
    found = await rows(
        connection,
        _SELECT + " WHERE (%(include_archived)s OR archived_at IS NULL)"
        " AND (%(from)s::timestamptz IS NULL OR created_at >= %(from)s)"
        " AND (%(to)s::timestamptz IS NULL OR created_at <= %(to)s)"
        " AND (%(beyond_at)s::timestamptz IS NULL"
        "      OR (created_at, id) < (%(beyond_at)s::timestamptz, %(beyond_id)s::text))"
        " ORDER BY created_at DESC, id DESC LIMIT %(limit)s",
        {
            "include_archived": include_archived,
            "from": created_from,
            "to": created_to,
            "beyond_at": beyond.created_at if beyond else None,
            "beyond_id": beyond.id if beyond else None,
            "limit": limit,
        },
    )
    return [StoreRecord.model_validate(row) for row in found]


async def grow(connection: Connection, store: StoreRecord, *, memories: int, size_bytes: int) -> StoreRecord:
    """Count what a locked store gets, or loses; raises `ConflictError` beyond its quotas."""
    row = await one(
        connection,
        "UPDATE memory_stores SET memories = memories + %(memories)s, bytes = bytes + %(bytes)s WHERE id = %(id)s"
        " RETURNING *",
        {"id": store.id, "memories": memories, "bytes": size_bytes},
    )
    grown = StoreRecord.model_validate(row)
    if (memories > 0 and grown.memories > grown.max_memories) or (size_bytes > 0 and grown.bytes > grown.max_bytes):
        full = grown.memories > grown.max_memories
        raise ConflictError(
            f"the store may hold {grown.max_memories} memories"
            if full
            else f"the store may hold {grown.max_bytes} bytes of content",
            code="memory_store_full",
            field="memory_store_id",
            next_step="delete what is not needed any more, or raise "
            + ("max_memories" if full else "max_bytes")
            + " of the store",
        )
    return grown


def require_unarchived(store: StoreRecord, *, field: str = "memory_store_id") -> None:
    """Refuse to write to an archived store, or to attach it."""
    if store.archived_at is not None:
        raise InvalidRequestError(
            f"memory store {store.id!r} is archived",
            code="memory_store_archived",
            field=field,
            next_step="use another memory store, or make a new one",
        )


def unknown(store_id: str, *, field: str = "memory_store_id") -> NotFoundError:
    """The error for a store that is not there."""
    return NotFoundError(
        f"no memory store {shown_id(store_id)!r}",
        code="memory_store_not_found",
        field=field,
        next_step="list the memory stores",
    )


def _columns(content: StoreContent) -> dict[str, object]:
    return {**content.model_dump(include=set(StoreContent.model_fields)), "metadata": Jsonb(content.metadata)}
