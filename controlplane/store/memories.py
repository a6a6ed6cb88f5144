"""Memories: what a path of a store holds now. Every write makes a version, under the lock of the store's row."""

import hashlib
from datetime import UTC, datetime
from typing import Any, Literal, LiteralString

from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict, Field

from controlplane.errors import ConflictError, InvalidRequestError, NotFoundError
from controlplane.ids import new_id, shown_id
from controlplane.memory import blocks, paths
from controlplane.store import memory_stores, memory_vectors
from controlplane.store.memory_stores import StoreRecord
from controlplane.store.memory_vectors import Vector
from controlplane.store.pool import Connection, one, rows

MAX_CONTENT_BYTES = 102_400
"""The wire format's limit."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Author(_Frozen):
    """Who writes: the wire format's actor, what of it (session, turn, call, model, user), and whether to trust it."""

    actor: dict[str, str] | None = None
    provenance: dict[str, str] = Field(default_factory=dict)
    untrusted: bool = False
    is_person: bool = False
    """Whether it is no agent: only people change what is protected, and what they write is trusted."""


class MemoryContent(_Frozen):
    """What a memory says, and what it must be. The content is scrubbed by now."""

    path: str
    content: str
    memory_type: str | None = None
    json_schema: dict[str, Any] | None = None
    size_limit: int | None = None
    protected: bool = False
    supersedes: str | None = None
    expires_at: datetime | None = None


class MemoryRecord(MemoryContent):
    """A memory as recorded."""

    id: str
    workspace_id: str
    store_id: str
    version: int
    version_id: str
    sha256: str
    size_bytes: int
    untrusted: bool
    created_at: datetime
    updated_at: datetime


_LIVE: LiteralString = " AND (expires_at IS NULL OR expires_at > clock_timestamp())"


async def get(connection: Connection, store_id: str, memory_id: str) -> MemoryRecord:
    """Return a memory; raises `NotFoundError`, also for one that has expired."""
    row = await one(
        connection,
        "SELECT * FROM memories WHERE store_id = %(store_id)s AND id = %(id)s" + _LIVE,
        {"store_id": store_id, "id": memory_id},
    )
    if row is None:
        raise unknown(memory_id)
    return MemoryRecord.model_validate(row)


async def at(connection: Connection, store_id: str, path: str) -> MemoryRecord | None:
    """Return what a path holds."""
    row = await one(
        connection,
        "SELECT * FROM memories WHERE store_id = %(store_id)s AND path = %(path)s" + _LIVE,
        {"store_id": store_id, "path": path},
    )
    return MemoryRecord.model_validate(row) if row else None


async def below(
    connection: Connection, store_id: str, prefix: str, *, after: str = "", limit: int
) -> list[MemoryRecord]:
    """Return the memories whose path starts with ``prefix``, in the order of their paths."""
    found = await rows(
        connection,
        "SELECT * FROM memories WHERE store_id = %(store_id)s AND starts_with(path, %(prefix)s) AND path > %(after)s"
        + _LIVE
        + " ORDER BY path LIMIT %(limit)s",
        {"store_id": store_id, "prefix": prefix, "after": after, "limit": limit},
    )
    return [MemoryRecord.model_validate(row) for row in found]


async def blocks_of(connection: Connection, store_ids: list[str], *, limit: int) -> list[MemoryRecord]:
    """Return the blocks of some stores: first the types that need no schema, each in the order of their paths."""
    found = await rows(
        connection,
        "SELECT * FROM memories WHERE store_id = ANY(%(stores)s) AND memory_type IS NOT NULL"
        + _LIVE
        + " ORDER BY coalesce(array_position(%(order)s::text[], memory_type), 99), memory_type, path LIMIT %(limit)s",
        {"stores": store_ids, "order": list(blocks.ORDER), "limit": limit},
    )
    return [MemoryRecord.model_validate(row) for row in found]


