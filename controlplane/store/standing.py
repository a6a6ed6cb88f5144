"""Where a session stands: what an explanation of it is made from."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from controlplane.store.pool import Connection, one, rows
from controlplane.store.sessions import SessionStatus, unknown
from controlplane.store.workers import living
from workflows.failures import Failure
from workflows.records import CallState
from workflows.verdicts import Verdict


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class RunningTurn(_Frozen):
    """A turn that has not ended, its newest attempt, and the model request that is open."""

    id: str
    attempt: int
    started_at: datetime
    attempt_started_at: datetime | None
    host: str | None
    pid: int | None
    worker_lives: bool
    some_brain_lives: bool
    model_asked_at: datetime | None


class OpenCall(_Frozen):
    """A tool call without an outcome."""

    id: str
    name: str
    state: CallState
    verdict: Verdict
    decided: bool
    intended_at: datetime
    dispatched_at: datetime | None
    started_at: datetime | None
    sandbox_id: str | None


class Standing(_Frozen):
    """All of it, at one moment. ``waiting``: inputs that no turn has taken."""

    session_id: str
    now: datetime
    status: SessionStatus
    stop_reason: dict[str, Any] | None
    failure: Failure | None
    archived_at: datetime | None
    frozen_at: datetime | None
    updated_at: datetime
    resume_wanted: bool
    resume_at: datetime | None
    is_held: bool
    waiting: int
    oldest_waiting_at: datetime | None
    turn: RunningTurn | None
    calls: list[OpenCall]


async def of_session(connection: Connection, session_id: str) -> Standing:
    """Return where a session stands; raises `NotFoundError`."""
    session = await one(
        connection,
        "SELECT s.id AS session_id, clock_timestamp() AS now, s.status, s.stop_reason, s.failure, s.archived_at,"
        " a.frozen_at, s.updated_at, s.resume_wanted, s.resume_at, s.held_seq IS NOT NULL AS is_held,"
        " count(e.id) AS waiting, min(e.created_at) AS oldest_waiting_at"
        "  FROM sessions s JOIN agents a ON a.id = s.agent_id"
        "  LEFT JOIN events e ON e.session_id = s.id AND e.processed_at IS NULL"
        " WHERE s.id = %(id)s GROUP BY s.id, a.id",
        {"id": session_id},
    )
    if session is None:
        raise unknown(session_id)
    calls = await rows(
        connection,
        "SELECT id, name, state, verdict, decision IS NOT NULL AS decided, intended_at, dispatched_at, started_at,"
        " sandbox_id FROM tool_calls WHERE session_id = %(id)s AND state IN ('intended', 'dispatched')"
        " ORDER BY intended_at, id",
        {"id": session_id},
    )
    return Standing.model_validate(
        {**session, "turn": await _turn(connection, session_id), "calls": [dict(row) for row in calls]}
    )


async def _turn(connection: Connection, session_id: str) -> RunningTurn | None:
    row = await one(
        connection,
        """
        SELECT t.id, t.attempt, t.started_at, t.worker_id, a.started_at AS attempt_started_at, a.host, a.pid,
               (SELECT r.created_at FROM events r
                 WHERE r.session_id = t.session_id AND r.type = 'span.model_request_start' AND r.turn_id = t.id
                   AND NOT EXISTS (SELECT FROM events d WHERE d.session_id = t.session_id AND d.seq > r.seq
                                      AND d.type = 'span.model_request_end'
                                      AND d.payload ->> 'model_request_start_id' = r.id)
                 ORDER BY r.seq DESC LIMIT 1) AS model_asked_at
          FROM turns t LEFT JOIN turn_attempts a ON a.turn_id = t.id AND a.attempt = t.attempt
         WHERE t.session_id = %(id)s AND t.status = 'running'
        """,
        {"id": session_id},
    )
    if row is None:
        return None
    alive = await living(connection)
    brains = {"worker_lives": row["worker_id"] in alive, "some_brain_lives": "brain" in alive.values()}
    return RunningTurn.model_validate({**row, **brains})
