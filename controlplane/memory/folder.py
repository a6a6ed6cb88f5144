"""Memory as files: what a sandbox sees under /mnt/memory before a command, and what came of it after."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from weakref import WeakValueDictionary

from controlplane.errors import UnavailableError
from controlplane.memory import edits, inventory
from controlplane.memory.edits import Edit, Taken, Taking, counted
from controlplane.memory.inventory import Inventory
from controlplane.memory.preparing import Draft, Preparer
from controlplane.memory.rendering import Attached
from controlplane.store import memories, memory_attached, memory_stores, shown_memories
from controlplane.store.memories import MemoryRecord
from controlplane.store.memory_attached import MOUNT_ROOT
from controlplane.store.pool import Database
from controlplane.store.shown_memories import ShownMemory, Standing
from sandbox.contract import ExecRequest, SandboxError, SandboxProvider
from sandbox.records import SandboxRow
from workflows.contracts import ToolCallInput

MOST_SHOWN = 1_000
"""Files of each store: each is written by itself, and all are hashed after each command."""
_MOST_SHOWN_BYTES = 16 << 20
_NAMED = 5
"""Of the files that something is told of; the others are counted."""
_REMOVE = f"cd {MOUNT_ROOT} && xargs -0 rm -f --"
_EMPTY = (
    f"[ -e {MOUNT_ROOT} ] || exit 0; cd {MOUNT_ROOT} || exit; chmod -R u+rwx -- {{0}} 2> /dev/null; rm -rf -- {{0}}"
)


@dataclass(frozen=True)
class _Visit:
    """A call at its sandbox: what its steps need."""

    call: ToolCallInput
    box: SandboxRow
    provider: SandboxProvider

    async def run(self, command: str, *, what: str, stdin: str = "") -> bool:
        """Run a command of ours, and say whether it succeeded. Each is new: an old one's result would come again."""
        request = ExecRequest(
            exec_id=f"{self.call.tool_use_id}-memory-{what}-{uuid.uuid4().hex[:8]}",
            command=command,
            stdin=stdin,
            cwd="/",
            timeout_seconds=inventory.SECONDS,
        )
        return (await self.provider.execute(self.box.id, request)).exit_code == 0


@dataclass
class _Found:
    """What lies there, which of it holds edits that are not saved yet, and what the model is told."""

    there: Inventory
    pending: set[str] = field(default_factory=set[str])
    notes: list[str] = field(default_factory=list[str])


