"""The first API key of the default workspace: kept in ``DATA/api-key``, or given by BULKHEAD_API_KEY."""

from pathlib import Path

from controlplane.embedded.process import write_whole
from controlplane.errors import ConflictError
from controlplane.store import keys
from controlplane.store.pool import Database

WORKSPACE = "wrkspc_default"
NAME = "first key (file api-key or BULKHEAD_API_KEY)"


def read_key(path: Path) -> str | None:
    """Return the key that the file holds, if it holds one."""
    try:
        return path.read_text().strip() or None
    except FileNotFoundError:
        return None


async def provision(database: Database, path: Path, configured: str | None) -> None:
    """Make ``configured``, else the file's key, else a new one the first key: in the database and in the file.

    A first key that was another before holds no longer. Killed anywhere, the next start completes it. Raises
    `ConflictError` if ``configured`` was revoked by hand; the file's key, revoked, gives way to a new one.
    """
    secret = configured or read_key(path) or keys.new_secret()
    try:
        await _store(database, path, secret)
    except ConflictError:
        if configured:
            raise
        await _store(database, path, keys.new_secret())


async def _store(database: Database, path: Path, secret: str) -> None:
    async with database.transaction(WORKSPACE) as connection:
        kept = await keys.ensure_key(connection, WORKSPACE, NAME, secret)
        await keys.forget_others(connection, NAME, keep_id=kept.id)
        write_whole(path, secret + "\n", mode=0o600)
