"""Worker leases: a lock that lives exactly as long as the connection of the process that holds it."""

import asyncio
import os
from collections.abc import Sequence
from typing import Literal, LiteralString

import psycopg
import structlog

from controlplane.store import lasting
from controlplane.store.pool import ALL_WORKSPACES, Connection, Database, rows
from workflows.records import DeadWork

_log = structlog.get_logger(__name__)

_LOCK_CLASS = 7_100
"""The first half of the advisory locks' keys; the second is the worker's ``lock_key``."""

_WORKERS: LiteralString = """
    SELECT w.id, w.kind, EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.classid = %(class)s
                                                  AND l.objid = w.lock_key AND l.objsubid = 2 AND l.granted) AS lives
      FROM workers w"""

_CHECK_SECONDS = 5.0
_RECONNECT_SECONDS = 0.2  # far less than the looks of a sweep, so that a reconnection is not taken for a death


class PostgresLeases:
    """`workflows.records.Leases` on Postgres."""

    def __init__(self, database: Database):
        self._database = database

    async def hold(self, worker_id: str, kind: Literal["brain", "sandbox", "egress", "memory"], *, host: str) -> None:
        """See `Leases.hold`."""
        while True:
            try:
                await self._hold_once(worker_id, kind, host)
            except psycopg.OperationalError as error:
                _log.warning("lease_connection_lost", worker_id=worker_id, cause=str(error).strip())
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _hold_once(self, worker_id: str, kind: str, host: str) -> None:
        connection = await lasting.connect(self._database.url)
        async with connection:
            cursor = await connection.execute(
                "INSERT INTO workers (id, kind, host, pid) VALUES (%s, %s, %s, %s)"
                " ON CONFLICT (id) DO UPDATE SET pid = excluded.pid RETURNING lock_key",
                (worker_id, kind, host, os.getpid()),
            )
            row = await cursor.fetchone()
            await connection.execute("SELECT pg_advisory_lock(%s, %s::int)", (_LOCK_CLASS, row[0] if row else None))
            _log.info("lease_held", worker_id=worker_id)
            while True:
                # Nothing notifies it; waiting for notifications is what ends at once when the server goes away.
                async for _ in connection.notifies(timeout=_CHECK_SECONDS):
                    pass
                await connection.execute("SELECT 1")

    async def dead(self) -> Sequence[str]:
        """See `Leases.dead`."""
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            found = await rows(connection, _WORKERS, {"class": _LOCK_CLASS})
        return [row["id"] for row in found if not row["lives"]]

    async def work_of(self, worker_id: str) -> Sequence[DeadWork]:
        """See `Leases.work_of`."""
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            found = await rows(
                connection,
                "SELECT worker_id, task_token FROM turns WHERE status = 'running' AND worker_id = %(worker)s"
                " UNION ALL SELECT worker_id, task_token FROM tool_calls WHERE state = 'dispatched'"
                " AND worker_id = %(worker)s",
                {"worker": worker_id},
            )
        return [DeadWork.model_validate(row) for row in found if row["task_token"] is not None]

    async def forget(self, worker_id: str) -> None:
        """See `Leases.forget`."""
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            await connection.execute("DELETE FROM workers WHERE id = %s", (worker_id,))


async def living(connection: Connection) -> dict[str, str]:
    """Return the workers that hold their lease, each with its kind."""
    found = await rows(connection, _WORKERS, {"class": _LOCK_CLASS})
    return {row["id"]: row["kind"] for row in found if row["lives"]}
