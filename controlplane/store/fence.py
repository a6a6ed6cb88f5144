"""The fence: which attempt of a turn may write, and the order in which rows are locked."""

from psycopg.rows import DictRow

from controlplane.store.pool import Connection, one
from workflows.records import SessionGoneError, SupersededError, TurnStart


async def lock_session(connection: Connection, session_id: str) -> DictRow:
    """Lock a session's row, always before any other row of it; raises `SessionGoneError`."""
    session = await one(
        connection,
        "SELECT id, agent, status, resume_wanted, last_seq FROM sessions WHERE id = %(id)s FOR UPDATE",
        {"id": session_id},
    )
    if session is None or session["status"] == "terminated":
        raise SessionGoneError(f"session {session_id!r} is gone")
    return session


async def fence(connection: Connection, turn: TurnStart) -> None:
    """Lock the session and the turn; raises `SupersededError` unless this attempt is the turn's newest."""
    await lock_session(connection, turn.input.session_id)
    row = await one(
        connection,
        "SELECT attempt FROM turns WHERE id = %(id)s AND status = 'running' FOR UPDATE",
        {"id": turn.input.turn_id},
    )
    if row is None or row["attempt"] != turn.attempt:
        raise SupersededError(f"attempt {turn.attempt} of turn {turn.input.turn_id!r} has been superseded")
