"""Sessions: what was asked for, what the agent is, and how far the session is."""

from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, LiteralString

from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict, Field

from controlplane.definitions import SessionAgent, stored
from controlplane.errors import NotFoundError
from controlplane.ids import new_id, shown_id
from controlplane.store import front_door_inbox, idempotency
from controlplane.store.events import announce
from controlplane.store.pool import Connection, one, rows
from controlplane.store.positions import Position
from controlplane.store.resources import ResourceRecord

SessionStatus = Literal["rescheduling", "running", "idle", "terminated"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class MonetaryAmount(_Frozen):
    """An amount in minor units, as a decimal string."""

    amount: str
    currency: Literal["USD"]


class Budget(_Frozen):
    """The ceiling of what a session may cost at list price, and of the tokens that it may use."""

    type: Literal["limit"]
    max_list_cost: MonetaryAmount
    max_tokens: int | None = None


class SessionContent(_Frozen):
    """What the owner of a session may set."""

    agent: SessionAgent
    title: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    budget: Budget | None = None
    budget_ids: list[str] = Field(default_factory=list)


class SessionRecord(SessionContent):
    """A session as recorded. ``usage`` and ``stop_reason`` are kept in the wire format's shape."""

    id: str
    environment_id: str
    deployment_id: str | None
    user_id: str | None = None
    vault_ids: list[str]
    status: SessionStatus
    stop_reason: dict[str, Any] | None
    failure: dict[str, Any] | None
    last_seq: int
    usage: dict[str, Any]
    cost_usd: Decimal
    tokens: int
    active_ms: int
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None
    age_seconds: float
    resources: list[ResourceRecord]


class DeletedSession(_Frozen):
    """What is left of a deleted session: the event that said so."""

    event_id: str
    seq: int
    deleted_at: datetime


class SessionFilter(_Frozen):
    """What a listing of sessions is narrowed to; ``backward`` reads towards the first page."""

    agent_id: str | None = None
    agent_version: int | None = None
    deployment_id: str | None = None
    statuses: list[SessionStatus] | None = None
    failed: bool | None = None
    created_at_gt: datetime | None = None
    created_at_gte: datetime | None = None
    created_at_lt: datetime | None = None
    created_at_lte: datetime | None = None
    memory_store_id: str | None = None
    include_archived: bool = False
    order: Literal["asc", "desc"] = "desc"
    beyond: Position | None = None
    backward: bool = False


_SELECT: LiteralString = """
    SELECT s.id, s.agent, s.environment_id, s.deployment_id, s.user_id, s.title, s.metadata, s.vault_ids, s.budget,
           s.budget_ids, s.status, s.stop_reason, s.failure, s.last_seq, s.usage, s.cost_usd, s.tokens, s.active_ms,
           s.created_at,
           s.updated_at, s.archived_at,
           extract(epoch FROM CASE WHEN s.status = 'terminated' THEN s.updated_at ELSE now() END
                              - s.created_at)::float8 AS age_seconds,
           coalesce((SELECT jsonb_agg(to_jsonb(r) - 'workspace_id' - 'session_id' ORDER BY r.created_at, r.id)
                       FROM session_resources r WHERE r.session_id = s.id), '[]') AS resources
      FROM sessions s"""


async def create(
    connection: Connection,
    workspace_id: str,
    *,
    environment_id: str,
    vault_ids: list[str],
    content: SessionContent,
    deployment_id: str | None = None,
    user_id: str | None = None,
) -> str:
    """Make an idle session and return its id."""
    session_id = new_id("sesn")
    await connection.execute(
        "INSERT INTO sessions (id, workspace_id, agent_id, agent_version, agent, environment_id, title, metadata,"
        " vault_ids, budget, budget_ids, deployment_id, user_id) VALUES (%(id)s, %(workspace_id)s, %(agent_id)s,"
        " %(agent_version)s, %(agent)s, %(environment_id)s, %(title)s, %(metadata)s, %(vault_ids)s, %(budget)s,"
        " %(budget_ids)s, %(deployment_id)s, %(user_id)s)",
        {
            "id": session_id,
            "workspace_id": workspace_id,
            "agent_id": content.agent.id,
            "agent_version": content.agent.version,
            "environment_id": environment_id,
            "deployment_id": deployment_id,
            "vault_ids": Jsonb(vault_ids),
            "user_id": user_id,
            **_columns(content),
        },
    )
    return session_id


async def get(connection: Connection, session_id: str) -> SessionRecord:
    """Return a session; raises `NotFoundError`."""
    row = await one(connection, _SELECT + " WHERE s.id = %(id)s", {"id": session_id})
    if row is None:
        raise unknown(session_id)
    return SessionRecord.model_validate(row)


async def lock(connection: Connection, session_id: str) -> SessionRecord:
    """Return a session and keep others from changing it until the caller's transaction ends."""
    await connection.execute("SELECT 1 FROM sessions WHERE id = %(id)s FOR UPDATE", {"id": session_id})
    return await get(connection, session_id)


class SessionGate(_Frozen):
    """What decides whether a session takes an input."""

    status: SessionStatus
    archived_at: datetime | None
    last_seq: int


async def gate(connection: Connection, session_id: str) -> SessionGate:
    """Return what decides whether a session takes an input, and hold it until the caller's transaction ends."""
    row = await one(
        connection,
        "SELECT status, archived_at, last_seq FROM sessions WHERE id = %(id)s FOR UPDATE",
        {"id": session_id},
    )
    if row is None:
        raise unknown(session_id)
    return SessionGate.model_validate(row)


async def admit(connection: Connection, session_id: str) -> None:
    """Have what is sent from now on begin a turn, also after one that has been given up at a spent budget."""
    await connection.execute(
        "UPDATE sessions SET held_seq = least(held_seq, last_seq) WHERE id = %s AND held_seq IS NOT NULL"
        " AND NOT resume_wanted AND failure ->> 'cause' IS DISTINCT FROM 'agent_frozen'",
        (session_id,),
    )


async def last_seq(connection: Connection, session_id: str) -> int:
    """Return the seq of a session's newest event, 0 where it has none; raises `NotFoundError`."""
    row = await one(connection, "SELECT last_seq FROM sessions WHERE id = %(id)s", {"id": session_id})
    if row is None:
        raise unknown(session_id)
    return row["last_seq"]


async def replace(connection: Connection, session_id: str, content: SessionContent) -> None:
    """Give a session new content."""
    await connection.execute(
        "UPDATE sessions SET agent = %(agent)s, title = %(title)s, metadata = %(metadata)s, budget = %(budget)s,"
        " budget_ids = %(budget_ids)s, updated_at = clock_timestamp() WHERE id = %(id)s",
        {"id": session_id, **_columns(content)},
    )


async def has_inputs(connection: Connection, session_id: str) -> bool:
    """Say whether inputs wait that no turn has taken."""
    found = await one(
        connection,
        "SELECT FROM events WHERE session_id = %(id)s AND processed_at IS NULL LIMIT 1",
        {"id": session_id},
    )
    return found is not None


async def archive(connection: Connection, session_id: str) -> None:
    """Make a session read-only; doing it again changes nothing. No command of it runs again, so no files are kept."""
    await connection.execute(
        "UPDATE sessions SET archived_at = now(), updated_at = now() WHERE id = %(id)s AND archived_at IS NULL",
        {"id": session_id},
    )
    await connection.execute("DELETE FROM checkpoints WHERE session_id = %(id)s", {"id": session_id})


async def delete(connection: Connection, workspace_id: str, *, session_id: str, seq: int) -> None:
    """Remove a session with everything that belongs to it; ``seq`` is its ``session.deleted`` event's."""
    await connection.execute(
        "INSERT INTO deleted_sessions (id, workspace_id, event_id, seq)"
        " VALUES (%(id)s, %(workspace_id)s, %(event_id)s, %(seq)s)",
        {"id": session_id, "workspace_id": workspace_id, "event_id": new_id("sevt"), "seq": seq},
    )
    await connection.execute(
        "DELETE FROM files f WHERE f.scope_session_id = %(id)s AND NOT EXISTS (SELECT FROM session_resources r"
        " WHERE r.session_id <> %(id)s AND r.type = 'file' AND r.config ->> 'file_id' = f.id)",
        {"id": session_id},
    )
    await front_door_inbox.settle_all(connection, session_id)
    await connection.execute("DELETE FROM sessions WHERE id = %(id)s", {"id": session_id})
    await idempotency.empty(connection, session_id)
    await announce(connection, session_id, seq)


async def deleted(connection: Connection, session_id: str) -> DeletedSession | None:
    """Return what is left of a session that was deleted."""
    row = await one(
        connection,
        "SELECT event_id, seq, deleted_at FROM deleted_sessions WHERE id = %(id)s",
        {"id": session_id},
    )
    return DeletedSession.model_validate(row) if row else None


_LISTED: LiteralString = (
    _SELECT
    + """
     WHERE (%(agent_id)s::text IS NULL OR s.agent_id = %(agent_id)s)
       AND (%(agent_version)s::int IS NULL OR s.agent_version = %(agent_version)s)
       AND (%(deployment_id)s::text IS NULL OR s.deployment_id = %(deployment_id)s)
       AND (%(statuses)s::text[] IS NULL OR s.status = ANY(%(statuses)s))
       AND (%(failed)s::boolean IS NULL OR %(failed)s = (s.failure IS NOT NULL))
       AND (%(memory_store_id)s::text IS NULL OR EXISTS (SELECT FROM session_resources r
            WHERE r.session_id = s.id AND r.type = 'memory_store'
              AND r.config ->> 'memory_store_id' = %(memory_store_id)s))
       AND (%(include_archived)s OR s.archived_at IS NULL)
       AND (%(gt)s::timestamptz IS NULL OR s.created_at > %(gt)s)
       AND (%(gte)s::timestamptz IS NULL OR s.created_at >= %(gte)s)
       AND (%(lt)s::timestamptz IS NULL OR s.created_at < %(lt)s)
       AND (%(lte)s::timestamptz IS NULL OR s.created_at <= %(lte)s)"""
)
_FORWARD = (
    _LISTED
    + " AND (s.created_at, s.id) > (coalesce(%(beyond_at)s::timestamptz, '-infinity'), coalesce(%(beyond_id)s, ''))"
    " ORDER BY s.created_at, s.id LIMIT %(limit)s"
)
_BACKWARD = (
    _LISTED
    + " AND (s.created_at, s.id) < (coalesce(%(beyond_at)s::timestamptz, 'infinity'), coalesce(%(beyond_id)s, ''))"
    " ORDER BY s.created_at DESC, s.id DESC LIMIT %(limit)s"
)


async def listing(connection: Connection, narrowed: SessionFilter, *, limit: int) -> list[SessionRecord]:
    """Return up to ``limit`` sessions in the direction of reading."""
    found = await rows(
        connection,
        _FORWARD if (narrowed.order == "asc") != narrowed.backward else _BACKWARD,
        {
            "agent_id": narrowed.agent_id,
            "agent_version": narrowed.agent_version,
            "deployment_id": narrowed.deployment_id,
            "statuses": narrowed.statuses,
            "failed": narrowed.failed,
            "memory_store_id": narrowed.memory_store_id,
            "include_archived": narrowed.include_archived,
            "gt": narrowed.created_at_gt,
            "gte": narrowed.created_at_gte,
            "lt": narrowed.created_at_lt,
            "lte": narrowed.created_at_lte,
            "beyond_at": narrowed.beyond.created_at if narrowed.beyond else None,
            "beyond_id": narrowed.beyond.id if narrowed.beyond else None,
            "limit": limit,
        },
    )
    return [SessionRecord.model_validate(row) for row in found]


async def count_by_status(connection: Connection) -> dict[str, int]:
    """Return how many sessions that are not archived there are in each status."""
    found = await rows(
        connection, "SELECT status, count(*) AS n FROM sessions WHERE archived_at IS NULL GROUP BY status", {}
    )
    return {row["status"]: row["n"] for row in found}


def unknown(session_id: str) -> NotFoundError:
    """The error for a session that is not there."""
    return NotFoundError(
        f"no session {shown_id(session_id)!r}",
        code="session_not_found",
        field="session_id",
        next_step="list the sessions",
    )


def _columns(content: SessionContent) -> dict[str, object]:
    return {
        "agent": Jsonb(stored(content.agent)),
        "title": content.title,
        "metadata": Jsonb(content.metadata),
        "budget": Jsonb(stored(content.budget)) if content.budget else None,
        "budget_ids": Jsonb(content.budget_ids),
    }
