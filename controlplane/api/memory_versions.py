"""/v1/memory_stores/{id}/memory_versions: how what is kept came to be, and what must not be kept."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from controlplane.api.exchange import CurrentExchange, json_response
from controlplane.api.memories import MOST_WITH_CONTENT, ViewParam, author_of
from controlplane.api.memory_stores import From, To
from controlplane.api.pages import DEFAULT_LIMIT, PageParam, SmallLimitParam, cut, decode, in_utc
from controlplane.store import memory_stores, memory_versions
from controlplane.store.memory_versions import Operation, VersionFilter, VersionRecord
from controlplane.store.pool import Connection
from controlplane.store.positions import Position
from controlplane.wire.common import Page
from controlplane.wire.memory import MemoryVersion, View

router = APIRouter(prefix="/v1/memory_stores/{memory_store_id}/memory_versions", tags=["memory"])


@router.get("", response_model=Page[MemoryVersion])
async def list_memory_versions(
    exchange: CurrentExchange,
    memory_store_id: str,
    memory_id: Annotated[str | None, Query(max_length=128)] = None,
    path: Annotated[str | None, Query(max_length=1024, description="Only of what was at this path then.")] = None,
    operation: Operation | None = None,
    session_id: Annotated[str | None, Query(max_length=128, description="Only what this session wrote.")] = None,
    api_key_id: Annotated[str | None, Query(max_length=128, description="Only what this key wrote.")] = None,
    service_account_id: Annotated[str | None, Query(description="There are no service accounts.")] = None,
    created_from: From = None,
    created_to: To = None,
    view: ViewParam = None,
    limit: SmallLimitParam = DEFAULT_LIMIT,
    page: PageParam = None,
) -> Response:
    """List versions, newest first, also those of memories that were deleted."""
    limit = min(limit, MOST_WITH_CONTENT) if view == "full" else limit
    narrowed = VersionFilter(
        memory_id=memory_id,
        path=path,
        operation=operation,
        session_id=session_id,
        api_key_id=api_key_id,
        created_from=created_from and in_utc(created_from),
        created_to=created_to and in_utc(created_to),
        beyond=decode(page, "memory_versions").position(),
    )
    async with exchange.transaction() as connection:
        await memory_stores.get(connection, memory_store_id)
        found = (
            []
            if service_account_id is not None
            else await memory_versions.listing(connection, memory_store_id, narrowed, limit=limit + 1)
        )
    shown, following = cut(found, limit, "memory_versions", lambda v: Position(created_at=v.created_at, id=v.id))
    data = [wire_version(record, view=view or "basic") for record in shown]
    return json_response(Page[MemoryVersion](data=data, next_page=following))


@router.get("/{memory_version_id}", response_model=MemoryVersion)
async def get_memory_version(
    exchange: CurrentExchange, memory_store_id: str, memory_version_id: str, view: ViewParam = None
) -> Response:
    """Get a version."""
    async with exchange.transaction() as connection:
        await memory_stores.get(connection, memory_store_id)
        found = await memory_versions.get(connection, memory_store_id, memory_version_id)
    return json_response(wire_version(found, view=view or "full"))


@router.post("/{memory_version_id}/redact", response_model=MemoryVersion)
async def redact_memory_version(exchange: CurrentExchange, memory_store_id: str, memory_version_id: str) -> Response:
    """Remove what a version said for good, with its vectors. What its memory says now cannot be redacted."""

    async def effect(connection: Connection) -> MemoryVersion:
        await memory_stores.lock(connection, memory_store_id)
        by = author_of(exchange).actor
        done = await memory_versions.redact(connection, memory_store_id, memory_version_id, by=by)
        return wire_version(done, view="full")

    return await exchange.once(effect)


def wire_version(record: VersionRecord, *, view: View) -> MemoryVersion:
    """Return a version as clients see it."""
    return MemoryVersion(
        **record.model_dump(include=set(MemoryVersion.model_fields) - {"content"}),
        memory_store_id=record.store_id,
        content_sha256=record.sha256,
        content_size_bytes=record.size_bytes,
        content=record.content if view == "full" else None,
    )
