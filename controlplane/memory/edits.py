"""Edits of files under /mnt/memory: found, read, and taken back as versions."""

import posixpath
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace

from controlplane.errors import BulkheadError, InvalidRequestError
from controlplane.memory import inventory, paths
from controlplane.memory.inventory import Inventory
from controlplane.memory.preparing import Prepared
from controlplane.memory.rendering import Attached
from controlplane.store import memories, memory_attached, shown_memories
from controlplane.store.memories import MAX_CONTENT_BYTES, Author, MemoryContent, MemoryRecord, sha256
from controlplane.store.memory_attached import MOUNT_ROOT
from controlplane.store.memory_stores import StoreRecord
from controlplane.store.pool import Connection
from controlplane.store.shown_memories import ShownMemory, Standing
from sandbox.contract import SandboxError, SandboxProvider
from sandbox.records import SandboxRow
from workflows.contracts import ToolCallInput

_BATCH_CHARACTERS = 256 << 10
"""What is prepared at once: a second's work at most, so that one large edit neither fails nor makes others wait."""
_NO_FILE = {"file_not_found", "file_refused"}
"""What is said of the file. Whatever else keeps it from being read says nothing of it: the call is tried again."""
_FULL = "memory_store_full"
_LONGEST_ENDING = 20
_NAMED = 20
"""Of the files that a result has a sentence for; the others are counted."""


@dataclass(frozen=True)
class Edit:
    """A file that is not what was last known of it; without ``sha256`` it is gone, without ``content`` no memory."""

    store: Attached
    path: str
    known: ShownMemory | None
    sha256: str = ""
    content: str | None = None
    prepared: Prepared | None = None

    @property
    def name(self) -> str:
        """Where it lies under /mnt/memory."""
        return f"{self.store.name}{self.path}"

    @property
    def file(self) -> str:
        """Where it lies in the sandbox."""
        return f"{MOUNT_ROOT}/{self.name}"


@dataclass(frozen=True)
class Taken:
    """What the model is told of an edit. ``is_kept``: it is in memory now, or nothing was to be done."""

    said: str
    is_kept: bool = True


def found(store: Attached, known: Mapping[str, ShownMemory], there: Inventory) -> list[Edit]:
    """Return what differs from what is known; gone is only what is known not to be there.

    What is gone comes first: it makes room, for a folder in its place too.
    """
    files = there.files.get(store.name, {})
    gone = [Edit(store, each.path, each) for each in _missing(store, known, there) if each.standing == "shown"]
    changed = [
        Edit(store, path, known.get(path), sha256=digest)
        for path, digest in files.items()
        if (path in known and _is_edited(known[path], digest))
        or (path not in known and not inventory.is_unfinished(path))
    ]
    return gone + changed


def lost(store: Attached, known: Mapping[str, ShownMemory], there: Inventory) -> list[str]:
    """Return the paths of files that are not there, and of which that says nothing about memory."""
    return [each.path for each in _missing(store, known, there) if each.standing != "shown"]


def withdrawn(store: Attached, known: Mapping[str, ShownMemory], there: Inventory) -> list[str]:
    """Return what the model is told of files that held what was redacted meanwhile."""
    files = there.files.get(store.name, {})
    return [
        f"{MOUNT_ROOT}/{store.name}{path} had what was redacted meanwhile, so nothing of it is saved"
        for path, each in known.items()
        if each.standing == "redacted" and path in files
    ]


def _missing(store: Attached, known: Mapping[str, ShownMemory], there: Inventory) -> list[ShownMemory]:
    files = there.files.get(store.name, {})
    if not there.is_whole:
        return []
    return [each for path, each in known.items() if path not in files and store.name + path not in there.unread]


def _is_edited(known: ShownMemory, digest: str) -> bool:
    if known.standing in {"unsaved", "redacted"}:
        return known.standing == "unsaved"
    return digest not in (known.sha256, known.was_sha256)


async def batches(provider: SandboxProvider, box: SandboxRow, edits: Sequence[Edit]) -> AsyncIterator[list[Edit]]:
    """Yield edits with their contents, as many at a time as are prepared at once."""
    batch: list[Edit] = []
    size = 0
    for edit in edits:
        read = await _read(provider, box, edit) if edit.sha256 else edit
        taken = len(read.content or "")
        if batch and size + taken > _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
        batch.append(read)
        size += taken
    if batch:
        yield batch


async def _read(provider: SandboxProvider, box: SandboxRow, edit: Edit) -> Edit:
    """Return an edit with its content; without, if it is too large, no text, or gone again; raises `SandboxError`."""
    content = b""
    try:
        async for piece in provider.read_file(box.id, edit.file):
            content += piece
            if len(content) > MAX_CONTENT_BYTES:
                return edit
        text = content.decode()
    except UnicodeDecodeError:
        return edit
    except SandboxError as error:
        if error.code not in _NO_FILE:
            raise
        return edit
    if "\0" in text or paths.problem(edit.path):
        return edit
    return replace(edit, sha256=sha256(text), content=text)


