"""Memory as files: what a sandbox sees under /mnt/memory before a command, and what came of it after."""

import posixpath
import uuid
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass

from controlplane.errors import BulkheadError, UnavailableError
from controlplane.memory import inventory, paths
from controlplane.memory.inventory import Inventory
from controlplane.memory.preparing import Draft, Prepared, Preparer
from controlplane.memory.rendering import Attached
from controlplane.store import memories, memory_attached, shown_memories
from controlplane.store.memories import MAX_CONTENT_BYTES, Author, MemoryContent, MemoryRecord, sha256
from controlplane.store.memory_attached import MOUNT_ROOT
from controlplane.store.memory_stores import StoreRecord
from controlplane.store.pool import Connection, Database
from controlplane.store.shown_memories import ShownMemory
from sandbox.contract import ExecRequest, SandboxError, SandboxProvider
from sandbox.records import SandboxRow
from workflows.contracts import ToolCallInput

MOST_SHOWN = 1_000
"""Files of each store: each is written by itself, and all are hashed after each command."""
_MOST_SHOWN_BYTES = 16 << 20
_NAMED = 5
"""Of the files that something is told of; the others are counted."""
_REMOVE = "cd /mnt/memory && xargs -0 rm -f --"


@dataclass(frozen=True)
class _Edit:
    """A file that is not what was last known of it; ``content`` None: it is gone."""

    store: Attached
    path: str
    known: ShownMemory | None
    sha256: str = ""
    content: str | None = None
    prepared: Prepared | None = None

    @property
    def file(self) -> str:
        """Where it lies in the sandbox."""
        return f"{MOUNT_ROOT}/{self.store.name}{self.path}"


class MemoryFolder:
    """Shows the stores of a session in its sandbox, and takes edits back; `workflows.records.Shelf`."""

    def __init__(self, database: Database, preparer: Preparer):
        self._database = database
        self._preparer = preparer

    async def before(self, call: ToolCallInput, box: SandboxRow, provider: SandboxProvider) -> list[str] | None:
        """See `Shelf.before`."""
        stores = await self._stores(call)
        if not stores:
            return None
        there, notes = await self._take(call, box, provider, stores, step="before")
        if there.is_known:
            for store in stores:
                notes += await self._show(call, box, provider, store, spared=there.unread)
        return notes

    async def after(self, call: ToolCallInput, box: SandboxRow, provider: SandboxProvider) -> list[str]:
        """See `Shelf.after`."""
        stores = await self._stores(call)
        if not stores:
            return []
        there, notes = await self._take(call, box, provider, stores, step="after")
        return notes + _unknown(there)

    async def _stores(self, call: ToolCallInput) -> list[Attached]:
        async with self._database.transaction(call.workspace_id) as connection:
            return await memory_attached.attached(connection, call.session_id)

    async def _show(
        self,
        call: ToolCallInput,
        box: SandboxRow,
        provider: SandboxProvider,
        store: Attached,
        *,
        spared: Collection[str],
    ) -> list[str]:
        """``spared``: files that may hold edits which could not be read."""
        async with self._database.transaction(call.workspace_id) as connection:
            known = {each.path: each for each in await shown_memories.of_store(connection, box.id, store.store_id)}
            heads = await memories.below(connection, store.store_id, "/", limit=MOST_SHOWN + 1)
        shown = _fitting(heads)
        folder = f"{MOUNT_ROOT}/{store.name}"
        mode = 0o644 if store.writable else 0o444
        refused: list[str] = []
        for memory in shown:
            if store.name + memory.path in spared:
                continue
            before = known.get(memory.path)
            if before is None or before.sha256 != memory.sha256:
                try:
                    await provider.write_file(box.id, folder + memory.path, _once(memory.content), mode=mode)
                except SandboxError as error:
                    if error.code != "file_refused":
                        raise
                    refused.append(str(error))
                    continue
            if before is None or (before.sha256, before.version) != (memory.sha256, memory.version):
                async with self._database.transaction(call.workspace_id) as connection:
                    await shown_memories.put(connection, box.id, _as_shown(memory))
        notes = [_behind(folder, refused)] if refused else []
        there = {memory.path for memory in shown}
        gone = [each for each in known.values() if each.memory_id is not None and each.path not in there]
        if gone:
            notes += await self._clear(call, box, provider, store, [each.path for each in gone])
        if len(shown) < len(heads):
            notes.append(f"{folder} has only the first {len(shown)} memories of the store; search_memory finds all")
        return notes

    async def _clear(
        self, call: ToolCallInput, box: SandboxRow, provider: SandboxProvider, store: Attached, gone: Sequence[str]
    ) -> list[str]:
        """Remove files of memories that are gone. What cannot be removed stays known: it is no new memory."""
        request = ExecRequest(
            exec_id=f"{call.tool_use_id}-gone-{store.store_id[-8:]}",
            command=_REMOVE,
            stdin="".join(f"./{store.name}{path}\0" for path in gone),
            cwd="/",
            timeout_seconds=inventory.SECONDS,
        )
        result = await provider.execute(box.id, request)
        if result.exit_code != 0:
            return [f"{MOUNT_ROOT}/{store.name} still has files of memories that are gone; they cannot be removed"]
        async with self._database.transaction(call.workspace_id) as connection:
            await shown_memories.drop(connection, box.id, store.store_id, gone)
        return []

    async def _take(
        self,
        call: ToolCallInput,
        box: SandboxRow,
        provider: SandboxProvider,
        stores: Sequence[Attached],
        *,
        step: str,
    ) -> tuple[Inventory, list[str]]:
        # What is known is read before what is there: a file that another call makes and saves meanwhile is not taken
        # for one that is gone. And it is listed anew each time: under the same id, an earlier list would come again.
        known: dict[str, dict[str, ShownMemory]] = {}
        for store in stores:
            async with self._database.transaction(call.workspace_id) as connection:
                shown = await shown_memories.of_store(connection, box.id, store.store_id)
            known[store.store_id] = {each.path: each for each in shown}
        listing_id = f"{call.tool_use_id}-memory-{step}-{uuid.uuid4().hex[:8]}"
        there = await inventory.taken(provider, box.id, [store.name for store in stores], exec_id=listing_id)
        notes: list[str] = []
        edits: list[_Edit] = []
        for store in stores:
            for edit in _edits(store, known[store.store_id], there):
                if edit.sha256:
                    edit = await _read(provider, box, edit)  # noqa: PLW2901 - the same, with its content
                edits.append(edit)
        try:
            ready = await self._prepared(call, edits)
        except UnavailableError:
            return there, [f"edits under {MOUNT_ROOT} could not be saved now; they are with the next command"]
        for edit in ready:
            async with self._database.transaction(call.workspace_id) as connection:
                notes += await _Taking(connection, call, box).take(edit)
        return there, notes

    async def _prepared(self, call: ToolCallInput, edits: Sequence[_Edit]) -> list[_Edit]:
        written = [edit for edit in edits if edit.content is not None]
        drafts = [Draft(path=edit.path, content=edit.content or "") for edit in written]
        found = await self._preparer.prepare(call.workspace_id, drafts) if drafts else []
        by_file = {edit.file: ready for edit, ready in zip(written, found, strict=True)}
        return [
            _Edit(e.store, e.path, e.known, sha256=e.sha256, content=e.content, prepared=by_file.get(e.file))
            for e in edits
        ]


