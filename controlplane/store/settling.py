"""The end of a turn, however it comes: nothing of it is left open, and the session's status and its event agree."""

from datetime import UTC, datetime
from typing import Any

from psycopg.types.json import Jsonb

from controlplane.store import deployment_runs, events, journal, ledger, limits, outputs, prices, resuming
from controlplane.store.events import NewEvent
from controlplane.store.pool import Connection, one, rows
from controlplane.store.queue import more, pass_interrupts
from controlplane.store.turn_events import failed, noted, owned, request_lost
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
    await pass_interrupts(connection, turn)
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
            payload={
                "stop_reason": stop_reason,
                **({"interrupted": True} if reason == "interrupted" else {}),
                **await outputs.told(connection, turn),
            },
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
