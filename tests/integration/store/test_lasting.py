"""What Postgres makes of how a lasting connection is asked for."""

from controlplane.store import lasting
from controlplane.store.pool import Database


async def test_postgres_takes_what_is_asked_of_it(database: Database) -> None:
    asked = {"tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout"}
    async with await lasting.connect(database.url) as connection:
        cursor = await connection.execute("SELECT name FROM pg_settings WHERE source = 'session'")
        assert asked <= {row[0] for row in await cursor.fetchall()}
