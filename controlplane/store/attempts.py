"""The attempts at a turn: what became of each, and when there have been enough."""

from typing import Literal

from controlplane.store.pool import Connection, one, rows
from controlplane.store.workers import living
from workflows.contracts import TurnInput
from workflows.failures import Attempt, Failure, of_attempts
from workflows.history import COMPACTED

_PROGRESS = [
    "agent.message", "agent.thinking", "agent.tool_use", "agent.custom_tool_use", "agent.tool_result", COMPACTED,
]  # fmt: skip

_CUT_OFF = "lost its connection to Postgres or Temporal"


async def begin(connection: Connection, turn: TurnInput, attempt: int, *, worker_id: str) -> Failure | None:
    """Record that an attempt begins, or return why it does not: those before it came to nothing."""
    await _close_last(connection, turn.turn_id, worker_id=worker_id)
    progress_seq = await _progress(connection, turn.session_id)
    if given_up := of_attempts(await listing(connection, turn.turn_id), progress_seq=progress_seq):
        return given_up
    await connection.execute(
        "INSERT INTO turn_attempts (turn_id, attempt, workspace_id, worker_id, host, pid, progress_seq)"
        " SELECT %(turn)s, %(attempt)s, %(workspace)s, %(worker)s, w.host, w.pid, %(progress)s"
        "   FROM (SELECT) AS one LEFT JOIN workers w ON w.id = %(worker)s",
        {
            "turn": turn.turn_id,
            "attempt": attempt,
            "workspace": turn.workspace_id,
            "worker": worker_id,
            "progress": progress_seq,
        },
    )
    return None


async def end(
    connection: Connection, turn_id: str, attempt: int, *, ending: Literal["failed", "stopped"], error: str | None
) -> None:
    """Record how an attempt ended that did not end its turn."""
    await connection.execute(
        "UPDATE turn_attempts SET ended_at = clock_timestamp(), ending = %s, error = %s"
        " WHERE turn_id = %s AND attempt = %s AND ending IS NULL",
        (ending, error, turn_id, attempt),
    )


async def listing(connection: Connection, turn_id: str) -> list[Attempt]:
    """Return the attempts at a turn in order."""
    found = await rows(
        connection,
        "SELECT attempt, worker_id, host, pid, progress_seq, started_at, ended_at, ending, error FROM turn_attempts"
        " WHERE turn_id = %(id)s ORDER BY attempt",
        {"id": turn_id},
    )
    return [Attempt.model_validate(row) for row in found]


async def _close_last(connection: Connection, turn_id: str, *, worker_id: str) -> None:
    """Say of an attempt that never said how it ended whether its worker died."""
    last = await one(
        connection,
        "SELECT attempt, worker_id FROM turn_attempts WHERE turn_id = %(id)s AND ending IS NULL",
        {"id": turn_id},
    )
    if last is None:
        return
    if last["worker_id"] == worker_id or last["worker_id"] in await living(connection):
        await end(connection, turn_id, last["attempt"], ending="failed", error=_CUT_OFF)
        return
    await connection.execute(
        "UPDATE turn_attempts SET ended_at = clock_timestamp(), ending = 'crashed'"
        " WHERE turn_id = %s AND attempt = %s",
        (turn_id, last["attempt"]),
    )


async def _progress(connection: Connection, session_id: str) -> int:
    row = await one(
        connection,
        "SELECT coalesce(max(newest.seq), 0) AS seq FROM unnest(%(types)s::text[]) AS wanted(type), LATERAL ("
        "   SELECT seq FROM events e WHERE e.session_id = %(id)s AND e.type = wanted.type"
        "    ORDER BY seq DESC LIMIT 1) AS newest",
        {"id": session_id, "types": _PROGRESS},
    )
    return row["seq"] if row else 0