class MemoryFolder:
    """Shows the stores of a session in its sandbox, and takes edits back; `workflows.records.Shelf`.

    A host's worker does one at a time of a sandbox: each goes by what the one before has noted.
    """

    def __init__(self, database: Database, preparer: Preparer):
        self._database = database
        self._preparer = preparer
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def before(self, call: ToolCallInput, box: SandboxRow, provider: SandboxProvider) -> list[str] | None:
        """See `Shelf.before`."""
        visit = _Visit(call, box, provider)
        async with self._alone(box):
            stores, folders = await self._stores(visit)
            if not stores and not folders:
                return None
            stores, notes = await self._settled(visit, stores, folders)
            if not stores:
                return notes
            found = await self._take(visit, stores)
            notes += found.notes
            if found.there.is_known:
                for store in stores:
                    notes += await self._show(visit, store, found)
        return notes

    async def after(self, call: ToolCallInput, box: SandboxRow, provider: SandboxProvider) -> list[str]:
        """See `Shelf.after`."""
        visit = _Visit(call, box, provider)
        async with self._alone(box):
            stores, folders = await self._stores(visit)
            # What was attached meanwhile has no files yet; whatever lies in its place is another's.
            stores = [store for store in stores if folders.get(store.name) == store.store_id]
            if not stores:
                return []
            found = await self._take(visit, stores)
        return found.notes + _unknown(found.there)

    @asynccontextmanager
    async def _alone(self, box: SandboxRow) -> AsyncGenerator[None]:
        lock = self._locks.setdefault(box.id, asyncio.Lock())
        async with lock:
            yield

    async def _stores(self, visit: _Visit) -> tuple[list[Attached], dict[str, str]]:
        """Return the session's stores, and which folders have files of which store."""
        async with self._database.transaction(visit.call.workspace_id) as connection:
            stores = await memory_attached.attached(connection, visit.call.session_id)
            return stores, await shown_memories.folders(connection, visit.box.id)

    async def _settled(
        self, visit: _Visit, stores: Sequence[Attached], folders: Mapping[str, str]
    ) -> tuple[list[Attached], list[str]]:
        """Empty the folders of stores that are no longer attached there, and return those that have their own."""
        wanted = {store.name: store.store_id for store in stores}
        left = {folder: store_id for folder, store_id in folders.items() if wanted.get(folder) != store_id}
        notes: list[str] = []
        if left:
            if not await visit.run(_EMPTY.format(" ".join(f"./{name}" for name in left)), what="left"):
                names = ", ".join(f"{MOUNT_ROOT}/{name}" for name in left)
                notes.append(f"files of a store that is not attached there any more cannot be removed from {names}")
                stores = [s for s in stores if s.name not in left and s.store_id not in left.values()]
            else:
                async with self._database.transaction(visit.call.workspace_id) as connection:
                    for folder, store_id in left.items():
                        await shown_memories.vacate(connection, visit.box.id, folder, store_id)
        async with self._database.transaction(visit.call.workspace_id) as connection:
            own = [
                store
                for store in stores
                if folders.get(store.name) == store.store_id
                or await shown_memories.occupy(connection, visit.box.id, store.name, store.store_id)
            ]
        return own, notes

    async def _show(self, visit: _Visit, store: Attached, found: _Found) -> list[str]:
        showing = await self._planned(visit, store, found)
        folder = f"{MOUNT_ROOT}/{store.name}"
        mode = 0o644 if store.writable else 0o444
        refused: list[str] = []
        written: list[str] = []
        for memory in showing.to_write:
            try:
                await visit.provider.write_file(visit.box.id, folder + memory.path, _once(memory.content), mode=mode)
            except SandboxError as error:
                if error.code != "file_refused":
                    raise
                refused.append(str(error))
            else:
                written.append(memory.path)
        if written:
            async with self._database.transaction(visit.call.workspace_id) as connection:
                await shown_memories.arrived(connection, visit.box.id, store.store_id, written)
        notes = [_behind(folder, refused)] if refused else []
        if showing.to_remove and not await self._cleared(visit, store, showing.to_remove):
            notes.append(f"{folder} still has files of memories that are gone; they cannot be removed")
        if showing.is_cut:
            notes.append(
                f"{folder} has only the first {showing.count} memories of the store; search_memory finds all"
            )
        return notes

    async def _planned(self, visit: _Visit, store: Attached, found: _Found) -> "_Showing":
        """Note what is about to be written and removed, and return it: killed after this, nothing is an edit."""
        box_id = visit.box.id
        async with self._database.transaction(visit.call.workspace_id) as connection:
            # So that no version is redacted between being read and being noted.
            await memory_stores.hold(connection, store.store_id)
            known = {each.path: each for each in await shown_memories.of_store(connection, box_id, store.store_id)}
            heads = await memories.below(connection, store.store_id, "/", limit=MOST_SHOWN + 1)
            shown = _fitting(heads)
            spared = _spared(store, known, found)
            free = [memory for memory in shown if memory.path not in spared]
            to_write = [memory for memory in free if _is_to_be_written(memory, known.get(memory.path))]
            files = found.there.files.get(store.name, {})
            arriving = [_as_shown(each, "arriving", was=files.get(each.path)) for each in to_write]
            same = [
                _as_shown(memory, "shown") for memory in free if not _is_to_be_written(memory, known.get(memory.path))
            ]
            await shown_memories.put(connection, box_id, *arriving, *(s for s in same if s != known.get(s.path)))
            there = {memory.path for memory in shown}
            to_remove = [
                each.path
                for each in known.values()
                if each.path not in there and each.path not in spared and each.standing != "refused"
            ]
            await shown_memories.leave(connection, box_id, store.store_id, to_remove)
        return _Showing(to_write, to_remove, count=len(shown), is_cut=len(shown) < len(heads))

    async def _cleared(self, visit: _Visit, store: Attached, gone: Sequence[str]) -> bool:
        """Remove files that are noted as leaving. What cannot be removed stays so: it is no new memory."""
        names = "".join(f"./{store.name}{path}\0" for path in gone)
        if not await visit.run(_REMOVE, what="gone", stdin=names):
            return False
        async with self._database.transaction(visit.call.workspace_id) as connection:
            await shown_memories.drop(connection, visit.box.id, store.store_id, gone)
        return True

    async def _take(self, visit: _Visit, stores: Sequence[Attached]) -> _Found:
        known: dict[str, dict[str, ShownMemory]] = {}
        for store in stores:
            async with self._database.transaction(visit.call.workspace_id) as connection:
                shown = await shown_memories.of_store(connection, visit.box.id, store.store_id)
            known[store.store_id] = {each.path: each for each in shown}
        # It is listed anew each time: under the same id, an earlier list would come again.
        listing_id = f"{visit.call.tool_use_id}-memory-{uuid.uuid4().hex[:8]}"
        names = [store.name for store in stores]
        there = await inventory.taken(visit.provider, visit.box.id, names, exec_id=listing_id)
        found = _Found(there)
        wanted: list[Edit] = []
        for store in stores:
            wanted += edits.found(store, known[store.store_id], there)
            found.notes += edits.withdrawn(store, known[store.store_id], there)
            if lost := edits.lost(store, known[store.store_id], there):
                async with self._database.transaction(visit.call.workspace_id) as connection:
                    await shown_memories.drop(connection, visit.box.id, store.store_id, lost)
        await self._save(visit, wanted, found)
        return found

    async def _save(self, visit: _Visit, wanted: Sequence[Edit], found: _Found) -> None:
        """Take edits back, some at a time: what is saved is saved, whatever becomes of the rest."""
        taken: list[Taken] = []
        found.pending = {edit.name for edit in wanted if edit.sha256}
        try:
            async for batch in edits.batches(visit.provider, visit.box, wanted):
                for edit in await self._prepared(visit.call.workspace_id, batch):
                    async with self._database.transaction(visit.call.workspace_id) as connection:
                        taken.append(await Taking(connection, visit.call, visit.box).take(edit))
                    found.pending.discard(edit.name)
        except UnavailableError:
            left = f"{len(found.pending)} edits under {MOUNT_ROOT}"
            found.notes.append(f"{left} could not be saved now; they are with the next command")
        found.notes[:0] = edits.brief(taken)

    async def _prepared(self, workspace_id: str, batch: Sequence[Edit]) -> list[Edit]:
        drafts = [Draft(path=edit.path, content=edit.content) for edit in batch if edit.content is not None]
        ready = iter(await self._preparer.prepare(workspace_id, drafts) if drafts else [])
        return [edit if edit.content is None else replace(edit, prepared=next(ready)) for edit in batch]


