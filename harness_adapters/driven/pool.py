"""The processes of one harness, and the sessions that are open in them: started on demand, ended when idle."""

import asyncio
import hashlib
import itertools
import secrets
import time
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import structlog

from harness_adapters.contract import Answer, HarnessSpec, HistoryItem, ToolOutcome, UserInput
from harness_adapters.driven.line import Line, text_of
from harness_adapters.driven.native import HarnessFailedError, Kind, Native, NativeProcess, NoTurnError, Told
from harness_adapters.driven.relay import Relay
from harness_adapters.guest import serving

IDLE_SECONDS = 300.0
"""A session that was not spoken to for so long is opened from the log again when it is; so is a process."""

SWEEP_SECONDS = 15.0
START_SECONDS = 60.0
SETTLE_SECONDS = 10.0
"""How long a harness may take to come to rest after its answer has come, or after it was told to stop."""

_log = structlog.get_logger(__name__)


@dataclass(eq=False)
class Running:
    """A process with its relay; ``sessions``: as many as are open or about to be."""

    relay: Relay
    dedicated: bool
    sessions: int = 0
    used_at: float = 0.0
    process: NativeProcess | None = None
    started: asyncio.Task[NativeProcess] | None = None
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)


@dataclass(eq=False)
class Session:
    """A native session that a turn has, or that waits for the next one; ``holds``: what the harness knows by then."""

    native: Native
    running: Running
    line: Line
    configuration: bytes
    holds: tuple[str, ...]
    is_leased: bool = True
    used_at: float = 0.0
    settling: asyncio.Task[None] | None = None

    @property
    def process(self) -> NativeProcess:
        """The process that it is open in; raises `HarnessFailedError`."""
        process = self.running.process
        if process is None or process.died.done():
            raise HarnessFailedError(process.died.result() if process else "the process did not start")
        return process


