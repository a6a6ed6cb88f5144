"""The end of a turn, however it comes: nothing of it is left open, and the session's status and its event agree."""

from datetime import UTC, datetime
from typing import Any, LiteralString

from psycopg.types.json import Jsonb

from controlplane.store import deployment_runs, events, journal, ledger, limits, outputs, prices, resuming
from controlplane.store.events import NewEvent
from controlplane.store.pool import Connection, one, rows
from controlplane.store.turn_events import failed, noted, request_lost
from workflows import takings
from workflows.contracts import TurnEnd, TurnInput, TurnResult
from workflows.failures import Failure

ALL_OF_IT = 2**63 - 1
"""As ``held_seq``: nothing that is sent can run before the last turn may go on."""

_STOP_REASONS = {each: each for each in ("retries_exhausted", "refusal", "requires_action", "budget_reached")}


async def settle(
    connection: Connection,
    turn: TurnInput,
    reason: TurnEnd,
    *,
    failure: Failure | None = None,
    note: str | None = None,
) -> TurnResult:
    """Record the turn's end within the caller's transaction, which holds the session's row.

    ``failure``: why it failed, unless that is recorded already. ``note``: what to know of one that did not fail.
    """
    await journal.close_open(connection, turn, but_parked=reason == "requires_action")
    await _pass_interrupts(connection, turn)
    if reason == "interrupted":
        await deployment_runs.interrupted(connection, turn.session_id)
    stop_reason: dict[str, Any] = {"type": _STOP_REASONS.get(reason, "end_turn")}
    if reason == "requires_action":
        stop_reason["event_ids"] = [call.id for call in await journal.parked(connection, turn.session_id)]
    if reason == "budget_reached":
        await _rest(connection, turn.session_id, stop_reason)
    ending = [
        *await lose_requests(connection, turn),
        *([failed(failure)] if failure else []),
        *([noted(note)] if note else []),
        NewEvent(
            type="session.status_idle",
            payload={"stop_reason": stop_reason, **await outputs.told(connection, turn)},
        ),
    ]
    await events.append(connection, turn.session_id, owned(turn, ending))
    await connection.execute(
        "WITH ended AS (UPDATE turns SET status = 'ended', ended_at = clock_timestamp(), outcome = %(outcome)s"
        " WHERE id = %(turn)s RETURNING extract(epoch FROM clock_timestamp() - started_at) * 1000 AS ms)"
        " UPDATE sessions SET status = 'idle', stop_reason = %(stop)s, active_ms = active_ms + ended.ms,"
        " failure = CASE WHEN %(failed)s THEN coalesce(%(failure)s, failure) END,"
        " held_seq = CASE WHEN %(parked)s THEN %(all)s WHEN NOT %(failed)s THEN NULL"
        " WHEN coalesce(%(failure)s::jsonb, failure) ->> 'cause' = 'agent_frozen' THEN %(all)s ELSE last_seq END"
        " FROM ended WHERE id = %(session)s",
        {
            "outcome": Jsonb({"reason": reason}),
            "turn": turn.turn_id,
            "stop": Jsonb(stop_reason),
            "session": turn.session_id,
            "failed": reason == "retries_exhausted",
            "parked": reason == "budget_reached",
            "all": ALL_OF_IT,
            "failure": Jsonb(recorded(turn, failure)) if failure else None,
        },
    )
    await _go_on_if_thawed(connection, turn.session_id)
    return TurnResult(reason=reason, more=await more(connection, turn.session_id))


async def _go_on_if_thawed(connection: Connection, session_id: str) -> None:
    """Resume what came to rest in the frost, if the thaw came first: it wakes those that rest already."""
    thawed = await one(
        connection,
        "SELECT a.frozen_at IS NULL AS now FROM sessions s JOIN agents a ON a.id = s.agent_id"
        " WHERE s.id = %(id)s AND s.failure ->> 'cause' = 'agent_frozen' FOR SHARE OF a",
        {"id": session_id},
    )
    if thawed is not None and thawed["now"]:
        await resuming.want(connection, session_id)


async def _rest(connection: Connection, session_id: str, stop_reason: dict[str, Any]) -> None:
    """Say which budget is spent; one of a day or a month lets the session go on by itself in the next."""
    unpriced = await one(
        connection,
        "SELECT failure ->> 'message' AS message, agent -> 'model' ->> 'id' AS model, workspace_id FROM sessions"
        " WHERE id = %(id)s AND failure ->> 'cause' = 'unpriced'",
        {"id": session_id},
    )
    if unpriced is not None:
        await prices.hold(connection, unpriced["workspace_id"])
        if await prices.of_model(connection, unpriced["workspace_id"], unpriced["model"]) is not None:
            # It was set in this moment: whoever did wakes those that rest already.
            await resuming.want(connection, session_id)
            return
        stop_reason |= {"message": unpriced["message"], "unpriced": unpriced["model"]}
        return
    blocked = await limits.blocked(connection, session_id)
    if blocked is None:
        # It was raised in this moment: what could not be asked before can be asked now.
        await resuming.want(connection, session_id, after_seconds=1)
        return
    stop_reason["message"] = blocked.message
    if blocked.budget_id is not None:
        stop_reason["budget_id"] = blocked.budget_id
    if blocked.until is not None:
        stop_reason["until"] = blocked.until.isoformat()
        await resuming.want(connection, session_id, at=blocked.until)


def recorded(turn: TurnInput, failure: Failure) -> dict[str, Any]:
    """Return a failure as a session keeps it."""
    return {**failure.model_dump(mode="json"), "turn_id": turn.turn_id, "at": datetime.now(UTC).isoformat()}


async def lose_requests(connection: Connection, turn: TurnInput) -> list[NewEvent]:
    """Close the turn's model requests that have no end, for what made them is no more, and return the events."""
    lost = await rows(
        connection,
        "SELECT started.id FROM turns t JOIN events AS started ON started.session_id = t.session_id"
        "   AND started.seq > t.begun_seq AND started.type = 'span.model_request_start' AND started.turn_id = t.id"
        " WHERE t.id = %(turn)s AND NOT EXISTS (SELECT FROM events AS ended"
        " WHERE ended.session_id = t.session_id AND ended.type = 'span.model_request_end' AND ended.seq > started.seq"
        "   AND ended.payload ->> 'model_request_start_id' = started.id) ORDER BY started.seq",
        {"turn": turn.turn_id},
    )
    await ledger.release_all(connection, turn.session_id)
    return [request_lost(row["id"]) for row in lost]


def owned(turn: TurnInput, new: list[NewEvent]) -> list[NewEvent]:
    """Mark events as the turn's."""
    return [event.model_copy(update={"turn_id": turn.turn_id}) for event in new]


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
    idle = NewEvent(type="session.status_idle", payload={"stop_reason": stop_reason})
    await events.append(connection, turn.session_id, owned(turn, [idle]))
    await connection.execute(
        "UPDATE sessions SET stop_reason = %s WHERE id = %s", (Jsonb(stop_reason), turn.session_id)
    )
    return True


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


async def _pass_interrupts(connection: Connection, turn: TurnInput) -> None:
    """What meant this turn must not stop the next one, however this one has ended."""
    ids = [row["id"] for row in await rows(connection, _MEANT_FOR, _meant_for(turn))]
    await connection.execute("UPDATE events SET processed_at = clock_timestamp() WHERE id = ANY(%s)", (ids,))


def _meant_for(turn: TurnInput) -> dict[str, object]:
    return {"turn": turn.turn_id, "starters": list(takings.STARTS_A_TURN)}
