"""/v1/memory_stores/{id}/memories: what the paths of a store hold."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from controlplane.api.exchange import CurrentExchange, Exchange, json_response, reads
from controlplane.api.pages import DEFAULT_LIMIT, Cursor, PageParam, SmallInteger, SmallLimitParam, decode, encode
from controlplane.checks import refused
from controlplane.errors import ConflictError
from controlplane.memory import blocks
from controlplane.memory.preparing import Draft, Prepared, beside
from controlplane.store import memories, memory_stores
from controlplane.store.memories import Author, MemoryContent, MemoryRecord
from controlplane.store.pool import Connection
from controlplane.wire.common import Page
from controlplane.wire.memory import (
    Memory,
    MemoryCreate,
    MemoryDeleted,
    MemoryItem,
    MemoryPrefix,
    MemoryUpdate,
    View,
)

router = APIRouter(prefix="/v1/memory_stores/{memory_store_id}/memories", tags=["memory"])

MOST_WITH_CONTENT = 20
_LOOKED_AT = 1_000
"""Memories read at a time while they are rolled up."""

ViewParam = Annotated[View | None, Query(description="Whether the content is in the answer.")]


@router.post("", response_model=Memory)
async def create_memory(
    exchange: CurrentExchange,
    memory_store_id: str,
    view: ViewParam = None,
    wanted: MemoryCreate = reads(MemoryCreate),
) -> Response:
    """Save a memory. Secrets are taken out before it is kept, and the answer says so."""
    check_schema(wanted.json_schema)
    content = MemoryContent(
        path=wanted.path,
        content=wanted.content or "",
        memory_type=wanted.memory_type,
        json_schema=wanted.json_schema,
        size_limit=wanted.size_limit,
        protected=wanted.protected,
        supersedes=wanted.supersedes,
        expires_at=wanted.expires_at,
    )
    memories.check(content)
    prepared = await prepare(exchange, content)

    async def effect(connection: Connection) -> Memory:
        store = await memory_stores.lock(connection, memory_store_id)
        memory_stores.require_unarchived(store)
        made = await memories.create(
            connection,
            store,
            content.model_copy(update={"content": prepared.content}),
            author_of(exchange),
            vector=prepared.vector,
            created_at=wanted.created_at,
            untrusted=wanted.untrusted,
        )
        return wire_memory(made, view=view or "basic", redacted=prepared.redacted)

    return await exchange.once(effect)


@router.get("", response_model=Page[MemoryItem])
async def list_memories(
    exchange: CurrentExchange,
    memory_store_id: str,
    path_prefix: Annotated[str | None, Query(max_length=1024, description="Ends with '/'.")] = None,
    path: Annotated[str | None, Query(max_length=1024, description="Only what is at this path.")] = None,
    depth: Annotated[int, SmallInteger, Query(ge=0, le=20, description="0: everything below the prefix.")] = 0,
    view: ViewParam = None,
    limit: SmallLimitParam = DEFAULT_LIMIT,
    page: PageParam = None,
) -> Response:
    """List memories in the order of their paths."""
    prefix = path_prefix or "/"
    if not prefix.endswith("/"):
        raise refused("path_prefix", "does not end with '/'", next_step="end it with '/', or omit it")
    after = decode(page, "memories").path or ""
    limit = min(limit, MOST_WITH_CONTENT) if view == "full" else limit
    items: list[Memory | MemoryPrefix] = []
    async with exchange.transaction() as connection:
        await memory_stores.get(connection, memory_store_id)
        if path is not None:
            found = await memories.at(connection, memory_store_id, path)
            only = [MemoryItem(wire_memory(found, view=view or "basic"))] if found else []
            return json_response(Page[MemoryItem](data=only))
        while len(items) <= limit:
            found = await memories.below(connection, memory_store_id, prefix, after=after, limit=_LOOKED_AT)
            for memory in found:
                after = _listed(items, memory, prefix=prefix, depth=depth, view=view or "basic")
                if len(items) > limit:
                    break
            if len(found) < _LOOKED_AT:
                break
    following = None
    if len(items) > limit:
        last = items[limit - 1]
        # What is rolled up ends before the character after '/'.
        beyond = last.path[:-1] + "0" if isinstance(last, MemoryPrefix) else last.path
        following = encode(Cursor(of="memories", path=beyond))
    return json_response(Page[MemoryItem](data=[MemoryItem(item) for item in items[:limit]], next_page=following))


@router.get("/{memory_id}", response_model=Memory)
async def get_memory(
    exchange: CurrentExchange, memory_store_id: str, memory_id: str, view: ViewParam = None
) -> Response:
    """Get a memory."""
    async with exchange.transaction() as connection:
        await memory_stores.get(connection, memory_store_id)
        found = await memories.get(connection, memory_store_id, memory_id)
    return json_response(wire_memory(found, view=view or "full"))


@router.post("/{memory_id}", response_model=Memory)
async def update_memory(
    exchange: CurrentExchange,
    memory_store_id: str,
    memory_id: str,
    view: ViewParam = None,
    wanted: MemoryUpdate = reads(MemoryUpdate),
) -> Response:
    """Change a memory's content, path or settings, if it is what the precondition says."""
    if wanted.patch is not None and wanted.content is not None:
        raise refused("patch", "content and patch exclude each other")
    check_schema(wanted.json_schema)
    async with exchange.transaction() as connection:
        await memory_stores.get(connection, memory_store_id)
        seen = await memories.get(connection, memory_store_id, memory_id)
    # Whether it is what the precondition says is asked below: a request that is repeated has changed it itself.
    content = _changed(seen, wanted)
    memories.check(content)
    prepared = await prepare(exchange, content)

    async def effect(connection: Connection) -> Memory:
        store = await memory_stores.lock(connection, memory_store_id)
        memory_stores.require_unarchived(store)
        before = await memories.get(connection, memory_store_id, memory_id)
        _check_precondition(before, wanted)
        if before.version != seen.version:
            raise ConflictError(
                "the memory was changed at the same moment",
                code="memory_changed",
                field="memory_id",
                next_step="send the request again",
            )
        changed = await memories.change(
            connection,
            store,
            before,
            content.model_copy(update={"content": prepared.content}),
            author_of(exchange),
            vector=prepared.vector,
            untrusted=_origin(before, wanted),
        )
        return wire_memory(changed, view=view or "basic", redacted=prepared.redacted)

    return await exchange.once(effect)


