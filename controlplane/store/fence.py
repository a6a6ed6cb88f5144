"""The fence: which attempt of a turn may write, and the order in which rows are locked."""

from dataclasses import dataclass

from controlplane.store.pool import Connection, one
from workflows.records import SessionGoneError, SupersededError, TurnStart


@dataclass(frozen=True)
class LockedSession:
    """What a turn needs to know of the session whose row its transaction holds."""

    last_seq: int
    resume_wanted: bool
    frozen: bool


async def lock_session(connection: Connection, session_id: str) -> LockedSession:
    """Lock a session's row, always before any other row of it; raises `SessionGoneError`.

    Its agent's row is held too: only what is locked is read again after a wait, and no freeze may pass meanwhile.
    """
    row = await one(
        connection,
        "SELECT s.resume_wanted AND coalesce(s.resume_at <= clock_timestamp(), true) AS resume_wanted, s.last_seq,"
        " a.frozen_at IS NOT NULL AS frozen FROM sessions s JOIN agents a ON a.id = s.agent_id"
        " WHERE s.id = %(id)s AND s.archived_at IS NULL FOR UPDATE OF s FOR SHARE OF a",
        {"id": session_id},
    )
    if row is None:
        raise SessionGoneError(f"session {session_id!r} is gone")
    return LockedSession(**row)


async def fence(connection: Connection, turn: TurnStart) -> None:
    """Lock the session and the turn; raises `SupersededError` unless this attempt is the turn's newest."""
    row = await one(
        connection,
        "SELECT t.attempt FROM sessions s JOIN turns t ON t.session_id = s.id"
        " WHERE t.id = %(id)s AND t.status = 'running' FOR UPDATE OF s, t",
        {"id": turn.input.turn_id},
    )
    if row is None or row["attempt"] != turn.attempt:
        raise SupersededError(f"attempt {turn.attempt} of turn {turn.input.turn_id!r} has been superseded")