async def count_blocks(connection: Connection, store_ids: list[str]) -> int:
    """Return how many blocks some stores have."""
    row = await one(
        connection,
        "SELECT count(*)::int AS n FROM memories WHERE store_id = ANY(%(stores)s) AND memory_type IS NOT NULL"
        + _LIVE,
        {"stores": store_ids},
    )
    return row["n"] if row else 0


async def create(
    connection: Connection,
    store: StoreRecord,
    content: MemoryContent,
    author: Author,
    *,
    vector: Vector | None = None,
    created_at: datetime | None = None,
    untrusted: bool = False,
) -> MemoryRecord:
    """Make a memory in a locked store; raises `ConflictError` where the path is taken or the store is full.

    ``untrusted``: the content came from outside, whoever writes it.
    """
    check(content)
    _check_origin(content, author)
    moment = created_at or datetime.now(UTC)
    await _make_way(connection, store, content.path)
    size = len(content.content.encode())
    await memory_stores.grow(connection, store, memories=1, size_bytes=size)
    memory = MemoryRecord(
        **content.model_dump(),
        id=new_id("mem"),
        workspace_id=store.workspace_id,
        store_id=store.id,
        version=1,
        version_id=new_id("memver"),
        sha256=sha256(content.content),
        size_bytes=size,
        untrusted=author.untrusted or untrusted,
        created_at=moment,
        updated_at=moment,
    )
    await connection.execute(
        "INSERT INTO memories (id, workspace_id, store_id, path, version, version_id, content, sha256, size_bytes,"
        " memory_type, json_schema, size_limit, protected, untrusted, supersedes, expires_at, created_at, updated_at)"
        " VALUES (%(id)s, %(workspace_id)s, %(store_id)s, %(path)s, %(version)s, %(version_id)s, %(content)s,"
        " %(sha256)s, %(size_bytes)s, %(memory_type)s, %(json_schema)s, %(size_limit)s, %(protected)s, %(untrusted)s,"
        " %(supersedes)s, %(expires_at)s, %(created_at)s, %(updated_at)s)",
        _columns(memory),
    )
    await _record(connection, memory, "created", author, vector)
    return memory


async def change(
    connection: Connection,
    store: StoreRecord,
    before: MemoryRecord,
    content: MemoryContent,
    author: Author,
    *,
    vector: Vector | None = None,
    held_from: datetime | None = None,
    untrusted: bool | None = None,
) -> MemoryRecord:
    """Give a memory of a locked store another content or path; nothing happens if all is what it was.

    ``untrusted``: what a person says of the content's origin. Unsaid, new content of a person's is trusted, and what
    is left as it was is what it was.
    """
    is_same = content == MemoryContent(**before.model_dump(include=set(MemoryContent.model_fields)))
    if is_same and untrusted in (None, before.untrusted):
        return before
    check(content)
    _check_origin(content, author, before=before)
    if content.path != before.path:
        await _make_way(connection, store, content.path)
    size = len(content.content.encode())
    await memory_stores.grow(connection, store, memories=0, size_bytes=size - before.size_bytes)
    memory = before.model_copy(
        update={
            **content.model_dump(),
            "version": before.version + 1,
            "version_id": new_id("memver"),
            "sha256": sha256(content.content),
            "size_bytes": size,
            "untrusted": author.untrusted or _stays_untrusted(before, content, author, said=untrusted),
            "updated_at": max(held_from or datetime.now(UTC), before.updated_at),
        }
    )
    await connection.execute(
        "UPDATE memories SET path = %(path)s, version = %(version)s, version_id = %(version_id)s,"
        " content = %(content)s, sha256 = %(sha256)s, size_bytes = %(size_bytes)s, memory_type = %(memory_type)s,"
        " json_schema = %(json_schema)s, size_limit = %(size_limit)s, protected = %(protected)s,"
        " untrusted = %(untrusted)s, supersedes = %(supersedes)s, expires_at = %(expires_at)s,"
        " updated_at = %(updated_at)s WHERE id = %(id)s",
        _columns(memory),
    )
    await _close(connection, before, memory.updated_at)
    await _record(connection, memory, "modified", author, vector)
    return memory


