"""What lies under /mnt/memory in a sandbox, as far as is known outside of it."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from controlplane.store.pool import Connection, rows


class ShownMemory(BaseModel):
    """A file. ``sha256``: of what it held. Without ``memory_id`` it is there, and nothing was saved of it."""

    model_config = ConfigDict(frozen=True)

    store_id: str
    path: str
    memory_id: str | None = None
    version: int | None = None
    sha256: str


async def of_store(connection: Connection, sandbox_id: str, store_id: str) -> list[ShownMemory]:
    """Return the files of a store in a sandbox."""
    found = await rows(
        connection,
        "SELECT store_id, path, memory_id, version, sha256 FROM shown_memories"
        " WHERE sandbox_id = %(sandbox)s AND store_id = %(store)s",
        {"sandbox": sandbox_id, "store": store_id},
    )
    return [ShownMemory.model_validate(row) for row in found]


async def put(connection: Connection, sandbox_id: str, shown: ShownMemory) -> None:
    """Note what a file holds."""
    await connection.execute(
        "INSERT INTO shown_memories (sandbox_id, store_id, path, workspace_id, memory_id, version, sha256)"
        " SELECT b.id, %(store_id)s, %(path)s, b.workspace_id, %(memory_id)s, %(version)s, %(sha256)s"
        "   FROM sandboxes b WHERE b.id = %(sandbox)s"
        " ON CONFLICT (sandbox_id, store_id, path) DO UPDATE"
        "   SET memory_id = excluded.memory_id, version = excluded.version, sha256 = excluded.sha256",
        {"sandbox": sandbox_id, **shown.model_dump()},
    )


async def drop(connection: Connection, sandbox_id: str, store_id: str, paths: Sequence[str]) -> None:
    """Forget files that are gone."""
    await connection.execute(
        "DELETE FROM shown_memories WHERE sandbox_id = %s AND store_id = %s AND path = ANY(%s)",
        (sandbox_id, store_id, list(paths)),
    )
