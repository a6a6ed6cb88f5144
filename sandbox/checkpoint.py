"""What is kept of a sandbox that ends: two folders, as archives that only the session's next sandbox reads."""

import asyncio
import zlib
from collections.abc import AsyncIterator

import structlog

from sandbox.contract import ArchiveReceipt, SandboxError, SandboxProvider
from sandbox.records import Checkpoint, CheckpointRecords, EndReason, KeptFolder, Restored, SandboxRow

KEPT = ("/workspace", "/mnt/session/outputs")
"""What an agent works on, and what it leaves for whoever asked."""

PIECE_BYTES = 1 << 20
"""As with files: a row's overhead vanishes, and many checkpoints at once fit in memory."""

AT_ONCE = 2
"""Reading folders and compressing them takes a core each; idle sandboxes can wait for one another."""

_FASTEST = 1
"""Of zlib's levels: thrice as fast as the default for a tenth more bytes."""

_PASSING = {"sandbox_lost", "engine_away"}

_log = structlog.get_logger(__name__)


class Checkpoints:
    """Keeps at most ``max_bytes`` of a sandbox, before compression; what does not fit is named in the receipt."""

    def __init__(self, records: CheckpointRecords, *, max_bytes: int):
        self._records = records
        self._max_bytes = max_bytes
        self._places = asyncio.Semaphore(AT_ONCE)

    async def take(self, row: SandboxRow, provider: SandboxProvider) -> None:
        """Keep what a retiring sandbox holds, and end its row.

        Repeatable. Raises `SandboxLostError` if the sandbox is gone, `SandboxError` if it cannot be read now.
        """
        async with self._places:
            checkpoint_id = await self._records.begin(row)
            folders: list[KeptFolder] = []
            room = self._max_bytes
            for path in KEPT:
                pieces = _Pieces(self._records, row, checkpoint_id, folder=path)
                receipt = await provider.read_archive(row.id, path, max_bytes=room, sink=pieces.take)
                await pieces.keep()
                folders.append(_folder(path, receipt))
                room -= receipt.bytes
            await self._records.complete(row, checkpoint_id, folders)
        _log.info("checkpoint_taken", sandbox_id=row.id, bytes=self._max_bytes - room)

    async def restore(self, row: SandboxRow, provider: SandboxProvider, *, previous_end: EndReason) -> Restored:
        """Put the session's checkpoint into a new sandbox; the receipt says what came back, also when nothing did."""
        checkpoint = await self._records.newest(row)
        if checkpoint is None:
            return Restored(previous_end=previous_end)
        folders: list[KeptFolder] = []
        problem = None
        try:
            for kept in checkpoint.folders:
                pieces = self._content(checkpoint, kept.path)
                receipt = await provider.write_archive(row.id, kept.path, pieces, max_bytes=self._max_bytes)
                folders.append(kept.model_copy(update={"entries": receipt.entries, "size_bytes": receipt.bytes}))
        except SandboxError as error:
            if error.code in _PASSING:
                raise
            # For ever without a sandbox would be worse than one that says what it lacks.
            problem = str(error)
            _log.warning("checkpoint_not_restored", sandbox_id=row.id, checkpoint_id=checkpoint.id, cause=problem)
        return Restored(previous_end=previous_end, taken_at=checkpoint.taken_at, folders=folders, problem=problem)

    async def _content(self, checkpoint: Checkpoint, folder: str) -> AsyncIterator[bytes]:
        async for content in self._records.content(checkpoint, folder):
            yield await asyncio.to_thread(zlib.decompress, content)


class _Pieces:
    """Gathers an archive into pieces of one size, each compressed by itself."""

    def __init__(self, records: CheckpointRecords, row: SandboxRow, checkpoint_id: str, *, folder: str):
        self._records, self._row, self._id, self._folder = records, row, checkpoint_id, folder
        self._buffer = bytearray()
        self._ordinal = 0

    async def take(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) >= PIECE_BYTES:
            await self.keep()

    async def keep(self) -> None:
        if not self._buffer:
            return
        content = await asyncio.to_thread(zlib.compress, bytes(self._buffer), _FASTEST)
        self._buffer.clear()
        await self._records.add(self._row, self._id, folder=self._folder, ordinal=self._ordinal, content=content)
        self._ordinal += 1


def _folder(path: str, receipt: ArchiveReceipt) -> KeptFolder:
    return KeptFolder(
        path=path,
        entries=receipt.entries,
        size_bytes=receipt.bytes,
        missing=receipt.skipped,
        missing_count=receipt.skipped_count,
    )
