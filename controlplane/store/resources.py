"""What is mounted in a session's sandbox."""

from datetime import datetime
from typing import Literal

from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict

from controlplane.errors import NotFoundError
from controlplane.ids import new_id, shown_id
from controlplane.store.pool import Connection, one, rows
from controlplane.store.positions import Position


class FileMount(BaseModel):
    """A file and where it appears in the sandbox."""

    model_config = ConfigDict(frozen=True)

    file_id: str
    mount_path: str


class StoreMount(BaseModel):
    """A memory store and where it appears in the sandbox, named and described as when it was attached."""

    model_config = ConfigDict(frozen=True)

    memory_store_id: str
    access: Literal["read_write", "read_only"]
    name: str
    description: str
    instructions: str | None = None
    mount_path: str


class ResourceRecord(BaseModel):
    """A mounted file, or an attached memory store, as recorded."""

    model_config = ConfigDict(frozen=True)

    id: str
    type: Literal["file", "memory_store"]
    config: FileMount | StoreMount
    created_at: datetime
    updated_at: datetime


async def add(
    connection: Connection, workspace_id: str, *, session_id: str, mount: FileMount | StoreMount
) -> ResourceRecord:
    """Mount a file, which a sandbox that is up does not see, or attach a memory store."""
    row = await one(
        connection,
        "INSERT INTO session_resources (id, workspace_id, session_id, type, config, created_at, updated_at)"
        " VALUES (%(id)s, %(workspace_id)s, %(session_id)s, %(type)s, %(config)s, clock_timestamp(),"
        " clock_timestamp())"
        " RETURNING id, type, config, created_at, updated_at",
        {
            "id": new_id("sesrsc"),
            "workspace_id": workspace_id,
            "session_id": session_id,
            "type": "file" if isinstance(mount, FileMount) else "memory_store",
            "config": Jsonb(mount.model_dump()),
        },
    )
    return ResourceRecord.model_validate(row)


async def get(connection: Connection, session_id: str, resource_id: str) -> ResourceRecord:
    """Return one resource of a session; raises `NotFoundError`."""
    row = await one(
        connection,
        "SELECT id, type, config, created_at, updated_at FROM session_resources"
        " WHERE session_id = %(session_id)s AND id = %(id)s",
        {"session_id": session_id, "id": resource_id},
    )
    if row is None:
        raise _unknown(session_id, resource_id)
    return ResourceRecord.model_validate(row)


async def listing(
    connection: Connection, session_id: str, *, beyond: Position | None = None, limit: int | None = None
) -> list[ResourceRecord]:
    """Return the resources of a session in the order in which they were added; ``limit`` None means all."""
    found = await rows(
        connection,
        "SELECT id, type, config, created_at, updated_at FROM session_resources"
        " WHERE session_id = %(session_id)s AND (%(beyond_at)s::timestamptz IS NULL"
        "       OR (created_at, id) > (%(beyond_at)s::timestamptz, %(beyond_id)s::text))"
        " ORDER BY created_at, id LIMIT %(limit)s",
        {
            "session_id": session_id,
            "beyond_at": beyond.created_at if beyond else None,
            "beyond_id": beyond.id if beyond else None,
            "limit": limit,
        },
    )
    return [ResourceRecord.model_validate(row) for row in found]


async def delete(connection: Connection, session_id: str, resource_id: str) -> None:
    """Take a resource from a session; raises `NotFoundError`."""
    row = await one(
        connection,
        "DELETE FROM session_resources WHERE session_id = %(session_id)s AND id = %(id)s RETURNING id",
        {"session_id": session_id, "id": resource_id},
    )
    if row is None:
        raise _unknown(session_id, resource_id)


def _unknown(session_id: str, resource_id: str) -> NotFoundError:
    return NotFoundError(
        f"session {shown_id(session_id)!r} has no resource {shown_id(resource_id)!r}",
        code="resource_not_found",
        field="resource_id",
        next_step="list the session's resources",
    )
