"""One connection that hears of every change of policy and records decisions.

It is one on purpose. Postgres hands a connection the notifications of everything that was committed before it answers
that connection's next statement. So when a decision has been recorded, each revocation that was complete before is
known here, and a policy that is still in hand has not been revoked.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import LiteralString

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from controlplane.errors import UnavailableError
from controlplane.store import lasting
from controlplane.store.pool import ALL_WORKSPACES

CHANNEL = "bulkhead_policy"
"""Notified on commit with ``kind id`` of an object that a policy is made from (triggers of 0002)."""

HEARTBEAT_SECONDS = 0.25
"""How often a line on which nothing happens is tried; a tenth of a second would burden an idle server."""

SILENCE_SECONDS = 0.75
"""A line that has not been heard for so long is taken for dead: within what a revocation may take to act."""

RECONNECT_SECONDS = 0.2
"""Without a line every look-up is a query; that must not last longer than a restart of Postgres does."""

ANSWER_SECONDS = 4.0
"""For one statement; the proxy gives up on a decision after five."""

MAX_BATCH = 200
"""Decisions recorded with one statement; it takes a few milliseconds then."""

MAX_WAITING = 10_000
"""Decisions that may wait to be recorded, about 10 MB; beyond it they fail at once."""

_log = structlog.get_logger(__name__)

Row = dict[str, str | int | bool | None]


@dataclass(frozen=True)
class _Waiting:
    row: Row
    done: asyncio.Future[None]


class Line:
    """Keeps the connection, again and again; what it hears goes to whoever asked with `on_change`."""

    def __init__(self, url: str):
        self._url = url
        self._changed: Callable[[str | None], None] = lambda _: None
        self._waiting: list[_Waiting] = []
        self._wake = asyncio.Event()
        self._heard_at = float("-inf")
        self._up = False

    def on_change(self, changed: Callable[[str | None], None]) -> None:
        """Have ``changed`` called for every change that is heard of; with None, anything may have changed."""
        self._changed = changed

    @property
    def is_up(self) -> bool:
        """Whether every change up to `SILENCE_SECONDS` ago has been heard of."""
        return self._up and asyncio.get_running_loop().time() - self._heard_at < SILENCE_SECONDS

    async def record(self, row: Row) -> None:
        """Return when the row is committed; raises `UnavailableError` if it is not, or may not be."""
        if not self._up or len(self._waiting) >= MAX_WAITING:
            raise _unrecorded()
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(row, done))
        self._wake.set()
        await done

    async def run(self) -> None:
        """Keep the line up until cancelled."""
        while True:
            try:
                await self._run_once()
            except (psycopg.Error, TimeoutError) as error:
                _log.warning("policy_line_lost", cause=str(error).strip())
            finally:
                self._down()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _run_once(self) -> None:
        connection = await lasting.connect(self._url)
        async with connection:
            connection.add_notify_handler(lambda notification: self._changed(notification.payload))
            await connection.execute("SET ROLE bulkhead_app")
            await connection.execute("SELECT set_config('bulkhead.workspace_id', %s, false)", (ALL_WORKSPACES,))
            await self._exchange(connection, f"LISTEN {CHANNEL}")
            self._changed(None)
            self._up = True
            while True:
                if batch := self._take():
                    await self._record(connection, batch)
                elif not await self._idle(connection):
                    await self._exchange(connection, "SELECT 1")

    def _take(self) -> list[_Waiting]:
        batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        return batch

    async def _record(self, connection: AsyncConnection, batch: list[_Waiting]) -> None:
        try:
            await self._exchange(connection, "SELECT record_egress(%s)", Jsonb([each.row for each in batch]))
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            _log.warning("decisions_refused", count=len(batch), cause=type(error).__name__)
            await self._record_singly(connection, batch)
        except BaseException:
            _fail(batch)
            raise
        for each in batch:
            if not each.done.done():
                each.done.set_result(None)

    async def _record_singly(self, connection: AsyncConnection, batch: list[_Waiting]) -> None:
        """One row that cannot be stored must not keep others from being stored, nor be taken for stored."""
        if len(batch) == 1:
            return _fail(batch)
        for index, each in enumerate(batch):
            try:
                await self._record(connection, [each])
            except BaseException:
                _fail(batch[index:])
                raise
        return None

    async def _exchange(self, connection: AsyncConnection, query: LiteralString, *parameters: Jsonb) -> None:
        sent_at = asyncio.get_running_loop().time()
        async with asyncio.timeout(ANSWER_SECONDS):
            await connection.execute(query, parameters or None, prepare=True)
        self._hear(connection)
        self._heard_at = sent_at

    async def _idle(self, connection: AsyncConnection) -> bool:
        """Wait for something to record or to hear; return False when the line has been quiet for too long."""
        loop = asyncio.get_running_loop()
        self._wake.clear()
        loop.add_reader(connection.fileno(), self._wake.set)
        due = self._heard_at + HEARTBEAT_SECONDS
        beat = loop.call_at(due, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            beat.cancel()
            loop.remove_reader(connection.fileno())
        connection.pgconn.consume_input()
        self._hear(connection)
        return loop.time() < due

    def _hear(self, connection: AsyncConnection) -> None:
        while notification := connection.pgconn.notifies():
            self._changed(notification.extra.decode())

    def _down(self) -> None:
        self._up = False
        self._changed(None)
        left, self._waiting = self._waiting, []
        _fail(left)


def _fail(batch: list[_Waiting]) -> None:
    for each in batch:
        if not each.done.done():
            each.done.set_exception(_unrecorded())


def _unrecorded() -> UnavailableError:
    return UnavailableError(
        "the decision cannot be recorded, so nothing is let through",
        code="audit_unavailable",
        next_step="wait until Postgres answers",
    )
