"""Forward-only migrations, run in order under an advisory lock; running them again changes nothing."""

from importlib import resources

import psycopg

from controlplane.store.lasting import HEED, TIMES, lasting

_LOCK_KEY = 7_100_417  # an arbitrary number that no other part of Bulkhead locks


def migrations() -> list[tuple[str, str]]:
    """Return (name, SQL) of every migration in the order they are applied."""
    folder = resources.files("controlplane.store") / "migrations"
    found = [entry for entry in folder.iterdir() if entry.name.endswith(".sql")]
    return [(entry.name.removesuffix(".sql"), entry.read_text()) for entry in sorted(found, key=lambda e: e.name)]


async def missing(url: str) -> list[str]:
    """Return the migrations that the database at ``url`` lacks; raises `psycopg.OperationalError` if it is away."""
    async with await psycopg.AsyncConnection.connect(lasting(url), autocommit=True, connect_timeout=5) as connection:
        try:
            found = await connection.execute("SELECT name FROM schema_migrations")
            present = {row[0] for row in await found.fetchall()}
        except psycopg.errors.UndefinedTable:
            present = set[str]()
    return [name for name, _ in migrations() if name not in present]


def migrate(url: str) -> list[str]:
    """Apply what is missing to the database at ``url`` and return the names of what was applied.

    Each migration and its record are one transaction: a kill leaves it applied and recorded, or neither.
    """
    applied: list[str] = []
    with psycopg.connect(lasting(url), autocommit=True) as connection:
        connection.execute(HEED, TIMES)
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK_KEY,))
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations "
            "(name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        present = {row[0] for row in connection.execute("SELECT name FROM schema_migrations")}
        # What waits for a table's lock holds up all who come after it: it gives up instead, and is tried again.
        connection.execute("SET lock_timeout = '2s'")
        for name, sql in migrations():
            if name in present:
                continue
            with connection.transaction():
                connection.execute(sql.encode())
                connection.execute("INSERT INTO schema_migrations (name) VALUES (%s)", (name,))
            applied.append(name)
    return applied
