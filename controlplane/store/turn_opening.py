"""How a turn begins, and each of its attempts."""

import hashlib
from typing import LiteralString

from controlplane.store import events, journal
from controlplane.store.events import NewEvent
from controlplane.store.fence import LockedSession, lock_session
from controlplane.store.pool import Connection, one
from controlplane.store.queue import called_off, mark_taken, more, takeable, withdraw
from controlplane.store.settling import lose_requests
from controlplane.store.turn_events import owned
from workflows import takings
from workflows.contracts import TurnInput, TurnResult

_BEGIN: LiteralString = """
    INSERT INTO turns (id, workspace_id, session_id, begun_seq, run_id)
    SELECT %(id)s, %(workspace)s, %(session)s, %(seq)s,
           CASE WHEN EXISTS (SELECT FROM events WHERE id = ANY(%(inputs)s) AND type = ANY(%(starters)s))
                THEN (SELECT r.id FROM sessions s JOIN deployment_runs r ON r.deployment_id = s.deployment_id
                       WHERE s.id = %(session)s AND r.session_id = s.id AND r.state = 'running'
                         AND r.inputs ?| %(inputs)s LIMIT 1)
                ELSE (SELECT run_id FROM turns WHERE session_id = %(session)s ORDER BY started_at DESC LIMIT 1) END"""
"""Begin a turn: of the run that its message came from or, without one, of the run of the turn that it continues."""


async def open_turn(connection: Connection, turn: TurnInput, session: LockedSession) -> TurnInput | TurnResult:
    """Return the turn to work on: one that runs, also if its workflow forgot it, or a new one if there is a cause."""
    row = await one(connection, "SELECT status, outcome FROM turns WHERE id = %(id)s", {"id": turn.turn_id})
    if row is not None and row["status"] == "ended":
        return TurnResult(reason=row["outcome"]["reason"], more=await more(connection, turn.session_id))
    running = await one(
        connection,
        "SELECT id FROM turns WHERE session_id = %(id)s AND status = 'running'",
        {"id": turn.session_id},
    )
    if running is not None:
        return turn.model_copy(update={"turn_id": running["id"]})
    if await withdraw(connection, turn):
        session = await lock_session(connection, turn.session_id)
    taken = await takeable(connection, turn.session_id)
    await mark_taken(connection, taken.passed, position=session.last_seq)
    if await called_off(connection, turn.session_id, taken.passed):
        session = await lock_session(connection, turn.session_id)
    # What is tried again comes before what was sent after it.
    inputs = [] if session.resume_wanted else taken.inputs
    if session.frozen or not (inputs or session.resume_wanted):
        return TurnResult(reason="nothing_to_do")
    await mark_taken(connection, inputs, position=session.last_seq + 1)
    await journal.adopt_results(connection, turn.session_id)
    await connection.execute(
        _BEGIN,
        {
            "id": turn.turn_id,
            "workspace": turn.workspace_id,
            "session": turn.session_id,
            "seq": session.last_seq,
            "inputs": inputs,
            "starters": list(takings.STARTS_A_TURN),
        },
    )
    await connection.execute(
        "UPDATE sessions SET status = 'running', resume_wanted = false, resume_at = NULL, failure = NULL,"
        " held_seq = NULL WHERE id = %s",
        (turn.session_id,),
    )
    await events.append(connection, turn.session_id, owned(turn, [NewEvent(type="session.status_running")]))
    return turn


async def next_attempt(
    connection: Connection, turn: TurnInput, worker_id: str, task_token: bytes, model_token: str
) -> int:
    """Begin an attempt, whose token is good for the agent's models as they are now, and for no other."""
    row = await one(
        connection,
        "UPDATE turns t SET attempt = attempt + 1, worker_id = %(worker)s, task_token = %(task)s,"
        " model_token_hash = %(model)s, models = jsonb_build_array(s.agent -> 'model' -> 'id')"
        " || coalesce(s.agent -> 'model' -> 'fallbacks', '[]') FROM sessions s"
        " WHERE s.id = t.session_id AND t.id = %(id)s RETURNING t.attempt",
        {
            "worker": worker_id,
            "task": task_token,
            "model": hashlib.sha256(model_token.encode()).digest(),
            "id": turn.turn_id,
        },
    )
    return row["attempt"] if row else 0


async def go_on(connection: Connection, turn: TurnInput, attempt: int) -> None:
    """Say that the turn goes on after a failure, and close the model request that was lost with it."""
    again = [
        *await lose_requests(connection, turn),
        NewEvent(type="session.status_rescheduled", payload={"attempt": attempt}),
        NewEvent(type="session.status_running"),
    ]
    await events.append(connection, turn.session_id, owned(turn, again))
    await connection.execute(
        "UPDATE sessions SET status = 'running', failure = NULL WHERE id = %s", (turn.session_id,)
    )
