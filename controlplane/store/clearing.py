"""While all sandboxes of a host are ended, its workers begin none: a lock that ends with its holder's connection."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from controlplane.store import lasting
from controlplane.store.pool import Connection, one

_LOCK_CLASS = 7_104
"""The first half of the advisory locks' keys; the second is a hash of the host's name."""


@asynccontextmanager
async def clearing(url: str, host: str) -> AsyncGenerator[None]:
    """Have nobody begin a sandbox on the host meanwhile; waits for another that clears it."""
    connection = await lasting.connect(url)
    try:
        await connection.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", (_LOCK_CLASS, host))
        yield
    finally:
        await connection.close()


async def is_cleared(connection: Connection, host: str) -> bool:
    """Say whether no sandbox may begin on the host; where one may, that holds until the transaction ends."""
    row = await one(
        connection,
        "SELECT pg_try_advisory_xact_lock_shared(%(class)s, hashtext(%(host)s)) AS free",
        {"class": _LOCK_CLASS, "host": host},
    )
    return row is None or not row["free"]