class Pool:
    """Gives turns their native sessions; a turn that finds no room waits until another has ended."""

    def __init__(self, kind: Kind, *, idle_seconds: float = IDLE_SECONDS):
        self._kind = kind
        self._idle_seconds = idle_seconds
        self._all: set[Running] = set()
        self._sessions: dict[str, Session] = {}
        self._keys: dict[str, Session] = {}
        self._changed = asyncio.Condition()
        self._background: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None

    async def lease(self, spec: HarnessSpec, history: Sequence[HistoryItem]) -> Session:
        """Return the session, opened so that the harness knows ``history``; raises `HarnessFailedError`."""
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())
        configuration, known = configuration_of(spec), ids(history)
        held = self._sessions.pop(spec.session_id, None)
        if held is not None:
            if held.settling is not None:
                await asyncio.wait({held.settling})
            # It may have been dropped meanwhile: it did not come to rest, or its process is gone.
            is_open = held.native.key in self._keys
            if is_open and held.holds == known and held.configuration == configuration:
                held.native = Native(held.native.key, spec)
                held.is_leased = True
                self._sessions[spec.session_id] = held
                return held
            self.drop(held)
        running = await self._room(spec)
        native = Native(secrets.token_urlsafe(24), spec)
        session = Session(native, running, Line(self._kind), configuration, known)
        running.relay.lines[native.key] = session.line
        self._sessions[spec.session_id] = self._keys[native.key] = session
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._open(running, native, history)
        except TimeoutError as error:
            self.drop(session)
            raise HarnessFailedError(f"it did not open the session within {START_SECONDS:g} seconds") from error
        except BaseException:
            self.drop(session)
            raise
        return session

    def keep(self, session: Session, history: Sequence[HistoryItem]) -> None:
        """Take a session back whose turn has ended as the harness sees it too; it is kept for the next turn."""
        session.holds, session.used_at, session.is_leased = ids(history), time.monotonic(), False
        session.settling = self._run(self._settle(session))

    def drop(self, session: Session) -> None:
        """Take a session back that nothing more is to be done with; what it still does has no effect."""
        if self._keys.pop(session.native.key, None) is None:
            return
        if self._sessions.get(session.native.spec.session_id) is session:
            del self._sessions[session.native.spec.session_id]
        session.line.close()
        session.running.relay.lines.pop(session.native.key, None)
        self._run(self._close(session))

    async def close(self) -> None:
        """End every process."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for running in list(self._all):
            self._retire(running, "Bulkhead stops")
        if self._background:
            await asyncio.wait(self._background, timeout=SETTLE_SECONDS)
        self._kind.close()

    def kill(self, session: Session) -> None:
        """End the process of a session that has fallen silent."""
        self._retire(session.running, "it fell silent")

    async def _settle(self, session: Session) -> None:
        """Wait until the harness has come to rest; a session that does not is dropped."""
        await asyncio.wait({session.line.ended}, timeout=SETTLE_SECONDS)
        is_settled = session.line.ended.done() and session.line.ended.result() is None
        session.line.close()
        if not is_settled and not session.is_leased:
            self.drop(session)
        await self._tell()

    async def _close(self, session: Session) -> None:
        process = session.running.process
        try:
            if process is not None and not process.died.done():
                async with asyncio.timeout(SETTLE_SECONDS):
                    if not session.line.ended.done():
                        await process.cancel(session.native)
                    await process.forget(session.native)
        except (HarnessFailedError, TimeoutError) as error:
            _log.info("harness_session_not_closed", harness=self._kind.name, cause=str(error))
            self._retire(session.running, str(error))
        finally:
            session.running.sessions -= 1
            session.running.used_at = time.monotonic()
            if session.running.dedicated or self._kind.sessions_per_process == 1:
                self._retire(session.running, "its session is closed")
            await self._tell()

    async def _room(self, spec: HarnessSpec) -> Running:
        dedicated = spec.mode == "isolated"
        async with self._changed:
            while True:
                for running in self._all:
                    room = running.sessions < self._kind.sessions_per_process
                    if not dedicated and not running.dedicated and room:
                        running.sessions += 1
                        return running
                if len(self._all) < self._kind.processes:
                    running = Running(Relay(self._kind.tool_name), dedicated, sessions=1)
                    self._all.add(running)
                    return running
                if empty := [running for running in self._all if not running.sessions]:
                    self._retire(min(empty, key=lambda each: each.used_at), "its room is needed")
                    continue
                if idle := self._evictable(dedicated=dedicated):
                    self.drop(min(idle, key=lambda each: each.used_at))
                await self._changed.wait()

    def _evictable(self, *, dedicated: bool) -> list[Session]:
        """Return the idle sessions without which there is room, at once or when all of their process are gone."""
        working = {each.running for each in self._keys.values() if each.is_leased}
        idle = [each for each in self._sessions.values() if not each.is_leased]
        shares = not dedicated
        return [each for each in idle if each.running not in working or (shares and not each.running.dedicated)]

    async def _open(self, running: Running, native: Native, history: Sequence[HistoryItem]) -> None:
        if running.started is None:
            running.started = asyncio.create_task(self._start(running, native, history))
        try:
            process = await asyncio.shield(running.started)
        except Exception as error:
            self._retire(running, repr(error))
            raise
        await process.open(native, history)

    async def _start(self, running: Running, native: Native, history: Sequence[HistoryItem]) -> NativeProcess:
        process_id = f"{self._kind.name}-{secrets.token_hex(6)}"
        began = time.monotonic()
        try:
            process = await self._kind.start(process_id, self, native, history)
        except OSError as error:
            raise HarnessFailedError(str(error)) from error
        running.stack.push_async_callback(process.close)
        try:
            await running.stack.enter_async_context(serving(running.relay, process.confined.ear, cut=True))
            await process.ready()
        except BaseException:
            await running.stack.aclose()
            raise
        running.process = process
        process.died.add_done_callback(lambda died: self._retire(running, died.result()))
        _log.info("harness_started", harness=self._kind.name, seconds=round(time.monotonic() - began, 2))
        return process

    def ended(self, key: str, failure: str | None = None) -> None:
        """See `Host.ended`."""
        if (session := self._keys.get(key)) is not None:
            session.line.end(failure)

    async def call(self, key: str, call_id: str | None, name: str, value: dict[str, Any]) -> Told:
        """See `Host.call`."""
        if (session := self._keys.get(key)) is None:
            return Told("Not run: the session is closed.", is_error=True)
        try:
            outcome = await session.line.call(call_id, self._kind.tool_name(name), value)
        except NoTurnError as error:
            return Told(f"Not run: {error}.", is_error=True)
        return Told(text_of(outcome), is_error=outcome.is_error)

    def _retire(self, running: Running, why: str) -> None:
        """Open nothing more in a process, tell its turns, and end it."""
        if running not in self._all:
            return
        self._all.discard(running)
        for session in [each for each in self._keys.values() if each.running is running]:
            session.line.end(f"the harness's process is gone: {why}")
            if not session.is_leased:
                self.drop(session)
        self._run(self._end(running))

    async def _end(self, running: Running) -> None:
        if running.started is not None:
            await asyncio.wait({running.started})
        await running.stack.aclose()
        await self._tell()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(SWEEP_SECONDS, self._idle_seconds))
            limit = time.monotonic() - self._idle_seconds
            for session in [each for each in self._sessions.values() if not each.is_leased and each.used_at < limit]:
                self.drop(session)
            for running in [each for each in self._all if not each.sessions and each.used_at < limit]:
                self._retire(running, "it was not used")

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task


def ids(history: Sequence[HistoryItem]) -> tuple[str, ...]:
    """Return what tells a history from every other one; outcomes count in no order, they are logged as they come."""
    found: list[str] = []
    for is_outcome, items in itertools.groupby(history, lambda item: isinstance(item, ToolOutcome)):
        each = [_id(item) for item in items]
        found += sorted(each) if is_outcome else each
    return tuple(found)


def _id(item: HistoryItem) -> str:
    match item:
        case UserInput():
            return item.event_id
        case Answer():
            return item.request_id
        case ToolOutcome():
            return item.tool_use_id


def configuration_of(spec: HarnessSpec) -> bytes:
    """Return a digest of what a native session is opened with; one that changes is opened anew."""
    parts = spec.model_dump_json(include={"model", "max_tokens", "effort", "system", "tools", "mode"})
    return hashlib.sha256(parts.encode()).digest()