@dataclass(frozen=True)
class _Showing:
    """What is written and removed for a store. ``count``: of the memories that are shown; ``is_cut``: not all are."""

    to_write: Sequence[MemoryRecord]
    to_remove: Sequence[str]
    count: int
    is_cut: bool


def _spared(store: Attached, known: Mapping[str, ShownMemory], found: _Found) -> Collection[str]:
    """Return the paths of files that may hold what is nowhere else: they are neither written over nor removed."""
    held = {name.removeprefix(store.name) for name in {*found.there.unread, *found.pending}}
    return held | {path for path, each in known.items() if each.standing == "unsaved"}


def _is_to_be_written(memory: MemoryRecord, known: ShownMemory | None) -> bool:
    return known is None or known.standing != "shown" or known.sha256 != memory.sha256


def _unknown(there: Inventory) -> list[str]:
    """Return what the model is told of what could not be read."""
    said: list[str] = []
    if there.unread:
        names = sorted(f"{MOUNT_ROOT}/{each}" for each in there.unread)
        said.append(
            f"{counted(names, most=_NAMED)} could not be read: edits there are not saved, nothing of it is deleted"
        )
    if there.unnamed:
        said.append(
            f"{there.unnamed} files under {MOUNT_ROOT} have the end of a line in their name: they are not saved"
        )
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
        f" {counted(refused, most=_NAMED)}. memory_read has what it says now; the next command tries again"
    )


def _fitting(heads: Sequence[MemoryRecord]) -> list[MemoryRecord]:
    shown: list[MemoryRecord] = []
    room = _MOST_SHOWN_BYTES
    for memory in heads[:MOST_SHOWN]:
        room -= memory.size_bytes
        if room < 0:
            break
        shown.append(memory)
    return shown


def _as_shown(memory: MemoryRecord, standing: Standing, *, was: str | None = None) -> ShownMemory:
    return ShownMemory(
        store_id=memory.store_id,
        path=memory.path,
        memory_id=memory.id,
        version=memory.version,
        sha256=memory.sha256,
        standing=standing,
        was_sha256=was,
    )


async def _once(content: str) -> AsyncIterator[bytes]:
    yield content.encode()
