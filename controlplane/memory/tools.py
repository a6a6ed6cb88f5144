"""The memory tools' effects: each in the transaction that confirms its call, so that it happens once or never."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from controlplane.errors import BulkheadError, InvalidRequestError
from controlplane.memory import blocks
from controlplane.memory.preparing import Draft, Prepared, Preparer, beside
from controlplane.memory.rendering import UNTRUSTED, Attached
from controlplane.store import memories, memory_attached, memory_search
from controlplane.store.journal import Effect, PostgresJournal
from controlplane.store.memories import MAX_CONTENT_BYTES, MemoryContent, MemoryRecord
from controlplane.store.memory_search import Search
from controlplane.store.memory_vectors import Vector
from controlplane.store.pool import Connection, Database
from harness_adapters import toolset
from harness_adapters.contract import TextBlock, ToolOutcome
from harness_adapters.toolset import memory as names
from workflows.contracts import ToolCallInput
from workflows.outcomes import failure
from workflows.records import FinalState, JournaledCall

_LISTED = 200
_END = "[end of what is untrusted"
_ENDS = re.compile(r"\[(?=\s*end\s+of\s+what\s+is\s+untrusted)", re.IGNORECASE)
_SHOWN_CHARACTERS = 4_000
"""Of each hit of a search; the whole is read by its path."""


@dataclass(frozen=True)
class _Done:
    text: str
    untrusted: bool = False


class MemoryTools:
    """Runs the memory tools of any session; `workflows.records.Remembering`."""

    def __init__(self, database: Database, journal: PostgresJournal, preparer: Preparer):
        self._database = database
        self._journal = journal
        self._preparer = preparer

    async def run(self, call: ToolCallInput, row: JournaledCall) -> FinalState:
        """Run a call that is dispatched, and record its outcome; one transaction for both."""
        prepared, vector, before = await self._ready(call, row)

        async def effect(connection: Connection) -> tuple[ToolOutcome, dict[str, Any]]:
            work = _Work(connection, call, row.input, prepared=prepared, vector=vector, prepared_from=before)
            try:
                async with connection.transaction():
                    done = await work.done(row.name)
            except BulkheadError as error:
                said = ". ".join(filter(None, [error.message, error.next_step and error.next_step.capitalize()]))
                return failure(call.tool_use_id, f"{row.name}: {said}."), {}
            outcome = ToolOutcome(tool_use_id=call.tool_use_id, content=[TextBlock(text=done.text)])
            return outcome, {"untrusted": True} if done.untrusted else {}

        typed: Effect = effect
        return await self._journal.finish_with(call, typed)

    async def _ready(
        self, call: ToolCallInput, row: JournaledCall
    ) -> tuple[Prepared | None, Vector | None, MemoryRecord | None]:
        """Do what takes other parts, before the transaction: nothing may wait for them with rows locked."""
        value = row.input
        if toolset.check(row.name, value) is not None:
            return None, None, None
        if row.name == names.SEARCH:
            return None, await self._preparer.question(call.workspace_id, value["query"]), None
        if row.name not in {names.SAVE, names.UPDATE}:
            return None, None, None
        before: MemoryRecord | None = None
        content = value.get("content", "")
        if row.name == names.UPDATE:
            async with self._database.transaction(call.workspace_id) as connection:
                stores = await memory_attached.attached(connection, call.session_id)
                store = _named(stores, value)
                before = await memories.at(connection, store.store_id, value["path"]) if store else None
            content = _patched(before, value["patch"])
        draft = Draft(
            path=value["path"],
            content=content[: 2 * MAX_CONTENT_BYTES],
            beside=beside(supersedes=value.get("supersedes")),
        )
        [prepared] = await self._preparer.prepare(call.workspace_id, [draft])
        return prepared, None, before


class _Work:
    def __init__(
        self,
        connection: Connection,
        call: ToolCallInput,
        value: Mapping[str, Any],
        *,
        prepared: Prepared | None,
        vector: Vector | None,
        prepared_from: MemoryRecord | None,
    ):
        self._connection = connection
        self._call = call
        self._value = value
        self._prepared = prepared
        self._vector = vector
        self._prepared_from = prepared_from

    async def done(self, name: str) -> _Done:
        if (problem := toolset.check(name, self._value)) is not None:
            raise InvalidRequestError(problem, code="invalid_tool_input")
        stores = await memory_attached.attached(self._connection, self._call.session_id)
        if not stores:
            raise InvalidRequestError("this session has no memory store", code="no_memory_store")
        if name == names.SEARCH:
            return await self._search(stores)
        store = _named(stores, self._value)
        if store is None:
            known = ", ".join(repr(each.name) for each in stores)
            raise InvalidRequestError(f"store must be one of {known}", code="unknown_store", field="store")
        if name == names.READ:
            return await self._read(store)
        return await self._write(name, store)

    async def _read(self, store: Attached) -> _Done:
        path: str = self._value["path"]
        if path.endswith("/"):
            return await self._list(store, path)
        memory = await self._at(store)
        head = {"store": store.name, "path": path, "version": memory.version, "type": memory.memory_type}
        head["updated_at"] = memory.updated_at.isoformat()
        return _Done(f"{json.dumps(head)}\n{_marked(memory.content, memory.untrusted, self._call)}", memory.untrusted)

    async def _list(self, store: Attached, prefix: str) -> _Done:
        found = await memories.below(
            self._connection, store.store_id, "" if prefix == "/" else prefix, limit=_LISTED + 1
        )
        lines = [
            f"{memory.path} (version {memory.version}, {memory.size_bytes} bytes"
            + (f", {memory.memory_type}" if memory.memory_type else "")
            + (", untrusted)" if memory.untrusted else ")")
            for memory in found[:_LISTED]
        ]
        more = ["(and more; list a folder of it)"] if len(found) > _LISTED else []
        return _Done("\n".join([*lines, *more]) or f"Nothing is below {prefix}.", any(m.untrusted for m in found))

    async def _search(self, stores: list[Attached]) -> _Done:
        wanted_store = self._value.get("store")
        among = [store for store in stores if wanted_store in (None, store.name)]
        if not among:
            known = ", ".join(repr(each.name) for each in stores)
            raise InvalidRequestError(f"store must be one of {known}", code="unknown_store", field="store")
        wanted = Search(
            query=self._value["query"],
            limit=self._value.get("limit") or 5,
            types=self._value.get("types"),
            path_prefix=self._value.get("path_prefix"),
            as_of=_moment(self._value.get("as_of")),
        )
        ids = [store.store_id for store in among]
        hits = await memory_search.search(self._connection, ids, wanted, vector=self._vector)
        by_id = {store.store_id: store.name for store in among}
        texts = [
            f"{by_id[hit.version.store_id]}:{hit.version.path} (version {hit.version.version},"
            f" {hit.version.held_from:%Y-%m-%d}; {hit.reason})\n"
            + _marked((hit.version.content or "")[:_SHOWN_CHARACTERS], hit.version.untrusted, self._call)
            for hit in hits
        ]
        return _Done("\n\n".join(texts) or "Nothing was found.", any(hit.version.untrusted for hit in hits))

    async def _write(self, name: str, store: Attached) -> _Done:
        locked = await memory_attached.lock_writable(self._connection, store)
        author = await memory_attached.author(
            self._connection, self._call.session_id, tool_use_id=self._call.tool_use_id
        )
        path: str = self._value["path"]
        before = await memories.at(self._connection, store.store_id, path)
        version: int | None = self._value.get("version")
        if before is not None and version is not None:
            memories.require_version(before, version)
        if name == names.FORGET:
            await memories.remove(self._connection, locked, await self._known(store, version), author)
            return _Done(f"Forgotten: {path}.")
        prepared = self._checked(before)
        if before is None:
            if version:
                raise _absent(path)
            made = await memories.create(
                self._connection, locked, self._content(prepared), author, vector=prepared.vector
            )
            return _Done(_saved(made, prepared))
        if version is None:
            raise InvalidRequestError(
                f"{path} holds version {before.version} already",
                code="memory_path_taken",
                field="version",
                next_step="read it, then give that version to replace it, or choose another path",
            )
        content = self._content(prepared, before=before, is_patch=name == names.UPDATE)
        changed = await memories.change(self._connection, locked, before, content, author, vector=prepared.vector)
        return _Done(_saved(changed, prepared))

    def _checked(self, before: MemoryRecord | None) -> Prepared:
        """Return what was prepared, if the memory is still what the patch was applied to."""
        known = self._prepared_from
        moved = (known.id, known.version) if known else None
        now = (before.id, before.version) if before else None
        if self._prepared is None or ("patch" in self._value and moved != now):
            raise InvalidRequestError(
                f"{self._value['path']} was changed at the same moment",
                code="memory_precondition_failed",
                field="version",
                next_step="read it again, and make the change to what it holds now",
            )
        return self._prepared.checked()

    def _content(
        self, prepared: Prepared, *, before: MemoryRecord | None = None, is_patch: bool = False
    ) -> MemoryContent:
        kind = self._value.get("type")
        if kind is not None and not blocks.is_type(kind):
            raise InvalidRequestError(
                "type: small letters, digits and '_', a letter first", code="invalid_memory", field="type"
            )
        if before is None:
            kept = MemoryContent(path=self._value["path"], content=prepared.content, memory_type=kind)
        else:
            kept = MemoryContent(**before.model_dump(include=set(MemoryContent.model_fields)))
            kept = kept.model_copy(update={"content": prepared.content})
            if kind is not None and not is_patch:
                kept = kept.model_copy(update={"memory_type": kind})
        changes: dict[str, Any] = {}
        if "supersedes" in self._value:
            changes["supersedes"] = self._value["supersedes"]
        if "expires_in_days" in self._value:
            changes["expires_at"] = datetime.now(UTC) + timedelta(days=self._value["expires_in_days"])
        return kept.model_copy(update=changes)

    async def _known(self, store: Attached, version: int | None) -> MemoryRecord:
        """Return what is to be forgotten, if the session can have read it as it is."""
        memory = await self._at(store)
        if version is None and await memory_attached.is_news(self._connection, self._call.session_id, memory):
            raise InvalidRequestError(
                f"{memory.path} was changed by somebody else since this session began",
                code="memory_precondition_failed",
                field="version",
                next_step="read it, then give the version that is to be forgotten",
            )
        return memory

    async def _at(self, store: Attached) -> MemoryRecord:
        memory = await memories.at(self._connection, store.store_id, self._value["path"])
        if memory is None:
            raise _absent(self._value["path"])
        return memory


def _named(stores: list[Attached], value: Mapping[str, Any]) -> Attached | None:
    wanted = value.get("store")
    if wanted is None:
        return stores[0] if len(stores) == 1 else None
    return next((store for store in stores if store.name == wanted), None)


def _patched(before: MemoryRecord | None, patch: Mapping[str, Any]) -> str:
    return blocks.content_of(blocks.merged(blocks.document(before.content) if before else {}, patch))


def _absent(path: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"no memory is at {path}",
        code="memory_not_found",
        field="path",
        next_step="list what there is with memory_read and the path '/'",
    )


def _saved(memory: MemoryRecord, prepared: Prepared) -> str:
    said = f"Saved: {memory.path} is version {memory.version} now."
    if prepared.redacted:
        said += f" Taken out before it was saved: {', '.join(prepared.redacted)}. Memory keeps no secrets."
    if memory.untrusted:
        said += f" It is marked {UNTRUSTED.partition(':')[0]}."
    return said


def _marked(content: str, untrusted: bool, call: ToolCallInput) -> str:
    """Return a content in a frame that nothing in it ends: its end has the call's id, which no writer knew."""
    if not untrusted:
        return content
    end = f"{_END} {call.tool_use_id[-8:]}]"
    return f"[{UNTRUSTED}; it ends with {end}]\n{_ENDS.sub('(', content)}\n{end}"


def _moment(given: str | None) -> datetime | None:
    if given is None:
        return None
    try:
        found = datetime.fromisoformat(given)
    except ValueError as error:
        raise InvalidRequestError(
            "as_of: no time in RFC 3339's form", code="invalid_memory", field="as_of"
        ) from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)
