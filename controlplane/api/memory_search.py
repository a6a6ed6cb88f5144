"""/v1/memory_stores/{id}/search and /import: finding what is kept, and keeping much at once."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from controlplane.api.exchange import CurrentExchange, json_response, reads
from controlplane.api.memories import author_of, check_schema
from controlplane.errors import BulkheadError
from controlplane.memory.preparing import Draft, Prepared, beside
from controlplane.store import memories, memory_search, memory_stores
from controlplane.store.memories import Author, MemoryContent
from controlplane.store.memory_search import Hit, Search
from controlplane.store.memory_stores import StoreRecord
from controlplane.store.pool import Connection
from controlplane.wire.memory import (
    ImportedMemory,
    MemoriesImported,
    Memory,
    MemoryImport,
    SearchHit,
    SearchRequest,
    SearchResults,
)

router = APIRouter(prefix="/v1/memory_stores/{memory_store_id}", tags=["memory"])


@router.post("/search", response_model=SearchResults)
async def search_memory_store(
    exchange: CurrentExchange, memory_store_id: str, wanted: SearchRequest = reads(SearchRequest)
) -> Response:
    """Find memories by meaning and by words; each says why. With `as_of`, in what was kept then."""
    vector = await exchange.parts.preparer.question(exchange.workspace_id, wanted.query)
    search = Search(**wanted.model_dump())
    async with exchange.transaction() as connection:
        await memory_stores.get(connection, memory_store_id)
        hits = await memory_search.search(connection, [memory_store_id], search, vector=vector)
    return json_response(SearchResults(data=[_wire(hit) for hit in hits]))


@router.post("/import", response_model=MemoriesImported)
async def import_memories(
    exchange: CurrentExchange, memory_store_id: str, wanted: MemoryImport = reads(MemoryImport)
) -> Response:
    """Keep many memories, all or none. Repeated, nothing changes."""
    for index, line in enumerate(wanted.memories):
        with _line(index):
            check_schema(line.json_schema)
            memories.check(_content(line))
    drafts = [
        Draft(
            path=line.path,
            content=line.content,
            beside=beside(supersedes=line.supersedes, json_schema=line.json_schema),
        )
        for line in wanted.memories
    ]
    prepared = await exchange.parts.preparer.prepare(exchange.workspace_id, drafts)

    async def effect(connection: Connection) -> MemoriesImported:
        store = await memory_stores.lock(connection, memory_store_id)
        memory_stores.require_unarchived(store)
        return await imported(connection, store, wanted.memories, prepared, author_of(exchange))

    return await exchange.once(effect)


async def imported(
    connection: Connection,
    store: StoreRecord,
    lines: Sequence[ImportedMemory],
    prepared: Sequence[Prepared],
    author: Author,
) -> MemoriesImported:
    created = updated = unchanged = 0
    for index, (line, ready) in enumerate(zip(lines, prepared, strict=True)):
        with _line(index):
            content = _content(line).model_copy(update={"content": ready.checked().content})
            before = await memories.at(connection, store.id, line.path)
            if before is None:
                await memories.create(
                    connection,
                    store,
                    content,
                    author,
                    vector=ready.vector,
                    created_at=line.created_at,
                    untrusted=bool(line.untrusted),
                )
                created += 1
                continue
            kept = MemoryContent(**before.model_dump(include=set(MemoryContent.model_fields)))
            content = kept.model_copy(update={"content": content.content, **_settings(line)})
            changed = await memories.change(
                connection,
                store,
                before,
                content,
                author,
                vector=ready.vector,
                held_from=line.created_at,
                untrusted=line.untrusted,
            )
            unchanged += changed is before
            updated += changed is not before
    redacted = sum(bool(each.redacted) for each in prepared)
    return MemoriesImported(created=created, updated=updated, unchanged=unchanged, redacted=redacted)


@contextmanager
def _line(index: int) -> Generator[None]:
    """Put the place of a line in front of the field of an error in it."""
    try:
        yield
    except BulkheadError as error:
        if error.field and error.field != "memory_store_id":
            error.field = f"memories.{index}.{error.field}"
        raise


def _content(line: ImportedMemory) -> MemoryContent:
    return MemoryContent(path=line.path, content=line.content, **_settings(line))


def _settings(line: ImportedMemory) -> dict[str, Any]:
    """Return what a line says beside its content."""
    given = {"memory_type": line.type} if line.type is not None else {}
    names = {"supersedes", "size_limit", "json_schema", "protected", "expires_at"}
    return given | line.model_dump(include=names, exclude_none=True)


def _wire(hit: Hit) -> SearchHit:
    version = hit.version
    memory = Memory(
        id=version.memory_id,
        memory_store_id=version.store_id,
        memory_version_id=version.id,
        path=version.path or "",
        content_sha256=version.sha256 or "",
        content_size_bytes=version.size_bytes or 0,
        created_at=hit.memory_created_at,
        updated_at=version.held_from,
        content=version.content,
        version=version.version,
        memory_type=version.memory_type,
        json_schema=version.json_schema,
        size_limit=version.size_limit,
        protected=version.protected,
        untrusted=version.untrusted,
        supersedes=version.supersedes,
        expires_at=version.expires_at,
    )
    return SearchHit(memory=memory, score=hit.score, reason=hit.reason)
