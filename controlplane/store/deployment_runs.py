"""Runs of deployments: each is recorded before anything happens for it, and ends with an outcome."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, LiteralString

from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict

from controlplane.errors import NotFoundError
from controlplane.ids import shown_id
from controlplane.store.deployments import DeploymentRecord
from controlplane.store.pool import Connection, one, rows
from controlplane.store.positions import Position

RunKind = Literal["schedule", "backfill", "manual", "trigger"]
RunState = Literal["waiting", "running", "ended"]
Outcome = Literal["succeeded", "failed", "deadline_exceeded", "cancelled", "skipped", "missed"]

FAILURES: frozenset[Outcome] = frozenset({"failed", "deadline_exceeded"})


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class RunRecord(_Frozen):
    """A run as recorded; the columns of the migration say what each is."""

    id: str
    workspace_id: str
    deployment_id: str
    kind: RunKind
    scheduled_at: datetime | None
    agent_id: str
    agent_version: int
    state: RunState
    outcome: Outcome | None
    error: dict[str, Any] | None
    detail: str | None
    session_id: str | None
    cost_usd: Decimal | None
    delivery_id: str | None
    message: str | None
    created_at: datetime
    started_at: datetime | None
    deadline_at: datetime | None
    ended_at: datetime | None


class NewRun(_Frozen):
    """A run that is to be recorded."""

    id: str
    kind: RunKind
    scheduled_at: datetime | None = None
    delivery_id: str | None = None
    signature: bytes | None = None
    message: str | None = None


_COST: LiteralString = """
    (SELECT sum(m.cost_usd) FROM turns t JOIN model_requests m ON m.turn_id = t.id WHERE t.run_id = r.id)"""
"""What a run's turns have cost, also after its end: null where they are gone with their session, or cost nothing."""

_SELECT: LiteralString = f"""
    SELECT r.id, r.workspace_id, r.deployment_id, r.kind, r.scheduled_at, r.agent_id, r.agent_version, r.state,
           r.outcome, r.error, r.detail, r.session_id, r.delivery_id, r.message, r.created_at, r.started_at,
           r.deadline_at, r.ended_at,
           coalesce({_COST}, r.cost_usd, CASE WHEN r.session_id IS NOT NULL THEN 0 END) AS cost_usd
      FROM deployment_runs r"""


async def record(
    connection: Connection, workspace_id: str, *, deployment_id: str, agent: tuple[str, int], new: NewRun
) -> bool:
    """Record a run that waits; say whether it was not recorded before, under whatever id."""
    found = await one(
        connection,
        "INSERT INTO deployment_runs (id, workspace_id, deployment_id, kind, scheduled_at, agent_id, agent_version,"
        " state, delivery_id, signature, message) VALUES (%(id)s, %(workspace_id)s, %(deployment_id)s, %(kind)s,"
        " %(scheduled_at)s, %(agent_id)s, %(agent_version)s, 'waiting', %(delivery_id)s, %(signature)s, %(message)s)"
        " ON CONFLICT DO NOTHING RETURNING id",
        {
            **new.model_dump(),
            "workspace_id": workspace_id,
            "deployment_id": deployment_id,
            "agent_id": agent[0],
            "agent_version": agent[1],
        },
    )
    return found is not None


async def record_cancelled(
    connection: Connection, deployed: DeploymentRecord, times: Mapping[str, datetime], *, error: dict[str, Any]
) -> None:
    """Record runs that never begin, by id with their fire times; those that are recorded stay as they are."""
    await connection.execute(
        "INSERT INTO deployment_runs (id, workspace_id, deployment_id, kind, scheduled_at, agent_id, agent_version,"
        " state, outcome, error, ended_at) SELECT new.id, %(workspace)s, %(deployment)s, 'schedule', new.at,"
        " %(agent)s, %(version)s, 'ended', 'cancelled', %(error)s, clock_timestamp()"
        " FROM unnest(%(ids)s::text[], %(times)s::timestamptz[]) AS new (id, at) ON CONFLICT DO NOTHING",
        {
            "workspace": deployed.workspace_id,
            "deployment": deployed.id,
            "agent": deployed.agent_id,
            "version": deployed.agent_version,
            "error": Jsonb(error),
            "ids": list(times),
            "times": list(times.values()),
        },
    )


