"""What lies under /mnt/memory in a sandbox, as far as is known outside of it."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from controlplane.store.pool import Connection, one, rows

Standing = Literal["shown", "arriving", "leaving", "refused", "unsaved", "redacted"]


class ShownMemory(BaseModel):
    """A file: what it holds by its hash, and the version that it was, or was made from.

    ``standing``: `shown`: it says what the memory said then; `arriving`: it is being written, over what had
    ``was_sha256``; `leaving`: it is to be removed; `refused`: nothing was saved of it; `unsaved`: so too, and nothing
    is written over it; `redacted`: its hash is not kept, and it holds what must not be known any more.
    """

    model_config = ConfigDict(frozen=True)

    store_id: str
    path: str
    memory_id: str | None = None
    version: int | None = None
    sha256: str
    standing: Standing = "shown"
    was_sha256: str | None = None


async def of_store(connection: Connection, sandbox_id: str, store_id: str) -> list[ShownMemory]:
    """Return the files of a store in a sandbox."""
    found = await rows(
        connection,
        "SELECT store_id, path, memory_id, version, sha256, standing, was_sha256 FROM shown_memories"
        " WHERE sandbox_id = %(sandbox)s AND store_id = %(store)s",
        {"sandbox": sandbox_id, "store": store_id},
    )
    return [ShownMemory.model_validate(row) for row in found]


async def put(connection: Connection, sandbox_id: str, *shown: ShownMemory) -> None:
    """Note what files hold."""
    if not shown:
        return
    await connection.cursor().executemany(
        "INSERT INTO shown_memories (sandbox_id, store_id, path, workspace_id, memory_id, version, sha256, standing,"
        " was_sha256) SELECT b.id, %(store_id)s, %(path)s, b.workspace_id, %(memory_id)s, %(version)s, %(sha256)s,"
        " %(standing)s, %(was_sha256)s FROM sandboxes b WHERE b.id = %(sandbox)s"
        " ON CONFLICT (sandbox_id, store_id, path) DO UPDATE"
        "   SET memory_id = excluded.memory_id, version = excluded.version, sha256 = excluded.sha256,"
        "       standing = excluded.standing, was_sha256 = excluded.was_sha256",
        [{"sandbox": sandbox_id, **each.model_dump()} for each in shown],
    )


async def arrived(connection: Connection, sandbox_id: str, store_id: str, paths: Sequence[str]) -> None:
    """Note that files have been written; what was redacted meanwhile stays so."""
    await connection.execute(
        "UPDATE shown_memories SET standing = 'shown', was_sha256 = NULL"
        " WHERE sandbox_id = %s AND store_id = %s AND path = ANY(%s) AND standing = 'arriving'",
        (sandbox_id, store_id, list(paths)),
    )


async def leave(connection: Connection, sandbox_id: str, store_id: str, paths: Sequence[str]) -> None:
    """Note that files are about to be removed: that they are gone then deletes nothing."""
    await connection.execute(
        "UPDATE shown_memories SET standing = 'leaving', was_sha256 = NULL"
        " WHERE sandbox_id = %s AND store_id = %s AND path = ANY(%s) AND standing <> 'redacted'",
        (sandbox_id, store_id, list(paths)),
    )


async def drop(connection: Connection, sandbox_id: str, store_id: str, paths: Sequence[str]) -> None:
    """Forget files that are gone."""
    await connection.execute(
        "DELETE FROM shown_memories WHERE sandbox_id = %s AND store_id = %s AND path = ANY(%s)",
        (sandbox_id, store_id, list(paths)),
    )


async def redact(connection: Connection, version_id: str) -> None:
    """Keep no hash of a version that is about to be redacted, nor of a file that it was taken from."""
    await connection.execute(
        "UPDATE shown_memories s SET standing = 'redacted', sha256 = '', was_sha256 = NULL"
        "  FROM memory_versions v WHERE v.id = %s AND s.store_id = v.store_id"
        "   AND ((s.memory_id = v.memory_id AND s.version = v.version) OR v.sha256 IN (s.sha256, s.was_sha256))"
        "   AND NOT EXISTS (SELECT FROM memories m WHERE m.id = s.memory_id AND m.version = s.version)",
        (version_id,),
    )


async def folders(connection: Connection, sandbox_id: str) -> dict[str, str]:
    """Return which folders of a sandbox have files of which store."""
    found = await rows(
        connection,
        "SELECT folder, store_id FROM shown_stores WHERE sandbox_id = %(sandbox)s ORDER BY folder",
        {"sandbox": sandbox_id},
    )
    return {row["folder"]: row["store_id"] for row in found}


async def occupy(connection: Connection, sandbox_id: str, folder: str, store_id: str) -> bool:
    """Note that a folder is about to have files of a store; say whether it is so: another store's may be there."""
    row = await one(
        connection,
        "INSERT INTO shown_stores (sandbox_id, folder, store_id, workspace_id)"
        " SELECT id, %(folder)s, %(store)s, workspace_id FROM sandboxes WHERE id = %(sandbox)s"
        " ON CONFLICT (sandbox_id, folder) DO UPDATE SET folder = excluded.folder RETURNING store_id",
        {"sandbox": sandbox_id, "folder": folder, "store": store_id},
    )
    return row is not None and row["store_id"] == store_id


async def vacate(connection: Connection, sandbox_id: str, folder: str, store_id: str) -> None:
    """Forget a folder of a store, and all its files: it is empty."""
    await connection.execute(
        "DELETE FROM shown_memories WHERE sandbox_id = %s AND store_id = %s", (sandbox_id, store_id)
    )
    await connection.execute(
        "DELETE FROM shown_stores WHERE sandbox_id = %s AND folder = %s AND store_id = %s",
        (sandbox_id, folder, store_id),
    )