@router.delete("/{memory_id}", response_model=MemoryDeleted)
async def delete_memory(
    exchange: CurrentExchange,
    memory_store_id: str,
    memory_id: str,
    expected_content_sha256: Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$")] = None,
) -> Response:
    """Delete a memory; its versions stay, and can be redacted."""
    async with exchange.transaction() as connection:
        store = await memory_stores.lock(connection, memory_store_id)
        memory_stores.require_unarchived(store)
        memory = await memories.get(connection, memory_store_id, memory_id)
        if expected_content_sha256 not in (None, memory.sha256):
            raise _precondition_failed("expected_content_sha256")
        await memories.remove(connection, store, memory, author_of(exchange))
    return json_response(MemoryDeleted(id=memory_id))


async def prepare(exchange: Exchange, content: MemoryContent) -> Prepared:
    """Return what may be kept of a memory; raises `UnavailableError` where nothing can take secrets out."""
    also = beside(supersedes=content.supersedes, json_schema=content.json_schema)
    draft = Draft(path=content.path, content=content.content, beside=also)
    [prepared] = await exchange.parts.preparer.prepare(exchange.workspace_id, [draft])
    return prepared.checked()


def author_of(exchange: Exchange) -> Author:
    """Return the author of what a request writes: whoever has the key is trusted as a person is."""
    return Author(actor={"type": "api_actor", "api_key_id": exchange.key_id}, is_person=True)


def check_schema(schema: dict[str, Any] | None) -> None:
    """Refuse what is no schema for a block."""
    if schema is None:
        return
    from controlplane.memory import schemas

    if problem := schemas.schema_problem(schema):
        raise refused("json_schema", problem, next_step="correct the schema (JSON Schema 2020-12)")


def wire_memory(record: MemoryRecord, *, view: View, redacted: list[str] | None = None) -> Memory:
    """Return a memory as clients see it."""
    return Memory(
        **record.model_dump(include=set(Memory.model_fields) - {"content"}),
        memory_store_id=record.store_id,
        memory_version_id=record.version_id,
        content_sha256=record.sha256,
        content_size_bytes=record.size_bytes,
        content=record.content if view == "full" else None,
        redacted=redacted or [],
    )


def _listed(items: list[Memory | MemoryPrefix], memory: MemoryRecord, *, prefix: str, depth: int, view: View) -> str:
    """Add a memory to a listing, or what it is rolled up in; return behind what the listing goes on."""
    segments = memory.path[len(prefix) :].split("/")
    if not depth or len(segments) <= depth:
        items.append(wire_memory(memory, view=view))
    else:
        rolled = prefix + "/".join(segments[:depth]) + "/"
        if not items or items[-1].path != rolled:
            items.append(MemoryPrefix(path=rolled))
    return memory.path


def _check_precondition(memory: MemoryRecord, wanted: MemoryUpdate) -> None:
    if wanted.precondition is not None and wanted.precondition.content_sha256 != memory.sha256:
        raise _precondition_failed("precondition.content_sha256")
    if wanted.version is not None:
        memories.require_version(memory, wanted.version)


def _precondition_failed(field: str) -> ConflictError:
    return ConflictError(
        "the memory holds something else by now",
        code="memory_precondition_failed",
        field=field,
        next_step="read the memory again, and make the change to what it holds now",
    )


def _origin(before: MemoryRecord, wanted: MemoryUpdate) -> bool | None:
    """Return what the request says of the origin; what a patch leaves as it was is as untrusted as it was."""
    is_patched = wanted.patch is not None and before.untrusted
    return wanted.untrusted if wanted.untrusted is not None or not is_patched else True


def _changed(before: MemoryRecord, wanted: MemoryUpdate) -> MemoryContent:
    given = wanted.model_fields_set & {"memory_type", "json_schema", "size_limit", "supersedes", "expires_at"}
    changes: dict[str, Any] = {name: getattr(wanted, name) for name in given}
    for name in ("content", "path", "protected"):
        if getattr(wanted, name) is not None:
            changes[name] = getattr(wanted, name)
    if wanted.patch is not None:
        changes["content"] = blocks.content_of(blocks.merged(blocks.document(before.content), wanted.patch))
    kept = MemoryContent(**before.model_dump(include=set(MemoryContent.model_fields)))
    return kept.model_copy(update=changes)
