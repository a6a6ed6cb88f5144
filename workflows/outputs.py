"""What lies in /mnt/session/outputs when a turn ends is kept as files of the session."""

import asyncio
import hashlib
from collections.abc import Iterable

import structlog
from temporalio import activity
from temporalio.client import ActivityFailureError, Client
from temporalio.common import ActivityIDConflictPolicy, ActivityIDReusePolicy, RetryPolicy
from temporalio.service import RPCError

from sandbox.contract import FileStat, SandboxError, SandboxLostError, SandboxProvider
from sandbox.keeper import Keeper
from workflows.contracts import KEEP_OUTPUTS, OutputsInput, host_queue
from workflows.heartbeat import heartbeats
from workflows.limits import OUTPUTS_PATIENCE, TOOL_HEARTBEAT_TIMEOUT, TURN_RETRY_FIRST
from workflows.records import LeftOut, OutputRecords, SessionGoneError, TurnRecords, TurnStart

FOLDER = "/mnt/session/outputs"

MOST_FILES = 10
MOST_BYTES = 20_000_000
"""Of one file. A turn's end keeps so many; what else there is comes with the next one's."""

_MOST_ENTRIES = 1_000
_AT_ONCE = 2
"""Files are in memory while they are kept."""

_log = structlog.get_logger(__name__)


class OutputDispatcher:
    """Has the host that holds a session's sandbox keep what a turn has left there."""

    def __init__(self, *, client: Client, records: TurnRecords):
        self._client = client
        self._records = records

    async def keep(self, turn: TurnStart) -> None:
        """Return when it is kept, or cannot be now: then the turn's end says so, and the next one's looks again."""
        found = await self._records.outputs(turn)
        if found is None:
            return
        host, wanted = found
        try:
            async with asyncio.timeout(OUTPUTS_PATIENCE.total_seconds()):
                await self._ask(host, wanted)
        except (TimeoutError, ActivityFailureError) as error:
            _log.warning("outputs_not_kept", cause=type(error).__name__)

    async def _ask(self, host: str, wanted: OutputsInput) -> None:
        while True:
            try:
                handle = await self._client.start_activity(
                    KEEP_OUTPUTS,
                    wanted,
                    id=f"outputs-{wanted.turn_id}",
                    task_queue=host_queue(host),
                    schedule_to_close_timeout=OUTPUTS_PATIENCE,
                    heartbeat_timeout=TOOL_HEARTBEAT_TIMEOUT,
                    # A turn's next attempt looks again: what is kept already is kept once.
                    id_reuse_policy=ActivityIDReusePolicy.ALLOW_DUPLICATE,
                    id_conflict_policy=ActivityIDConflictPolicy.USE_EXISTING,
                    retry_policy=RetryPolicy(initial_interval=TURN_RETRY_FIRST),
                )
                await handle.result()
            except RPCError as error:
                _log.info("outputs_asked_again", cause=error.status.name)
                await asyncio.sleep(TURN_RETRY_FIRST.total_seconds())
            else:
                return


class OutputRunner:
    """Keeps what lies there in the sandboxes of this host. Done again, it finds what has changed since."""

    def __init__(self, *, keeper: Keeper, records: OutputRecords):
        self._keeper = keeper
        self._records = records
        self._places = asyncio.Semaphore(_AT_ONCE)

    @activity.defn(name=KEEP_OUTPUTS)
    async def keep_outputs(self, wanted: OutputsInput) -> None:
        """Keep new and changed files; what is left out is on record."""
        structlog.contextvars.bind_contextvars(session_id=wanted.session_id, turn_id=wanted.turn_id)
        async with heartbeats():
            try:
                box = await self._keeper.holding(
                    wanted.workspace_id, wanted.session_id, wanted.sandbox_id, tool_use_id=wanted.tool_use_id
                )
                if box is not None:
                    await self._keep(wanted, self._keeper.provider(box))
            except SessionGoneError:
                return
            except SandboxError as error:
                # It is gone, halted, or somewhere else by now: as long as its files are, a later turn's end has them.
                _log.warning("outputs_not_read", cause=error.code)

    async def _keep(self, wanted: OutputsInput, provider: SandboxProvider) -> None:
        began, known = await self._records.known(wanted)
        found, whole = await _files(provider, wanted.sandbox_id)
        room = MOST_FILES
        for file in found:
            if file.changed_at is not None and known.get(_name(file.path)) == (file.size_bytes, file.changed_at):
                continue
            reason = _reason(file, room)
            if reason is None:
                async with self._places:
                    content = await _content(provider, wanted.sandbox_id, file.path)
                    if isinstance(content, bytes):
                        digest = await asyncio.to_thread(_digest, content)
                        room -= await self._records.keep(
                            wanted, _name(file.path), file=file, content=content, sha256=digest
                        )
                        continue
                    reason = content
            await self._records.leave_out(wanted, _name(file.path), file=file, reason=reason)
        if not whole:
            rest = FileStat(path="", type="folder", size_bytes=0, mode=0, modified_at=began)
            await self._records.leave_out(wanted, "…", file=rest, reason="too_many_entries")
        await self._records.done(wanted, began)


async def _files(provider: SandboxProvider, sandbox_id: str) -> tuple[list[FileStat], bool]:
    """Return the regular files below the folder in order, and whether they are all; no link is followed."""
    files: list[FileStat] = []
    parent, _ = await _listed(provider, sandbox_id, FOLDER.rpartition("/")[0])
    folders, seen, whole = [each.path for each in parent if (each.path, each.type) == (FOLDER, "folder")], 0, True
    while folders:
        entries, all_there = await _listed(provider, sandbox_id, folders.pop())
        seen, whole = seen + len(entries), whole and all_there
        folders += _paths(entries, "folder")
        files += [each for each in entries if each.type == "file"]
        if seen > _MOST_ENTRIES:
            return sorted(files, key=lambda each: each.path)[:_MOST_ENTRIES], False
    return sorted(files, key=lambda each: each.path), whole


async def _listed(provider: SandboxProvider, sandbox_id: str, folder: str) -> tuple[list[FileStat], bool]:
    """Return what is in a folder, and whether that is all: one with too much in it is not listed."""
    try:
        return await provider.list_files(sandbox_id, folder), True
    except SandboxLostError:
        raise
    except SandboxError as error:
        return [], error.code == "file_not_found"


def _paths(entries: Iterable[FileStat], kind: str) -> list[str]:
    return [each.path for each in entries if each.type == kind]


def _name(path: str) -> str:
    """Return a path as it is kept and shown: below the folder."""
    return path.removeprefix(FOLDER + "/")


def _reason(file: FileStat, room: int) -> LeftOut | None:
    if file.size_bytes > MOST_BYTES:
        return "too_large"
    return "later" if room <= 0 else None


async def _content(provider: SandboxProvider, sandbox_id: str, path: str) -> bytes | LeftOut:
    """Return what a file has, or why it is left out: it may grow or go while it is read."""
    content = bytearray()
    try:
        async for piece in provider.read_file(sandbox_id, path):
            content += piece
            if len(content) > MOST_BYTES:
                return "too_large"
    except SandboxLostError:
        raise
    except SandboxError:
        return "unreadable"
    return bytes(content)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