class _Taking:
    """Takes one edit back, in one transaction with what is noted of the file: repeated, it finds nothing to do."""

    def __init__(self, connection: Connection, call: ToolCallInput, box: SandboxRow):
        self._connection = connection
        self._call = call
        self._box = box

    async def take(self, edit: _Edit) -> list[str]:
        """Return what the model is told of it."""
        try:
            async with self._connection.transaction():
                store = await memory_attached.lock_writable(self._connection, edit.store)
                said = await self._remove(store, edit) if not edit.sha256 else await self._keep(store, edit)
        except BulkheadError as error:
            if edit.sha256:
                refused = ShownMemory(store_id=edit.store.store_id, path=edit.path, sha256=edit.sha256)
                await shown_memories.put(self._connection, self._box.id, refused)
            else:
                await shown_memories.drop(self._connection, self._box.id, edit.store.store_id, [edit.path])
            return [f"{edit.file} is not saved: {error.message}"]
        return [said] if said else []

    async def _author(self) -> Author:
        return await memory_attached.author(
            self._connection, self._call.session_id, tool_use_id=self._call.tool_use_id, untrusted=True
        )

    async def _remove(self, store: StoreRecord, edit: _Edit) -> str:
        await shown_memories.drop(self._connection, self._box.id, store.id, [edit.path])
        head = await memories.at(self._connection, store.id, edit.path)
        if head is None or edit.known is None or not _is_what_was_shown(head, edit.known):
            return f"{edit.file} was changed elsewhere meanwhile, so it is not deleted" if head else ""
        await memories.remove(self._connection, store, head, await self._author())
        return f"{edit.file} is deleted from memory"

    async def _keep(self, store: StoreRecord, edit: _Edit) -> str:
        prepared = _checked(edit)
        head = await memories.at(self._connection, store.id, edit.path)
        if head is not None and head.content == prepared.content:
            kept, said = head, ""
        elif head is not None and edit.known is not None and _is_what_was_shown(head, edit.known):
            content = _content_of(head).model_copy(update={"content": prepared.content})
            kept = await memories.change(
                self._connection, store, head, content, await self._author(), vector=prepared.vector
            )
            said = f"{edit.file} is saved as version {kept.version}"
        else:
            return await self._create(store, edit, prepared, conflicts=head is not None)
        await self._note(kept, edit)
        return said + _redacted(prepared)

    async def _create(self, store: StoreRecord, edit: _Edit, prepared: Prepared, *, conflicts: bool) -> str:
        path = edit.path
        if conflicts:
            stem, ending = posixpath.splitext(edit.path)
            path = f"{stem}.conflict-{self._call.tool_use_id[-6:]}{ending}"
            if await memories.at(self._connection, store.id, path) is not None:
                return ""
        made = await memories.create(
            self._connection,
            store,
            MemoryContent(path=path, content=prepared.content),
            await self._author(),
            vector=prepared.vector,
        )
        if not conflicts:
            await self._note(made, edit)
            return f"{edit.file} is saved as version 1" + _redacted(prepared)
        unsaved = ShownMemory(store_id=store.id, path=edit.path, sha256=edit.sha256)
        await shown_memories.put(self._connection, self._box.id, unsaved)
        return (
            f"{edit.file} was changed elsewhere meanwhile: both are kept, yours at {path}. The file shows the other"
            " from the next command on" + _redacted(prepared)
        )

    async def _note(self, memory: MemoryRecord, edit: _Edit) -> None:
        known = _as_shown(memory).model_copy(update={"sha256": edit.sha256})
        await shown_memories.put(self._connection, self._box.id, known)