async def begin(
    connection: Connection, run: RunRecord, deployed: DeploymentRecord, *, session_id: str, inputs: list[str]
) -> None:
    """Let a run that waits be that of a session, which got the events ``inputs`` for it, as the deployment is now."""
    await connection.execute(
        "UPDATE deployment_runs SET state = 'running', session_id = %(session)s, inputs = %(inputs)s,"
        " agent_id = %(agent)s, agent_version = %(version)s, started_at = clock_timestamp(),"
        " deadline_at = clock_timestamp() + make_interval(secs => %(deadline)s) WHERE id = %(id)s",
        {
            "id": run.id,
            "session": session_id,
            "inputs": Jsonb(inputs),
            "agent": deployed.agent_id,
            "version": deployed.agent_version,
            "deadline": deployed.deadline_seconds,
        },
    )
    if run.kind != "manual":
        await connection.execute(
            "UPDATE deployments SET last_run_at = clock_timestamp() WHERE id = %s", (run.deployment_id,)
        )


async def end(
    connection: Connection,
    run_id: str,
    outcome: Outcome,
    *,
    error: dict[str, Any] | None = None,
    detail: str | None = None,
) -> bool:
    """Record how a run ended and what it has cost, once; say whether it was still to be recorded."""
    found = await one(
        connection,
        f"UPDATE deployment_runs r SET state = 'ended', outcome = %(outcome)s, error = %(error)s,"
        f" detail = %(detail)s, ended_at = clock_timestamp(), cost_usd = {_COST}"
        " WHERE id = %(id)s AND state <> 'ended' RETURNING id",
        {"id": run_id, "outcome": outcome, "error": Jsonb(error) if error else None, "detail": detail},
    )
    return found is not None


async def withdraw(connection: Connection, run_id: str) -> None:
    """Keep a run's session, which the caller holds, from working on what it has not begun or not got to the end of.

    What is withdrawn is no part of the conversation.
    """
    await _withdraw_inputs(connection, run_id)
    await connection.execute(
        "UPDATE sessions s SET resume_wanted = false, resume_at = NULL FROM deployment_runs r WHERE r.id = %(id)s"
        " AND s.id = r.session_id AND s.resume_wanted AND (SELECT t.run_id FROM turns t WHERE t.session_id = s.id"
        " ORDER BY t.started_at DESC LIMIT 1) = r.id",
        {"id": run_id},
    )


async def interrupted(connection: Connection, session_id: str) -> None:
    """Withdraw what waits of the run that the session's newest turn is of: who stops that stops the run."""
    turn = await one(
        connection,
        "SELECT run_id FROM turns WHERE session_id = %(id)s ORDER BY started_at DESC LIMIT 1",
        {"id": session_id},
    )
    if turn is not None and turn["run_id"] is not None:
        await _withdraw_inputs(connection, turn["run_id"])


async def _withdraw_inputs(connection: Connection, run_id: str) -> None:
    await connection.execute(
        "UPDATE events e SET processed_at = clock_timestamp(), internal = e.internal || '{\"withdrawn\": true}'"
        " FROM deployment_runs r"
        " WHERE r.id = %s AND e.session_id = r.session_id AND r.inputs ? e.id AND e.processed_at IS NULL",
        (run_id,),
    )


async def is_under_way(connection: Connection, run_id: str) -> bool:
    """Say whether a turn of the run runs, or waits for somebody."""
    found = await one(
        connection,
        "SELECT FROM deployment_runs r JOIN sessions s ON s.id = r.session_id JOIN LATERAL"
        " (SELECT * FROM turns WHERE session_id = s.id ORDER BY started_at DESC LIMIT 1) t ON t.run_id = r.id"
        " WHERE r.id = %(id)s"
        " AND (t.status = 'running' OR (s.status = 'idle' AND s.stop_reason ->> 'type' = 'requires_action'))",
        {"id": run_id},
    )
    return found is not None


