"""What the front door is about to say, held back in its database."""

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, LiteralString

import psycopg

from controlplane.embedded.postgres import EmbeddedPostgres
from tests.support.slack import Workspace


@contextlib.asynccontextmanager
async def in_its_database(slack: Workspace) -> AsyncGenerator[psycopg.AsyncConnection[tuple[Any, ...]]]:
    """Connect to the database of the front door, in no transaction."""
    url = EmbeddedPostgres(slack.client.stack.data_dir / "postgres").url()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        yield connection


@contextlib.asynccontextmanager
async def held_back(slack: Workspace) -> AsyncGenerator[Callable[[], Awaitable[int]]]:
    """Let the front door put no message of its own on record.

    Yields what waits until that keeps it waiting, and returns the process id of the connection on which it does.
    """
    async with in_its_database(slack) as watching, in_its_database(slack) as holder:

        async def found(query: LiteralString) -> tuple[Any, ...] | None:
            return await (await watching.execute(query)).fetchone()

        async def quiet() -> bool:
            return await found("SELECT FROM front_door_posts WHERE state IN ('intended', 'sending')") is None

        async def waits() -> tuple[Any, ...] | None:
            return await found(
                "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted"
                " AND relation = 'front_door_posts'::regclass AND query NOT LIKE '%SET state%'"
            )

        async def waiting() -> int:
            return (await slack.until(waits, "something that is to be said"))[0]

        await slack.until(quiet, "that all stands that is to be said")
        async with holder.transaction():
            await holder.execute("LOCK TABLE front_door_posts IN EXCLUSIVE MODE")
            yield waiting