def _edits(store: Attached, known: Mapping[str, ShownMemory], there: Inventory) -> list[_Edit]:
    """Return what differs from what is known; gone is only what is known not to be there."""
    files = there.files.get(store.name, {})
    changed = [
        _Edit(store, path, known.get(path), sha256=digest)
        for path, digest in files.items()
        if (path not in known and not inventory.is_unfinished(path))
        or (path in known and known[path].sha256 != digest)
    ]
    if not there.is_whole:
        return changed
    gone = [
        _Edit(store, path, each)
        for path, each in known.items()
        if each.memory_id and path not in files and store.name + path not in there.unread
    ]
    return changed + gone


def _unknown(there: Inventory) -> list[str]:
    """Return what the model is told of what could not be read."""
    said: list[str] = []
    if there.unread:
        names = sorted(f"{MOUNT_ROOT}/{each}" for each in there.unread)
        said.append(f"{_counted(names)} could not be read: edits there are not saved, and nothing of it is deleted")
    if not there.is_whole:
        said.append(
            f"not all that lies under {MOUNT_ROOT} could be listed ({there.problem or 'no reason is known'}):"
            " nothing is deleted from memory, and edits in what could not be listed are not saved yet"
        )
    return said


def _behind(folder: str, refused: Sequence[str]) -> str:
    """Return what the model is told of files that could not be written: the command runs, and may make room."""
    return (
        f"{folder} could not be brought up to date, so files there are missing or say what memory said before:"
        f" {_counted(refused)}. memory_read has what it says now; the next command tries again"
    )


def _counted(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


async def _read(provider: SandboxProvider, box: SandboxRow, edit: _Edit) -> _Edit:
    """Return an edit with its content; without, if it is too large, no text, or gone again."""
    content = b""
    try:
        async for piece in provider.read_file(box.id, edit.file):
            content += piece
            if len(content) > MAX_CONTENT_BYTES:
                return edit
        text = content.decode()
    except (SandboxError, UnicodeDecodeError):
        return edit
    if "\0" in text or paths.problem(edit.path):
        return edit
    digest = sha256(text)
    return _Edit(edit.store, edit.path, edit.known, sha256=digest, content=text)


def _checked(edit: _Edit) -> Prepared:
    from controlplane.errors import InvalidRequestError

    if problem := paths.problem(edit.path):
        raise InvalidRequestError(problem, code="invalid_memory", field="path")
    if edit.prepared is None:
        raise InvalidRequestError(
            f"a memory is text in UTF-8 of at most {MAX_CONTENT_BYTES} bytes", code="invalid_memory", field="content"
        )
    return edit.prepared.checked()


def _fitting(heads: Sequence[MemoryRecord]) -> list[MemoryRecord]:
    shown: list[MemoryRecord] = []
    room = _MOST_SHOWN_BYTES
    for memory in heads[:MOST_SHOWN]:
        room -= memory.size_bytes
        if room < 0:
            break
        shown.append(memory)
    return shown


def _is_what_was_shown(head: MemoryRecord, known: ShownMemory) -> bool:
    return (head.id, head.version) == (known.memory_id, known.version)


def _content_of(memory: MemoryRecord) -> MemoryContent:
    return MemoryContent(**memory.model_dump(include=set(MemoryContent.model_fields)))


def _as_shown(memory: MemoryRecord) -> ShownMemory:
    return ShownMemory(
        store_id=memory.store_id,
        path=memory.path,
        memory_id=memory.id,
        version=memory.version,
        sha256=memory.sha256,
    )


def _redacted(prepared: Prepared) -> str:
    return f"; taken out before: {', '.join(prepared.redacted)}" if prepared.redacted else ""


async def _once(content: str) -> AsyncIterator[bytes]:
    yield content.encode()
