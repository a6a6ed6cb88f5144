"""Who works on which thread: one process at a time holds a thread's lock, and holds it as long as it lives."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

import psycopg
import structlog

from controlplane.frontdoors.contract import Inbound
from controlplane.frontdoors.conversation import Conversation
from controlplane.frontdoors.parts import Parts
from controlplane.frontdoors.policy import Rules
from controlplane.store import events, front_door_inbox, front_door_threads, frontdoors, lasting
from controlplane.store.front_door_inbox import Received
from controlplane.store.front_door_threads import Among, DoorThread
from controlplane.store.listening import listen
from controlplane.store.pool import Database
from controlplane.tasks import end

_LOOK_SECONDS = 5.0  # for what was heard of by nobody; it takes a look at every thread that there is
_FORGET_SECONDS = 300.0
_TROUBLED_SECONDS = 1.0
_LONGEST_TROUBLED_SECONDS = 60.0
_RECONNECT_SECONDS = 0.5
_WATCH_SECONDS = 0.5
_ANSWER_SECONDS = 10.0  # less than `lasting.GONE_SECONDS`, after which the server may have given the locks to others

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Running:
    thread: DoorThread
    conversation: Conversation
    task: asyncio.Task[None]


class Desk:
    """Takes in what people do, and runs the conversations of the threads that it has the lock of.

    ``entrance``: connections that no conversation uses, so that whoever comes in does not wait for those who talk.
    """

    def __init__(self, parts: Parts, entrance: Database):
        self._parts = parts
        self._entrance = entrance
        self._running: dict[str, _Running] = {}
        self._resting: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._look = asyncio.Event()
        self._told = Among()
        self._is_all = True
        self._all_at = 0.0

    async def take_in(self, inbound: Inbound) -> Received:
        """Put on record what came in; once this returns it is not lost."""
        rules: Rules | None = None
        async with self._entrance.transaction(self._parts.door.workspace_id) as connection:
            received = await front_door_inbox.receive(connection, self._parts.door, inbound)
            if received == "new":
                rules = (await frontdoors.get(connection, self._parts.door.id)).rules
        if rules is not None:
            self._parts.receipts.note(inbound, rules)
        return received

    async def refuse(self, reason: str, *, place: str = "", person: str = "", count: int = 1) -> None:
        """Put on record that something was refused, ``count`` times."""
        async with self._entrance.transaction(self._parts.door.workspace_id) as connection:
            await frontdoors.refuse(
                connection, self._parts.door, reason=reason, place=place, person=person, count=count
            )

    async def run(self) -> None:
        """Work until cancelled; what fails is tried again, with what the ledger has."""
        channels = [front_door_threads.CHANNEL, events.CHANNEL]
        hearing = asyncio.create_task(listen(self._parts.database.url, channels, self._hear, connected=self._wake))
        forgetting = asyncio.create_task(self._forget())
        try:
            while True:
                try:
                    await self._hold()
                except* (psycopg.Error, TimeoutError) as group:
                    _log.warning("desk_connection_lost", errors=[type(each).__name__ for each in group.exceptions])
                await asyncio.sleep(_RECONNECT_SECONDS)
        finally:
            await end(hearing, forgetting)
            await self._parts.receipts.close()

    def _hear(self, channel: str, payload: str) -> None:
        """Look at what was named alone: what happens in other sessions is most of what is heard."""
        if not payload:
            self._wake()
            return
        if channel == events.CHANNEL:
            session_id = payload.partition(" ")[0]
            self._told.sessions.add(session_id)
            named = [each for each in self._running.values() if each.conversation.session_id == session_id]
        else:
            self._told.threads.add(payload)
            named = [self._running[payload]] if payload in self._running else []
        self._look.set()
        for running in named:
            running.conversation.wake()

    def _wake(self) -> None:
        self._is_all = True
        self._look.set()
        for running in self._running.values():
            running.conversation.wake()

    async def _hold(self) -> None:
        """Work for as long as the connection lasts that holds the locks; without it others may have the threads."""
        async with await lasting.connect(self._parts.database.url) as connection:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._watch(connection))
                    group.create_task(self._work(connection))
            finally:
                await end(*(running.task for running in self._running.values()))
                self._running.clear()

    async def _watch(self, connection: psycopg.AsyncConnection) -> None:
        """Fail as soon as the locks are gone, whatever else waits, and have nobody go on who had one."""
        try:
            while True:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await connection.execute("SELECT 1")
                await asyncio.sleep(_WATCH_SECONDS)
        finally:
            for running in self._running.values():
                running.task.cancel()

    async def _work(self, connection: psycopg.AsyncConnection) -> None:
        self._is_all = True
        while True:
            self._look.clear()
            await self._end_finished(connection)
            told = None if self._is_all else self._told
            self._told, self._is_all = Among(), False
            async with self._parts.transaction() as reading:
                found = await front_door_threads.with_work(reading, self._parts.door.id, told)
            if found:
                await self._parts.receipts.before_answers()
            for thread in found:
                await self._begin(connection, thread)
            await self._something()

    async def _something(self) -> None:
        """Wait until there is something to look at, or for everything once in a while."""
        now = asyncio.get_running_loop().time()
        if now >= self._all_at:
            self._all_at, self._is_all = now + _LOOK_SECONDS, True
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._all_at - now):
                await self._look.wait()

    async def _begin(self, connection: psycopg.AsyncConnection, thread: DoorThread) -> None:
        now = asyncio.get_running_loop().time()
        if thread.id in self._running or self._resting.get(thread.id, 0.0) > now:
            return
        if not await front_door_threads.take(connection, thread):
            return
        conversation = Conversation(self._parts, thread)
        task = asyncio.create_task(conversation.run())
        task.add_done_callback(lambda _: self._hear(front_door_threads.CHANNEL, thread.id))
        self._running[thread.id] = _Running(thread, conversation, task)

    async def _end_finished(self, connection: psycopg.AsyncConnection) -> None:
        for thread_id, running in list(self._running.items()):
            if not running.task.done():
                continue
            del self._running[thread_id]
            await front_door_threads.give_back(connection, running.thread)
            error = running.task.exception()
            if error is None:
                self._failures.pop(thread_id, None)
                self._resting.pop(thread_id, None)
                continue
            times = self._failures[thread_id] = self._failures.get(thread_id, 0) + 1
            pause = min(_TROUBLED_SECONDS * 2 ** (times - 1), _LONGEST_TROUBLED_SECONDS)
            self._resting[thread_id] = asyncio.get_running_loop().time() + pause
            _log.warning("conversation_failed", thread_id=thread_id, times=times, exc_info=error)

    async def _forget(self) -> None:
        while True:
            with suppress(psycopg.Error):
                async with self._parts.transaction() as connection:
                    await front_door_inbox.forget(connection, self._parts.door.id)
            await asyncio.sleep(_FORGET_SECONDS)
