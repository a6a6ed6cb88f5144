"""`bulkhead migrate`: a database brought up to date, and its first API key."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from controlplane.embedded.postgres import EmbeddedPostgres
from controlplane.store.migrate import migrations
from controlplane.store.pool import ALL_WORKSPACES, Database, rows

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
