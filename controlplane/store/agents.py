"""Agents and their immutable versions."""

from datetime import datetime

from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict

from controlplane.definitions import AgentDefinition, stored
from controlplane.errors import NotFoundError
from controlplane.ids import new_id, shown_id
from controlplane.store.pool import Connection, one, rows
from controlplane.store.positions import Position


class AgentRecord(BaseModel):
    """An agent at one of its versions."""

    model_config = ConfigDict(frozen=True)

    id: str
    version: int
    definition: AgentDefinition
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None
    frozen_at: datetime | None


class AgentFilter(BaseModel):
    """What a listing of agents is narrowed to."""

    model_config = ConfigDict(frozen=True)

    include_archived: bool = False
    created_at_gte: datetime | None = None
    created_at_lte: datetime | None = None
    beyond: Position | None = None


def new_agent_id() -> str:
    """Return an id for an agent that is about to be made."""
    return new_id("agent")


async def create(
    connection: Connection, workspace_id: str, *, agent_id: str, definition: AgentDefinition
) -> AgentRecord:
    """Make an agent at version 1."""
    await connection.execute(
        "INSERT INTO agents (id, workspace_id, version) VALUES (%(id)s, %(workspace_id)s, 1)",
        {"id": agent_id, "workspace_id": workspace_id},
    )
    await _insert_version(connection, workspace_id, agent_id, 1, definition)
    return await get(connection, agent_id)


async def get(connection: Connection, agent_id: str, *, version: int | None = None) -> AgentRecord:
    """Return the agent at ``version``, or at its newest; raises `NotFoundError`."""
    row = await one(
        connection,
        """
        SELECT a.id, v.version, v.definition, a.created_at, a.archived_at, a.frozen_at,
               CASE WHEN v.version = a.version THEN a.updated_at ELSE v.created_at END AS updated_at
          FROM agents a JOIN agent_versions v ON v.agent_id = a.id
         WHERE a.id = %(id)s AND v.version = coalesce(%(version)s::int, a.version)
        """,
        {"id": agent_id, "version": version},
    )
    if row is None:
        what = (
            f"agent {shown_id(agent_id)!r}"
            if version is None
            else f"version {version} of agent {shown_id(agent_id)!r}"
        )
        raise NotFoundError(f"no {what}", code="agent_not_found", field="agent", next_step="list the agents")
    return AgentRecord.model_validate(row)


async def lock(connection: Connection, agent_id: str) -> AgentRecord:
    """Return the newest version and keep others from adding one until the caller's transaction ends."""
    await connection.execute("SELECT 1 FROM agents WHERE id = %(id)s FOR UPDATE", {"id": agent_id})
    return await get(connection, agent_id)


async def add_version(
    connection: Connection, workspace_id: str, *, agent: AgentRecord, definition: AgentDefinition
) -> AgentRecord:
    """Add the version after ``agent``, which the caller has locked."""
    version = agent.version + 1
    await _insert_version(connection, workspace_id, agent.id, version, definition)
    await connection.execute(
        "UPDATE agents SET version = %(version)s, updated_at = clock_timestamp() WHERE id = %(id)s",
        {"id": agent.id, "version": version},
    )
    return await get(connection, agent.id)


async def archive(connection: Connection, agent_id: str) -> AgentRecord:
    """Make an agent read-only; doing it again changes nothing."""
    await connection.execute(
        "UPDATE agents SET archived_at = now(), updated_at = now() WHERE id = %(id)s AND archived_at IS NULL",
        {"id": agent_id},
    )
    return await get(connection, agent_id)


async def set_frozen(connection: Connection, agent_id: str, *, frozen: bool) -> AgentRecord:
    """Freeze an agent at all its versions, or thaw it; doing it twice changes nothing."""
    await connection.execute(
        "UPDATE agents SET frozen_at = CASE WHEN %s THEN coalesce(frozen_at, clock_timestamp()) END WHERE id = %s",
        (frozen, agent_id),
    )
    return await get(connection, agent_id)


async def listing(connection: Connection, narrowed: AgentFilter, *, limit: int) -> list[AgentRecord]:
    """Return up to ``limit`` agents at their newest versions, newest first."""
    found = await rows(
        connection,
        """
        SELECT a.id, a.version, v.definition, a.created_at, a.updated_at, a.archived_at, a.frozen_at
          FROM agents a JOIN agent_versions v ON v.agent_id = a.id AND v.version = a.version
         WHERE (%(include_archived)s OR a.archived_at IS NULL)
           AND (%(gte)s::timestamptz IS NULL OR a.created_at >= %(gte)s)
           AND (%(lte)s::timestamptz IS NULL OR a.created_at <= %(lte)s)
           AND (%(beyond_at)s::timestamptz IS NULL
                OR (a.created_at, a.id) < (%(beyond_at)s::timestamptz, %(beyond_id)s::text))
         ORDER BY a.created_at DESC, a.id DESC
         LIMIT %(limit)s
        """,
        {
            "include_archived": narrowed.include_archived,
            "gte": narrowed.created_at_gte,
            "lte": narrowed.created_at_lte,
            "beyond_at": narrowed.beyond.created_at if narrowed.beyond else None,
            "beyond_id": narrowed.beyond.id if narrowed.beyond else None,
            "limit": limit,
        },
    )
    return [AgentRecord.model_validate(row) for row in found]


async def versions(connection: Connection, agent_id: str, *, below: int | None, limit: int) -> list[AgentRecord]:
    """Return up to ``limit`` versions of an agent, newest first, those under ``below`` only."""
    found = await rows(
        connection,
        """
        SELECT a.id, v.version, v.definition, a.created_at, a.archived_at, a.frozen_at,
               CASE WHEN v.version = a.version THEN a.updated_at ELSE v.created_at END AS updated_at
          FROM agents a JOIN agent_versions v ON v.agent_id = a.id
         WHERE a.id = %(id)s AND (%(below)s::int IS NULL OR v.version < %(below)s)
         ORDER BY v.version DESC
         LIMIT %(limit)s
        """,
        {"id": agent_id, "below": below, "limit": limit},
    )
    return [AgentRecord.model_validate(row) for row in found]


async def _insert_version(
    connection: Connection, workspace_id: str, agent_id: str, version: int, definition: AgentDefinition
) -> None:
    await connection.execute(
        "INSERT INTO agent_versions (agent_id, version, workspace_id, definition)"
        " VALUES (%(id)s, %(version)s, %(workspace_id)s, %(definition)s)",
        {
            "id": agent_id,
            "version": version,
            "workspace_id": workspace_id,
            "definition": Jsonb(stored(definition)),
        },
    )
