"""A session's queue: what waits to be taken, what a turn would take of it, and the interrupts that mean one."""

from typing import LiteralString

from psycopg.types.json import Jsonb

from controlplane.store import deployment_runs, events, journal
from controlplane.store.events import NewEvent
from controlplane.store.pool import Connection, one, rows
from controlplane.store.turn_events import owned
from workflows import takings
from workflows.contracts import TurnInput


async def waiting(connection: Connection, session_id: str) -> list[takings.Waiting]:
    """Return the session's queue."""
    found = await rows(
        connection,
        "SELECT id, type, seq, payload ->> 'delivery' = 'steer' AS steers FROM events"
        " WHERE session_id = %(id)s AND processed_at IS NULL ORDER BY seq",
        {"id": session_id},
    )
    return [
        takings.Waiting(id=row["id"], type=row["type"], steers=bool(row["steers"]), seq=row["seq"]) for row in found
    ]


async def takeable(connection: Connection, session_id: str) -> takings.Taken:
    """Return what a turn would take now: nothing while a call waits for a decision, and then the decisions."""
    calls, queue = await journal.parked(connection, session_id), await waiting(connection, session_id)
    if not calls:
        held = await one(connection, "SELECT held_seq FROM sessions WHERE id = %(id)s", {"id": session_id})
        return takings.take(queue, held_seq=held["held_seq"] if held and queue else None)
    return takings.decisions(queue) if all(call.decided for call in calls) else takings.Taken()


async def more(connection: Connection, session_id: str) -> bool:
    """Say whether the queue holds something for another turn."""
    return bool((await takeable(connection, session_id)).inputs)


async def withdraw(connection: Connection, turn: TurnInput) -> bool:
    """Refuse the calls that wait, if an interrupt waits too: nobody need decide any more. Say whether it was so."""
    calls, queue = await journal.parked(connection, turn.session_id), await waiting(connection, turn.session_id)
    if not calls or all(event.type != "user.interrupt" for event in queue):
        return False
    await journal.close_open(connection, turn)
    moot = [event.id for event in queue if event.type == "user.interrupt" or event.type in takings.DECISIONS]
    await connection.execute("UPDATE events SET processed_at = clock_timestamp() WHERE id = ANY(%s)", (moot,))
    await deployment_runs.interrupted(connection, turn.session_id)
    stop_reason = {"type": "end_turn"}
    idle = NewEvent(type="session.status_idle", payload={"stop_reason": stop_reason, "interrupted": True})
    await events.append(connection, turn.session_id, owned(turn, [idle]))
    await connection.execute(
        "UPDATE sessions SET stop_reason = %s WHERE id = %s", (Jsonb(stop_reason), turn.session_id)
    )
    return True


async def called_off(connection: Connection, session_id: str, passed: list[str]) -> bool:
    """Forget what is to be tried again if an interrupt came when nothing ran; say whether it was so."""
    forgotten = await connection.execute(
        "UPDATE sessions SET resume_wanted = false, resume_at = NULL, held_seq = NULL WHERE id = %s"
        " AND (resume_wanted OR held_seq IS NOT NULL) AND EXISTS"
        " (SELECT FROM events WHERE id = ANY(%s) AND type = 'user.interrupt')",
        (session_id, passed),
    )
    return bool(forgotten.rowcount)


async def mark_taken(connection: Connection, ids: list[str], *, position: int) -> None:
    """Place inputs in the conversation just before the event that will have ``position`` as its seq."""
    if ids:
        await connection.execute(
            "UPDATE events SET processed_at = clock_timestamp(), position = %s WHERE id = ANY(%s)", (position, ids)
        )


_MEANT_FOR: LiteralString = """
    SELECT i.id FROM events i JOIN turns t ON t.session_id = i.session_id
     WHERE t.id = %(turn)s AND i.processed_at IS NULL AND i.type = 'user.interrupt'
       AND (i.seq > t.begun_seq
            OR NOT EXISTS (SELECT FROM events m WHERE m.session_id = i.session_id AND m.processed_at IS NULL
                                                  AND m.type = ANY(%(starters)s) AND m.seq < i.seq))"""
"""The waiting interrupts that mean a turn: sent while it ran, or after its own inputs and before the next ones."""


async def interrupt_waits(connection: Connection, turn: TurnInput) -> bool:
    """Say whether an interrupt waits that means this turn."""
    return await one(connection, _MEANT_FOR, _meant_for(turn)) is not None


async def pass_interrupts(connection: Connection, turn: TurnInput) -> None:
    """What meant this turn must not stop the next one, however this one has ended."""
    ids = [row["id"] for row in await rows(connection, _MEANT_FOR, _meant_for(turn))]
    await connection.execute("UPDATE events SET processed_at = clock_timestamp() WHERE id = ANY(%s)", (ids,))


def _meant_for(turn: TurnInput) -> dict[str, object]:
    return {"turn": turn.turn_id, "starters": list(takings.STARTS_A_TURN)}
