"""Keeps child processes running: starts them, restarts what dies, shows what they log, ends them in order."""

import asyncio
import json
import os
import time
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from controlplane.embedded.process import tail, write_whole
from controlplane.errors import BulkheadError

_FIRST_BACKOFF_SECONDS = 0.5  # the restart before it comes at once: most deaths are single
_LONGEST_BACKOFF_SECONDS = 30.0
_LAST_OUTPUT_SECONDS = 0.5  # a process of the part's may live on with the pipe open: it is not waited for
_SOUND_AFTER_SECONDS = 10.0  # a part that ran this long is forgiven its earlier deaths

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Part:
    """A child process: how it is started, given the descriptor for its output, and how it is ended.

    ``log`` is the file that it writes to instead, if it does.
    """

    name: str
    start: Callable[[int], Awaitable[Process]]
    stop: Callable[[Process], Awaitable[None]]
    log: Path | None = None


@dataclass
class _Running:
    part: Part
    process: Process
    output: asyncio.Task[None]
    restarts: int = 0
    deaths_in_a_row: int = 0
    started_at: float = field(default_factory=time.monotonic)


class Supervisor:
    """Holds the parts; ``show`` gets every line that a part writes to its pipe, with the part's name."""

    def __init__(self, record: Path, show: Callable[[str, str], None]):
        self._record = record
        self._show = show
        self._running: dict[str, _Running] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()

    async def start(self, part: Part) -> Process:
        """Start a part, and again whenever it ends, until `stop`."""
        running = _Running(part, *await self._launch(part))
        self._running[part.name] = running
        self._write_record()
        self._keepers[part.name] = asyncio.create_task(self._keep(running), name=f"keep {part.name}")
        return running.process

    async def stop(self) -> None:
        """End the parts one by one, in the reverse of the order in which they were started."""
        self._stopping.set()
        for name, running in reversed(self._running.items()):
            await running.part.stop(running.process)
            await self._keepers[name]
        self._record.unlink(missing_ok=True)

    def kill(self) -> None:
        """End every part at once, after `stop` has begun."""
        for running in self._running.values():
            if running.process.returncode is None:
                running.process.kill()

    async def _keep(self, running: _Running) -> None:
        while True:
            status = await self._until_it_ends(running)
            if self._stopping.is_set():
                return
            said = {"said": tail(running.part.log)} if running.part.log else {}
            _log.error("part_died", died=running.part.name, status=status, restarts=running.restarts, **said)
            if await self._stopped_within(_backoff(running)):
                return
            await self._start_again(running)
            if self._stopping.is_set():
                await running.part.stop(running.process)

    async def _until_it_ends(self, running: _Running) -> int:
        status = await running.process.wait()
        await asyncio.wait([running.output], timeout=_LAST_OUTPUT_SECONDS)
        running.output.cancel()
        return status

    async def _launch(self, part: Part) -> tuple[Process, asyncio.Task[None]]:
        # A pipe of our own: asyncio's counts a process as running for as long as anybody holds the other end.
        ours, theirs = os.pipe()
        try:
            process = await part.start(theirs)
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        return process, asyncio.create_task(self._show_output(part.name, ours))

    async def _start_again(self, running: _Running) -> None:
        running.started_at = time.monotonic()
        try:
            running.process, running.output = await self._launch(running.part)
        except (BulkheadError, OSError) as error:
            _log.error("part_not_started", failed=running.part.name, error=str(error))
            return
        running.restarts += 1
        self._write_record()

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _show_output(self, name: str, descriptor: int) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
        )
        try:
            while line := await _next_line(reader):
                self._show(name, line.decode(errors="replace").rstrip())
        finally:
            transport.close()

    def _write_record(self) -> None:
        parts = {
            name: {"pid": running.process.pid, "restarts": running.restarts}
            for name, running in self._running.items()
        }
        write_whole(self._record, json.dumps(parts))


def _backoff(running: _Running) -> float:
    if time.monotonic() - running.started_at >= _SOUND_AFTER_SECONDS:
        running.deaths_in_a_row = 0
    running.deaths_in_a_row += 1
    if running.deaths_in_a_row == 1:
        return 0
    return min(_FIRST_BACKOFF_SECONDS * 2 ** (running.deaths_in_a_row - 2), _LONGEST_BACKOFF_SECONDS)


async def _next_line(stream: asyncio.StreamReader) -> bytes:
    try:
        return await stream.readline()
    except ValueError:  # longer than the reader's limit: asyncio dropped it
        return b"(a line too long to show)\n"
