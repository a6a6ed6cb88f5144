"""The connection pool; every transaction says whose rows it may see."""

import asyncio
import select
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, LiteralString

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

from controlplane.tasks import end

Connection = AsyncConnection[DictRow]

ALL_WORKSPACES = "*"
"""What the reaper, the reconciler and the key look-up pass to see the rows of every workspace."""

_STATEMENT_TIMEOUT_MS = "30000"


class Database:
    """A pool of connections as the role ``bulkhead_app``, for which row-level security is in force.

    ``wait_seconds``: how long a use waits for a connection before it fails with `psycopg.OperationalError`.
    """

    def __init__(self, url: str, *, max_connections: int = 10, wait_seconds: float = 30):
        self.url = url
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            url,
            connection_class=AsyncConnection[DictRow],
            kwargs={"row_factory": dict_row, "autocommit": True},
            min_size=1,
            max_size=max_connections,
            max_idle=60,
            timeout=wait_seconds,
            open=False,
            configure=_become_app,
            check=self._check_alive,
        )
        self._purge: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open the pool without waiting for a server; a use waits for it."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close every connection."""
        if self._purge is not None:
            await end(self._purge)
        await self._pool.close()

    @asynccontextmanager
    async def transaction(self, workspace_id: str, *, pipelined: bool = False) -> AsyncGenerator[Connection]:
        """Yield a connection inside a transaction that sees only the rows of ``workspace_id``.

        ``pipelined``: a statement is waited for only where its rows are read, or at the end; there it fails, too.
        """
        scope = sql.SQL("SELECT set_config('bulkhead.workspace_id', {}, true)").format(workspace_id)
        async with self._pool.connection() as connection:
            if pipelined:
                async with connection.pipeline():
                    await connection.execute("BEGIN")
                    await connection.execute(scope)
                    yield connection
                    await connection.execute("COMMIT")
            else:
                await connection.execute(sql.SQL("BEGIN; ") + scope)
                yield connection

    async def _check_alive(self, connection: Connection) -> None:
        if not _has_news(connection):
            return
        try:
            await connection.execute("SELECT 1")
        except psycopg.Error:
            # When one is broken, all are: the server went away. The pool alone would find them one by one, and wait
            # longer after each, so that clients are refused for as long again as the restart took.
            if self._purge is None or self._purge.done():
                self._purge = asyncio.create_task(self._pool.check())
            raise


def _has_news(connection: Connection) -> bool:
    """Say whether the server has sent something that nobody asked for: that it closes the connection, mostly."""
    poll = select.poll()
    poll.register(connection.pgconn.socket, select.POLLIN)
    return bool(poll.poll(0))


async def _become_app(connection: Connection) -> None:
    await connection.execute("SET ROLE bulkhead_app")
    await connection.execute("SELECT set_config('statement_timeout', %s, false)", (_STATEMENT_TIMEOUT_MS,))


async def one(connection: Connection, query: LiteralString, parameters: dict[str, Any]) -> DictRow | None:
    """Run a query and return its first row, if there is one."""
    return await (await connection.execute(query, parameters)).fetchone()


async def rows(connection: Connection, query: LiteralString, parameters: dict[str, Any]) -> list[DictRow]:
    """Run a query and return all its rows."""
    return await (await connection.execute(query, parameters)).fetchall()
