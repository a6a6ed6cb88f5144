"""Environments: what a session's sandbox is made from."""

from datetime import datetime

from psycopg import errors
from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict

from controlplane.definitions import EnvironmentConfig, stored
from controlplane.errors import ConflictError, NotFoundError
from controlplane.ids import new_id, shown_id
from controlplane.store.pool import Connection, one, rows
from controlplane.store.positions import Position


class EnvironmentContent(BaseModel):
    """What the owner of an environment says about it."""

    model_config = ConfigDict(frozen=True)

    name: str
    description: str | None
    metadata: dict[str, str]
    config: EnvironmentConfig


class EnvironmentRecord(EnvironmentContent):
    """An environment as recorded."""

    id: str
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None


async def create(connection: Connection, workspace_id: str, *, content: EnvironmentContent) -> EnvironmentRecord:
    """Make an environment."""
    row = await one(
        connection,
        "INSERT INTO environments (id, workspace_id, name, description, metadata, config)"
        " VALUES (%(id)s, %(workspace_id)s, %(name)s, %(description)s, %(metadata)s, %(config)s)"
        " RETURNING id, name, description, metadata, config, created_at, updated_at, archived_at",
        {"id": new_id("env"), "workspace_id": workspace_id, **_columns(content)},
    )
    return EnvironmentRecord.model_validate(row)


async def get(connection: Connection, environment_id: str) -> EnvironmentRecord:
    """Return an environment; raises `NotFoundError`."""
    row = await one(
        connection,
        "SELECT id, name, description, metadata, config, created_at, updated_at, archived_at"
        " FROM environments WHERE id = %(id)s",
        {"id": environment_id},
    )
    if row is None:
        raise _unknown(environment_id)
    return EnvironmentRecord.model_validate(row)


async def lock(connection: Connection, environment_id: str) -> EnvironmentRecord:
    """Return an environment and keep others from changing it until the caller's transaction ends."""
    await connection.execute("SELECT 1 FROM environments WHERE id = %(id)s FOR UPDATE", {"id": environment_id})
    return await get(connection, environment_id)


async def replace(connection: Connection, environment_id: str, content: EnvironmentContent) -> EnvironmentRecord:
    """Give an environment new content."""
    row = await one(
        connection,
        "UPDATE environments SET name = %(name)s, description = %(description)s, metadata = %(metadata)s,"
        " config = %(config)s, updated_at = clock_timestamp() WHERE id = %(id)s"
        " RETURNING id, name, description, metadata, config, created_at, updated_at, archived_at",
        {"id": environment_id, **_columns(content)},
    )
    return EnvironmentRecord.model_validate(row)


async def archive(connection: Connection, environment_id: str) -> EnvironmentRecord:
    """Keep an environment from being used by new sessions; doing it again changes nothing."""
    await connection.execute(
        "UPDATE environments SET archived_at = now(), updated_at = now() WHERE id = %(id)s AND archived_at IS NULL",
        {"id": environment_id},
    )
    return await get(connection, environment_id)


async def delete(connection: Connection, environment_id: str) -> None:
    """Remove an environment; raises `ConflictError` while a session refers to it."""
    try:
        row = await one(connection, "DELETE FROM environments WHERE id = %(id)s RETURNING id", {"id": environment_id})
    except errors.ForeignKeyViolation as error:
        raise ConflictError(
            f"sessions refer to environment {environment_id!r}",
            code="environment_in_use",
            field="environment_id",
            next_step="delete those sessions first, or archive the environment",
        ) from error
    if row is None:
        raise _unknown(environment_id)


async def listing(
    connection: Connection, *, include_archived: bool, beyond: Position | None, limit: int
) -> list[EnvironmentRecord]:
    """Return up to ``limit`` environments, newest first."""
    found = await rows(
        connection,
        """
        SELECT id, name, description, metadata, config, created_at, updated_at, archived_at
          FROM environments
         WHERE (%(include_archived)s OR archived_at IS NULL)
           AND (%(beyond_at)s::timestamptz IS NULL
                OR (created_at, id) < (%(beyond_at)s::timestamptz, %(beyond_id)s::text))
         ORDER BY created_at DESC, id DESC
         LIMIT %(limit)s
        """,
        {
            "include_archived": include_archived,
            "beyond_at": beyond.created_at if beyond else None,
            "beyond_id": beyond.id if beyond else None,
            "limit": limit,
        },
    )
    return [EnvironmentRecord.model_validate(row) for row in found]


def _columns(content: EnvironmentContent) -> dict[str, object]:
    return {
        "name": content.name,
        "description": content.description,
        "metadata": Jsonb(content.metadata),
        "config": Jsonb(stored(content.config)),
    }


def _unknown(environment_id: str) -> NotFoundError:
    return NotFoundError(
        f"no environment {shown_id(environment_id)!r}",
        code="environment_not_found",
        field="environment_id",
        next_step="list the environments",
    )