async def remove(connection: Connection, store: StoreRecord, before: MemoryRecord, author: Author) -> None:
    """Remove a memory from a locked store; its versions stay."""
    _check_origin(before, author, before=before)
    moment = datetime.now(UTC)
    await memory_stores.grow(connection, store, memories=-1, size_bytes=-before.size_bytes)
    await connection.execute("DELETE FROM memories WHERE id = %s", (before.id,))
    await _close(connection, before, moment)
    gone = before.model_copy(
        update={"version": before.version + 1, "version_id": new_id("memver"), "updated_at": moment}
    )
    await _record(connection, gone, "deleted", author, None)


async def expired(connection: Connection, *, limit: int) -> list[MemoryRecord]:
    """Return memories whose time has passed."""
    found = await rows(
        connection,
        "SELECT * FROM memories WHERE expires_at <= clock_timestamp() ORDER BY expires_at LIMIT %(limit)s",
        {"limit": limit},
    )
    return [MemoryRecord.model_validate(row) for row in found]


async def has_expired(connection: Connection, memory_id: str) -> MemoryRecord | None:
    """Return a memory if it is there and its time has passed."""
    row = await one(
        connection,
        "SELECT * FROM memories WHERE id = %(id)s AND expires_at <= clock_timestamp()",
        {"id": memory_id},
    )
    return MemoryRecord.model_validate(row) if row else None


def require_version(memory: MemoryRecord, version: int) -> None:
    """Refuse a change that is of another version than the memory has."""
    if memory.version != version:
        raise ConflictError(
            f"{memory.path} has version {memory.version}, not {version}",
            code="memory_precondition_failed",
            field="version",
            next_step="read the memory again, and make the change to what it holds now",
        )


def check(content: MemoryContent) -> None:
    """Refuse what no memory, or none of this type, can be; raises `InvalidRequestError` with the field."""
    for field, path in (("path", content.path), ("supersedes", content.supersedes)):
        if path is not None and (problem := paths.problem(path)):
            raise _refused(field, problem)
    size = len(content.content.encode())
    if size > MAX_CONTENT_BYTES:
        raise _refused("content", f"has {size} bytes; a memory has at most {MAX_CONTENT_BYTES}")
    most = blocks.size_limit(content.memory_type, content.size_limit)
    if most is not None and len(content.content) > most:
        kind = f"a block of type {content.memory_type!r}" if content.memory_type else "this memory"
        raise _refused("content", f"has {len(content.content)} characters; {kind} has at most {most}")
    if content.json_schema is not None:
        _check_schema(content.content, content.json_schema)


def _check_schema(content: str, schema: dict[str, Any]) -> None:
    from controlplane.memory import schemas  # the brain reads memories, and has no room for what validates them

    if wrong := schemas.problems(content, schema):
        field, said = wrong[0]
        raise _refused(f"content.{field}" if field else "content", f"{said} (by the schema of the block)")


def sha256(content: str) -> str:
    """Return the hash that the wire format knows a content by."""
    return hashlib.sha256(content.encode()).hexdigest()


def is_protected(memory: MemoryContent) -> bool:
    """Say whether nothing of doubtful origin may be written to it."""
    return memory.protected or memory.memory_type in blocks.NEVER_FROM_OUTSIDE


def unknown(memory_id: str) -> NotFoundError:
    """The error for a memory that is not there."""
    return NotFoundError(
        f"no memory {shown_id(memory_id)!r} in this store",
        code="memory_not_found",
        field="memory_id",
        next_step="list the memories of the store",
    )


def taken(path: str) -> ConflictError:
    """The error for a path that holds a memory already."""
    return ConflictError(
        f"{path} holds a memory already",
        code="memory_path_taken",
        field="path",
        next_step="update that memory, or choose another path",
    )


