"""Only one of all workers does something to a session's sandbox: a lock that ends with its holder's connection."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import LiteralString
from weakref import WeakValueDictionary

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from controlplane.store import lasting
from controlplane.tasks import end
from sandbox.contract import SandboxError

_LOCK_CLASS = 7_102
"""The first half of the advisory locks' keys; the second is a hash of the session's id."""

_BEAT_SECONDS = 0.5
"""How often the connection is tried: so soon after its end nobody here goes on as though the lock were held."""

_ANSWER_SECONDS = 2.0
"""A connection on which there is no answer for so long is given up, well before Postgres gives up one that is silent
(`lasting.GONE_SECONDS`) and lets others have its locks."""

_SETTLE_SECONDS = _ANSWER_SECONDS + 2 * _BEAT_SECONDS
"""After a connection has ended, and after Postgres has been started, nothing is taken for so long: others may have
lost theirs in that moment too, and are to have noticed it."""

_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 0.5
"""Between two looks whether a lock of another worker is free; what that does takes from milliseconds to minutes."""

_log = structlog.get_logger(__name__)


class PostgresExclusion:
    """`sandbox.records.Exclusion` on Postgres: advisory locks of one connection, which a worker keeps while it lives.

    Such locks are the connection's, so that two tasks of this process would both have one: they exclude one another
    here before.
    """

    def __init__(self, url: str):
        self._url = url
        self._local: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._connecting = asyncio.Lock()
        self._connection: AsyncConnection[TupleRow] | None = None
        self._beating: asyncio.Task[None] | None = None
        self._holding: set[asyncio.Timeout] = set()
        self._had_one = False

    @asynccontextmanager
    async def hold(self, session_id: str) -> AsyncGenerator[None]:
        """See `Exclusion.hold`."""
        async with self._local.setdefault(session_id, asyncio.Lock()):
            scope = asyncio.timeout(None)
            try:
                async with scope:
                    connection = await self._taken(session_id, scope)
                    try:
                        yield
                    finally:
                        self._holding.discard(scope)
                        await asyncio.shield(asyncio.ensure_future(_give_back(connection, session_id)))
            except TimeoutError as error:
                if not scope.expired():
                    raise
                raise SandboxError(
                    "the connection to Postgres ended that kept others from the session's sandbox; try again",
                    code="engine_away",
                ) from error

    async def close(self) -> None:
        """End the connection, and with it every lock."""
        async with self._connecting:
            if self._connection is not None:
                await end(self._beating)
                await self._connection.close()
                self._connection = None

    async def _taken(self, session_id: str, scope: asyncio.Timeout) -> AsyncConnection[TupleRow]:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            connection = await self._connected()
            # Known before the lock is: should the connection end in between, that ends the scope.
            self._holding.add(scope)
            trying = asyncio.ensure_future(_try(connection, session_id))
            try:
                if await asyncio.shield(trying):
                    return connection
            except BaseException as error:
                self._holding.discard(scope)
                if isinstance(error, asyncio.CancelledError):
                    trying.add_done_callback(partial(_give_back_late, connection, session_id))
                raise
            self._holding.discard(scope)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _connected(self) -> AsyncConnection[TupleRow]:
        # Whoever waits for it may leave: the others get it all the same, and none is left half open.
        return self._connection or await asyncio.shield(asyncio.ensure_future(self._open()))

    async def _open(self) -> AsyncConnection[TupleRow]:
        async with self._connecting:
            if self._connection is None:
                connection = await lasting.connect(self._url)
                if self._had_one or await _is_fresh(connection):
                    await asyncio.sleep(_SETTLE_SECONDS)
                self._had_one = True
                self._connection = connection
                self._beating = asyncio.create_task(self._beat(connection), name="exclusion")
            return self._connection

    async def _beat(self, connection: AsyncConnection[TupleRow]) -> None:
        try:
            while True:
                await asyncio.sleep(_BEAT_SECONDS)
                await _ask(connection, "SELECT")
        except psycopg.Error as error:
            _log.warning("exclusion_connection_lost", holders=len(self._holding), cause=str(error).strip())
        self._connection = None
        now = asyncio.get_running_loop().time()
        for scope in self._holding:
            scope.reschedule(now)
        self._holding.clear()
        with suppress(psycopg.Error):
            await connection.close()


async def _ask(connection: AsyncConnection[TupleRow], query: LiteralString, *values: object) -> TupleRow:
    """Return the row that is the answer; raises `psycopg.OperationalError` if none comes, and ends the connection."""
    asking = asyncio.ensure_future(_row(connection, query, values))
    done, _ = await asyncio.wait([asking], timeout=_ANSWER_SECONDS)
    if not done:
        await connection.close()
        asking.cancel()
        raise psycopg.OperationalError(f"no answer in {_ANSWER_SECONDS:g} s")
    return asking.result()


async def _row(connection: AsyncConnection[TupleRow], query: LiteralString, values: Sequence[object]) -> TupleRow:
    return await (await connection.execute(query, values)).fetchone() or ()


async def _is_fresh(connection: AsyncConnection[TupleRow]) -> bool:
    query = "SELECT clock_timestamp() - pg_postmaster_start_time() < make_interval(secs => %s)"
    return (await _ask(connection, query, _SETTLE_SECONDS))[0]


async def _try(connection: AsyncConnection[TupleRow], session_id: str) -> bool:
    return (await _ask(connection, "SELECT pg_try_advisory_lock(%s, hashtext(%s))", _LOCK_CLASS, session_id))[0]


async def _give_back(connection: AsyncConnection[TupleRow], session_id: str) -> None:
    with suppress(psycopg.Error):  # with the connection the lock is gone
        await _ask(connection, "SELECT pg_advisory_unlock(%s, hashtext(%s))", _LOCK_CLASS, session_id)


_late: set[asyncio.Task[None]] = set()


def _give_back_late(connection: AsyncConnection[TupleRow], session_id: str, trying: asyncio.Task[bool]) -> None:
    """Give back what was taken for somebody who had left by then."""
    if not trying.cancelled() and trying.exception() is None and trying.result():
        task = asyncio.ensure_future(_give_back(connection, session_id))
        _late.add(task)
        task.add_done_callback(_late.discard)