class Taking:
    """Takes one edit back, in one transaction with what is noted of the file: repeated, it finds nothing to do."""

    def __init__(self, connection: Connection, call: ToolCallInput, box: SandboxRow):
        self._connection = connection
        self._call = call
        self._box = box

    async def take(self, edit: Edit) -> Taken:
        """Return what the model is told of it."""
        try:
            async with self._connection.transaction():
                store = await memory_attached.lock_writable(self._connection, edit.store)
                said = await self._remove(store, edit) if not edit.sha256 else await self._keep(store, edit)
        except BulkheadError as error:
            return await self._refused(edit, error)
        return Taken(said)

    async def _refused(self, edit: Edit, error: BulkheadError) -> Taken:
        said = f"{edit.file} is not saved: {error.message}"
        if not edit.sha256:
            await shown_memories.drop(self._connection, self._box.id, edit.store.store_id, [edit.path])
            return Taken(said, is_kept=False)
        await self._note(edit, "unsaved" if error.code == _FULL else "refused")
        if error.code == _FULL:
            said += ". The file is left as it is, and saved as soon as there is room"
        return Taken(said, is_kept=False)

    async def _author(self) -> Author:
        return await memory_attached.author(
            self._connection, self._call.session_id, tool_use_id=self._call.tool_use_id, untrusted=True
        )

    async def _remove(self, store: StoreRecord, edit: Edit) -> str:
        await shown_memories.drop(self._connection, self._box.id, store.id, [edit.path])
        head = await memories.at(self._connection, store.id, edit.path)
        if head is None or not _is_what_was_shown(head, edit.known):
            return f"{edit.file} was changed elsewhere meanwhile, so it is not deleted" if head else ""
        await memories.remove(self._connection, store, head, await self._author())
        return f"{edit.file} is deleted from memory"

    async def _keep(self, store: StoreRecord, edit: Edit) -> str:
        prepared = _checked(edit)
        head = await memories.at(self._connection, store.id, edit.path)
        if head is None:
            content = MemoryContent(path=edit.path, content=prepared.content)
            made = await memories.create(
                self._connection, store, content, await self._author(), vector=prepared.vector
            )
            await self._note(edit, "shown", of=made)
            return f"{edit.file} is saved as version 1" + _redacted(prepared)
        if head.content == prepared.content:
            await self._note(edit, "shown", of=head)
            return ""
        if not _is_what_was_shown(head, edit.known):
            return await self._keep_beside(store, edit, prepared)
        content = MemoryContent(**head.model_dump(include=set(MemoryContent.model_fields)))
        content = content.model_copy(update={"content": prepared.content})
        kept = await memories.change(
            self._connection, store, head, content, await self._author(), vector=prepared.vector
        )
        await self._note(edit, "shown", of=kept)
        return f"{edit.file} is saved as version {kept.version}" + _redacted(prepared)

    async def _keep_beside(self, store: StoreRecord, edit: Edit, prepared: Prepared) -> str:
        """Keep an edit under a name that follows from its content: the same one, found by many, is kept once."""
        path = conflict_path(edit.path, sha256(prepared.content))
        if await memories.at(self._connection, store.id, path) is None:
            content = MemoryContent(path=path, content=prepared.content)
            await memories.create(self._connection, store, content, await self._author(), vector=prepared.vector)
        await self._note(edit, "refused")
        return (
            f"{edit.file} was changed elsewhere meanwhile: both are kept, yours at {path}. The file shows the other"
            " from the next command on" + _redacted(prepared)
        )

    async def _note(self, edit: Edit, standing: Standing, *, of: MemoryRecord | None = None) -> None:
        """Note what a file holds, and which version that is, or else which it was made from."""
        base = ShownMemory(store_id=edit.store.store_id, path=edit.path, sha256=edit.sha256, standing=standing)
        if of is not None:
            base = base.model_copy(update={"memory_id": of.id, "version": of.version})
        elif edit.known is not None and edit.known.standing != "arriving":
            base = base.model_copy(update={"memory_id": edit.known.memory_id, "version": edit.known.version})
        await shown_memories.put(self._connection, self._box.id, base)


def conflict_path(path: str, digest: str) -> str:
    """Return where an edit is kept whose path holds something else: beside it, in a name that is short enough."""
    folder, _, name = path.rpartition("/")
    stem, ending = posixpath.splitext(name)
    if len(ending.encode()) > _LONGEST_ENDING:
        stem, ending = name, ""
    mark = f".conflict-{digest[:8]}{ending}"
    room = paths.MAX_SEGMENT_BYTES - len(mark.encode())
    beside = min(room, paths.MAX_PATH_BYTES - len(f"{folder}/{mark}".encode()))
    if beside < 1:
        # So deep that no name fits beside it.
        folder, beside = "", room
    return f"{folder}/{stem.encode()[:beside].decode(errors='ignore')}{mark}"


def brief(taken: Sequence[Taken]) -> list[str]:
    """Return what the model is told of many edits, what is not saved first; beyond a number they are counted."""
    said = sorted((each for each in taken if each.said), key=lambda each: each.is_kept)
    shown, more = [each.said for each in said[:_NAMED]], said[_NAMED:]
    if more:
        refused = sum(not each.is_kept for each in more)
        shown.append(
            f"of {len(more)} more files the same is true" + (f"; {refused} are not saved" if refused else "")
        )
    return shown


def counted(names: Sequence[str], *, most: int) -> str:
    """Return names as a text, those beyond ``most`` as a number."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _is_what_was_shown(head: MemoryRecord, known: ShownMemory | None) -> bool:
    """Say whether a memory is as a file had it: of one that was being written over nobody knows."""
    return (
        known is not None
        and known.standing != "arriving"
        and (head.id, head.version) == (known.memory_id, known.version)
    )


def _checked(edit: Edit) -> Prepared:
    if problem := paths.problem(edit.path):
        raise InvalidRequestError(problem, code="invalid_memory", field="path")
    if edit.prepared is None:
        raise InvalidRequestError(
            f"a memory is text in UTF-8 of at most {MAX_CONTENT_BYTES} bytes", code="invalid_memory", field="content"
        )
    return edit.prepared.checked()


def _redacted(prepared: Prepared) -> str:
    return f"; taken out before: {', '.join(prepared.redacted)}" if prepared.redacted else ""
