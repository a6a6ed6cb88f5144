"""`bulkhead migrate`: a database brought up to date, and its first API key."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from controlplane.embedded.postgres import EmbeddedPostgres
from controlplane.store.migrate import migrations
from controlplane.store.pool import ALL_WORKSPACES, Database, rows

pytestmark = pytest.mark.slow

KEY = "bhk_for-the-test-of-the-command-migrate"
OTHER_KEY = "bhk_for-the-test-of-another-first-key"


def migrate(url: str, folder: Path, *, key: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BULKHEAD_")}
    told = {"BULKHEAD_DATABASE_URL": url, "BULKHEAD_DATA_DIR": str(folder)} | (
        {"BULKHEAD_API_KEY": key} if key else {}
    )
    return subprocess.run(
        [sys.executable, "-m", "controlplane.cli", "migrate"],
        env=kept | told, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


async def key_names(url: str) -> list[str]:
    """Return the names of all API keys that hold."""
    database = Database(url, max_connections=1)
    await database.open()
    try:
        async with database.transaction(ALL_WORKSPACES) as connection:
            found = await rows(connection, "SELECT name FROM api_keys WHERE revoked_at IS NULL", {})
            return [row["name"] for row in found]
    finally:
        await database.close()


async def test_many_at_once_bring_a_database_up_to_date_once(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    await postgres.create_database("empty")
    try:
        url = postgres.url("empty")
        done = await asyncio.gather(
            *(asyncio.to_thread(migrate, url, tmp_path / str(number), key=KEY) for number in range(3))
        )
        assert [each.returncode for each in done] == [0, 0, 0], done
        applied = [name for each in done for name in each.stdout.splitlines()]
        assert sorted(applied) == [name for name, _ in migrations()]
        assert len(await key_names(url)) == 1
        again = await asyncio.to_thread(migrate, url, tmp_path, key=OTHER_KEY)
        assert (again.returncode, again.stdout) == (0, "")
        assert len(await key_names(url)) == 1, "the first key that was before holds no longer"
    finally:
        await postgres.drop_database("empty")


def test_without_a_database_it_says_what_to_set(tmp_path: Path) -> None:
    done = migrate("", tmp_path)
    assert done.returncode == 1
    assert "BULKHEAD_DATABASE_URL" in done.stderr


async def test_a_first_key_that_was_revoked_stands_in_no_migrations_way(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    await postgres.create_database("revoked")
    try:
        url = postgres.url("revoked")
        assert (await asyncio.to_thread(migrate, url, tmp_path, key=KEY)).returncode == 0
        with psycopg.connect(url) as connection:
            connection.execute("UPDATE api_keys SET revoked_at = now()")
        again = await asyncio.to_thread(migrate, url, tmp_path, key=KEY)
        assert again.returncode == 0, again.stderr
        assert "was revoked" in again.stderr
        assert await key_names(url) == []
    finally:
        await postgres.drop_database("revoked")


async def test_who_reads_a_table_goes_on_while_a_migration_waits_for_it(
    postgres: EmbeddedPostgres, migrated_template: str, tmp_path: Path
) -> None:
    await postgres.create_database("busy", template=migrated_template)
    try:
        url = postgres.url("busy")
        with psycopg.connect(url) as reader, psycopg.connect(url, autocommit=True) as other:
            reader.execute("DELETE FROM schema_migrations WHERE name = '0027_gates'")
            reader.execute("ALTER TABLE sandboxes DROP COLUMN gate_sha256 CASCADE")
            reader.commit()
            reader.execute("SELECT FROM sandboxes")
            waiting = asyncio.create_task(asyncio.to_thread(migrate, url, tmp_path))
            async with asyncio.timeout(60):
                while not other.execute("SELECT FROM pg_locks WHERE NOT granted").fetchall():  # noqa: ASYNC110 - no event
                    await asyncio.sleep(0.01)
            other.execute("SET statement_timeout = '15s'")
            other.execute("SELECT FROM sandboxes")
            reader.commit()
            done = await waiting
            assert (done.returncode, done.stdout) == (0, "0027_gates\n"), done.stderr
    finally:
        await postgres.drop_database("busy")
