"""/v1/memory_stores: what agents keep beyond a session, by whose sessions may have it."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from controlplane.api.exchange import CurrentExchange, Exchange, json_response, reads
from controlplane.api.pages import DEFAULT_LIMIT, PageParam, SmallLimitParam, cut, decode, in_utc
from controlplane.checks import patched_metadata, refused
from controlplane.memory.preparing import Draft
from controlplane.store import agents, memory_stores, sessions
from controlplane.store.memory_stores import StoreContent, StoreRecord
from controlplane.store.pool import Connection
from controlplane.store.positions import Position
from controlplane.wire.common import Page
from controlplane.wire.memory import (
    MemoryStore,
    MemoryStoreCreate,
    MemoryStoreDeleted,
    MemoryStoreUpdate,
    Owner,
    OwnerRequest,
)

router = APIRouter(prefix="/v1/memory_stores", tags=["memory"])

From = Annotated[datetime | None, Query(alias="created_at[gte]", description="At or after this time.")]
To = Annotated[datetime | None, Query(alias="created_at[lte]", description="At or before this time.")]


@router.post("", response_model=MemoryStore)
async def create_memory_store(
    exchange: CurrentExchange, wanted: MemoryStoreCreate = reads(MemoryStoreCreate)
) -> Response:
    """Make a memory store."""
    await _check_secrets(exchange, wanted)
    content = StoreContent(
        name=wanted.name,
        description=wanted.description,
        metadata=wanted.metadata or {},
        owner_kind=wanted.owner.type,
        owner_id=wanted.owner.id,
        access=wanted.access,
        max_memories=wanted.max_memories,
        max_bytes=wanted.max_bytes,
    )

    async def effect(connection: Connection) -> MemoryStore:
        await _check_owner(connection, wanted.owner)
        return wire_store(await memory_stores.create(connection, exchange.workspace_id, content))

    return await exchange.once(effect)


@router.get("", response_model=Page[MemoryStore])
async def list_memory_stores(
    exchange: CurrentExchange,
    created_from: From = None,
    created_to: To = None,
    include_archived: bool = False,
    limit: SmallLimitParam = DEFAULT_LIMIT,
    page: PageParam = None,
) -> Response:
    """List memory stores, newest first."""
    beyond = decode(page, "memory_stores").position()
    async with exchange.transaction() as connection:
        found = await memory_stores.listing(
            connection,
            include_archived=include_archived,
            created_from=created_from and in_utc(created_from),
            created_to=created_to and in_utc(created_to),
            beyond=beyond,
            limit=limit + 1,
        )
    shown, following = cut(found, limit, "memory_stores", lambda s: Position(created_at=s.created_at, id=s.id))
    return json_response(Page[MemoryStore](data=[wire_store(record) for record in shown], next_page=following))


@router.get("/{memory_store_id}", response_model=MemoryStore)
async def get_memory_store(exchange: CurrentExchange, memory_store_id: str) -> Response:
    """Get a memory store."""
    async with exchange.transaction() as connection:
        return json_response(wire_store(await memory_stores.get(connection, memory_store_id)))


@router.post("/{memory_store_id}", response_model=MemoryStore)
async def update_memory_store(
    exchange: CurrentExchange, memory_store_id: str, wanted: MemoryStoreUpdate = reads(MemoryStoreUpdate)
) -> Response:
    """Change a store's name, description, metadata, access or quotas. Its owner stays what it is."""
    await _check_secrets(exchange, wanted)

    async def effect(connection: Connection) -> MemoryStore:
        before = await memory_stores.lock(connection, memory_store_id)
        memory_stores.require_unarchived(before)
        content = StoreContent(
            name=wanted.name or before.name,
            description=before.description if wanted.description is None else wanted.description,
            metadata=patched_metadata(before.metadata, wanted.metadata),
            owner_kind=before.owner_kind,
            owner_id=before.owner_id,
            access=wanted.access or before.access,
            max_memories=wanted.max_memories or before.max_memories,
            max_bytes=wanted.max_bytes or before.max_bytes,
        )
        return wire_store(await memory_stores.replace(connection, memory_store_id, content))

    return await exchange.once(effect)


@router.delete("/{memory_store_id}", response_model=MemoryStoreDeleted)
async def delete_memory_store(exchange: CurrentExchange, memory_store_id: str) -> Response:
    """Delete a store with its memories, their versions and vectors for good; sessions lose it."""
    async with exchange.transaction() as connection:
        await memory_stores.lock(connection, memory_store_id)
        await memory_stores.delete(connection, memory_store_id)
    return json_response(MemoryStoreDeleted(id=memory_store_id))


@router.post("/{memory_store_id}/archive", response_model=MemoryStore)
async def archive_memory_store(exchange: CurrentExchange, memory_store_id: str) -> Response:
    """Make a store read-only for good."""

    async def effect(connection: Connection) -> MemoryStore:
        await memory_stores.lock(connection, memory_store_id)
        return wire_store(await memory_stores.archive(connection, memory_store_id))

    return await exchange.once(effect)


async def _check_secrets(exchange: Exchange, wanted: MemoryStoreCreate | MemoryStoreUpdate) -> None:
    """Refuse a secret in what every session is told of a store, or anybody who lists it."""
    metadata = wanted.metadata or {}
    said = {
        "name": [wanted.name or ""],
        "description": [wanted.description or ""],
        "metadata": [text or "" for pair in metadata.items() for text in pair],
    }
    if any(text for texts in said.values() for text in texts):
        draft = Draft(path="/", content="", beside=said)
        [prepared] = await exchange.parts.preparer.prepare(exchange.workspace_id, [draft])
        prepared.checked()


async def _check_owner(connection: Connection, owner: OwnerRequest) -> None:
    if (owner.type == "shared") != (owner.id is None):
        reason = "is needed" if owner.id is None else "a shared store has none"
        raise refused("owner.id", reason, next_step="name who owns it, or use the type 'shared' without an id")
    if owner.type == "agent":
        await agents.get(connection, owner.id or "", version=None)
    if owner.type == "session":
        await sessions.get(connection, owner.id or "")


def wire_store(record: StoreRecord) -> MemoryStore:
    """Return a store as clients see it."""
    return MemoryStore(
        **record.model_dump(include=set(MemoryStore.model_fields)),
        owner=Owner(type=record.owner_kind, id=record.owner_id),
        memory_count=record.memories,
        memory_bytes=record.bytes,
    )