async def _make_way(connection: Connection, store: StoreRecord, path: str) -> None:
    """Refuse a path that is taken, unless by what has expired, or that would make a file of a folder."""
    folders = [path[:place] for place, character in enumerate(path) if character == "/" and place]
    while row := await one(
        connection,
        "SELECT * FROM memories WHERE store_id = %(store_id)s"
        " AND (path = ANY(%(taken)s) OR (path > %(inside)s AND path < %(beyond)s))"
        " ORDER BY expires_at <= clock_timestamp() NULLS FIRST LIMIT 1",
        # '0' is the character after '/'.
        {"store_id": store.id, "taken": [path, *folders], "inside": path + "/", "beyond": path + "0"},
    ):
        other = MemoryRecord.model_validate(row)
        if other.expires_at is not None and other.expires_at <= datetime.now(UTC):
            await remove(connection, store, other, Author(is_person=True))
        elif other.path == path:
            raise taken(path)
        else:
            raise ConflictError(
                f"{path} and {other.path} cannot both be: one would be a file and a folder",
                code="memory_path_taken",
                field="path",
                next_step="choose another path",
            )


def _check_origin(content: MemoryContent, author: Author, *, before: MemoryRecord | None = None) -> None:
    """Refuse to let anything of doubtful origin, or an agent that has read such, near what is protected."""
    guarded = is_protected(content) or (before is not None and is_protected(before))
    if guarded and author.untrusted:
        raise InvalidRequestError(
            f"{content.path} is protected, and this session has read what came from a sandbox, a client's tool or an"
            " untrusted memory",
            code="memory_protected",
            field="path",
            next_step="save it elsewhere, or have a person write it",
        )


def _stays_untrusted(before: MemoryRecord, content: MemoryContent, author: Author, *, said: bool | None) -> bool:
    if not author.is_person:
        return before.untrusted
    return said if said is not None else before.untrusted and content.content == before.content


async def _close(connection: Connection, before: MemoryRecord, moment: datetime) -> None:
    await connection.execute(
        "UPDATE memory_versions SET held_to = %s WHERE id = %s AND held_to IS NULL", (moment, before.version_id)
    )


async def _record(
    connection: Connection,
    memory: MemoryRecord,
    operation: Literal["created", "modified", "deleted"],
    author: Author,
    vector: Vector | None,
) -> None:
    is_there = operation != "deleted"
    await connection.execute(
        "INSERT INTO memory_versions (id, workspace_id, store_id, memory_id, version, operation, path, content,"
        " sha256, size_bytes, memory_type, json_schema, size_limit, protected, untrusted, supersedes, expires_at,"
        " created_by, provenance, held_from, held_to)"
        " VALUES (%(version_id)s, %(workspace_id)s, %(store_id)s, %(id)s, %(version)s, %(operation)s, %(path)s,"
        " %(content)s, %(sha256)s, %(size_bytes)s, %(memory_type)s, %(json_schema)s, %(size_limit)s, %(protected)s,"
        " %(untrusted)s, %(supersedes)s, %(expires_at)s, %(actor)s, %(provenance)s, %(updated_at)s, %(held_to)s)",
        {
            **_columns(memory),
            "operation": operation,
            "content": memory.content if is_there else None,
            "sha256": memory.sha256 if is_there else None,
            "size_bytes": memory.size_bytes if is_there else None,
            "held_to": None if is_there else memory.updated_at,
            "actor": Jsonb(author.actor) if author.actor else None,
            "provenance": Jsonb(author.provenance),
        },
    )
    if vector is not None:
        await memory_vectors.put(
            connection,
            vector,
            version_id=memory.version_id,
            store_id=memory.store_id,
            workspace_id=memory.workspace_id,
        )
    elif is_there:
        await connection.execute("SELECT pg_notify(%s, '')", (memory_vectors.PENDING,))


def _columns(memory: MemoryRecord) -> dict[str, object]:
    schema = Jsonb(memory.json_schema) if memory.json_schema is not None else None
    return {**memory.model_dump(), "json_schema": schema}


def _refused(field: str, reason: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{field}: {reason}", code="invalid_memory", field=field, next_step="correct it and send it again"
    )
