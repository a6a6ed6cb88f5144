"""Sandboxes that wait for a session; their rows belong to the installation, not to a workspace."""

from collections.abc import Sequence
from datetime import timedelta

from controlplane.ids import new_id
from controlplane.store.clearing import is_cleared
from controlplane.store.pool import ALL_WORKSPACES, Connection, Database, one
from sandbox.records import Kind

_LOCK_CLASS = 7_101
"""The first half of the advisory locks under which the workers of one host refill one kind; the second is a hash."""


class PostgresWarm:
    """`sandbox.records.WarmRecords` on Postgres."""

    def __init__(self, database: Database):
        self._database = database

    async def reserve(self, host: str, kind: Kind, *, at_most: int) -> str | None:
        """See `WarmRecords.reserve`."""
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            if await is_cleared(connection, host):
                return None
            await connection.execute(
                "SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_LOCK_CLASS, f"{host} {kind.key}")
            )
            row = await one(
                connection,
                "INSERT INTO warm_sandboxes (id, host, provider, kind)"
                " SELECT %(id)s, %(host)s, %(provider)s, %(kind)s"
                " WHERE (SELECT count(*) FROM warm_sandboxes WHERE host = %(host)s AND kind = %(kind)s) < %(at_most)s"
                " RETURNING id",
                {
                    "id": new_id("sbx"),
                    "host": host,
                    "provider": kind.provider,
                    "kind": kind.key,
                    "at_most": at_most,
                },
            )
            return row["id"] if row else None

    async def ready(self, sandbox_id: str) -> None:
        """See `WarmRecords.ready`."""
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            await connection.execute("UPDATE warm_sandboxes SET ready = true WHERE id = %s", (sandbox_id,))

    async def drop(self, sandbox_id: str) -> None:
        """See `WarmRecords.drop`."""
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            await connection.execute("DELETE FROM warm_sandboxes WHERE id = %s", (sandbox_id,))

    async def drop_stale(
        self, host: str, *, wanted: Sequence[str], unwanted_for: timedelta, unready_for: timedelta
    ) -> None:
        """See `WarmRecords.drop_stale`."""
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            await connection.execute(
                "DELETE FROM warm_sandboxes WHERE host = %(host)s AND ("
                " (NOT ready AND created_at < clock_timestamp() - %(unready_for)s::interval)"
                " OR (kind <> ALL(%(wanted)s) AND created_at < clock_timestamp() - %(unwanted_for)s::interval))",
                {"host": host, "wanted": list(wanted), "unwanted_for": unwanted_for, "unready_for": unready_for},
            )


async def claim(connection: Connection, *, host: str, kind: Kind) -> str | None:
    """Take one that is up out of the pool for good, within the transaction that gives it to a session."""
    row = await one(
        connection,
        "DELETE FROM warm_sandboxes WHERE id = (SELECT id FROM warm_sandboxes WHERE host = %(host)s"
        " AND kind = %(kind)s AND ready ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id",
        {"host": host, "kind": kind.key},
    )
    return row["id"] if row else None