async def get(connection: Connection, run_id: str) -> RunRecord:
    """Return a run; raises `NotFoundError`."""
    row = await one(connection, _SELECT + " WHERE r.id = %(id)s", {"id": run_id})
    if row is None:
        raise NotFoundError(
            f"no run {shown_id(run_id)!r}",
            code="deployment_run_not_found",
            field="deployment_run_id",
            next_step="list the runs",
        )
    return RunRecord.model_validate(row)


async def of_delivery(
    connection: Connection, deployment_id: str, *, delivery_id: str, signature: bytes
) -> RunRecord | None:
    """Return the run that a delivery has started before, under this id or with this signature."""
    row = await one(
        connection,
        _SELECT + " WHERE r.deployment_id = %(deployment_id)s AND (r.delivery_id = %(delivery_id)s"
        " OR r.signature = %(signature)s) ORDER BY r.created_at LIMIT 1",
        {"deployment_id": deployment_id, "delivery_id": delivery_id, "signature": signature},
    )
    return RunRecord.model_validate(row) if row else None


async def open_of(connection: Connection, deployment_id: str) -> list[RunRecord]:
    """Return the runs of a deployment that wait or run, the oldest first."""
    found = await rows(
        connection,
        _SELECT + " WHERE r.deployment_id = %(id)s AND r.state <> 'ended'"
        " ORDER BY coalesce(r.scheduled_at, r.created_at), r.created_at, r.id",
        {"id": deployment_id},
    )
    return [RunRecord.model_validate(row) for row in found]


async def recorded_times(
    connection: Connection, deployment_id: str, *, start: datetime, end: datetime
) -> set[datetime]:
    """Return the fire times in a range of which runs are recorded."""
    found = await rows(
        connection,
        "SELECT scheduled_at FROM deployment_runs WHERE deployment_id = %(id)s"
        " AND scheduled_at BETWEEN %(start)s AND %(end)s",
        {"id": deployment_id, "start": start, "end": end},
    )
    return {row["scheduled_at"] for row in found}


class RunFilter(_Frozen):
    """What a listing of runs is narrowed to."""

    deployment_id: str | None = None
    scheduled: bool | None = None
    has_error: bool | None = None
    created_at_gt: datetime | None = None
    created_at_gte: datetime | None = None
    created_at_lt: datetime | None = None
    created_at_lte: datetime | None = None
    beyond: Position | None = None


async def listing(connection: Connection, narrowed: RunFilter, *, limit: int) -> list[RunRecord]:
    """Return up to ``limit`` runs, newest first."""
    found = await rows(
        connection,
        _SELECT
        + """
         WHERE (%(deployment_id)s::text IS NULL OR r.deployment_id = %(deployment_id)s)
           AND (%(scheduled)s::boolean IS NULL OR %(scheduled)s = (r.kind IN ('schedule', 'backfill')))
           AND (%(has_error)s::boolean IS NULL OR %(has_error)s = (r.error IS NOT NULL))
           AND (%(gt)s::timestamptz IS NULL OR r.created_at > %(gt)s)
           AND (%(gte)s::timestamptz IS NULL OR r.created_at >= %(gte)s)
           AND (%(lt)s::timestamptz IS NULL OR r.created_at < %(lt)s)
           AND (%(lte)s::timestamptz IS NULL OR r.created_at <= %(lte)s)
           AND (%(beyond_at)s::timestamptz IS NULL
                OR (r.created_at, r.id) < (%(beyond_at)s::timestamptz, %(beyond_id)s::text))
         ORDER BY r.created_at DESC, r.id DESC LIMIT %(limit)s""",
        {
            "deployment_id": narrowed.deployment_id,
            "scheduled": narrowed.scheduled,
            "has_error": narrowed.has_error,
            "gt": narrowed.created_at_gt,
            "gte": narrowed.created_at_gte,
            "lt": narrowed.created_at_lt,
            "lte": narrowed.created_at_lte,
            "beyond_at": narrowed.beyond.created_at if narrowed.beyond else None,
            "beyond_id": narrowed.beyond.id if narrowed.beyond else None,
            "limit": limit,
        },
    )
    return [RunRecord.model_validate(row) for row in found]
