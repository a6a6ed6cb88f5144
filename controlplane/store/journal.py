"""The side-effect journal: *intended → dispatched → confirmed | unknown*, keyed by the tool use's id."""

from collections.abc import Sequence
from typing import Any, Literal

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from controlplane.store import events
from controlplane.store.events import NewEvent
from controlplane.store.fence import fence
from controlplane.store.pool import Connection, Database, one, rows
from harness_adapters.contract import TextBlock, ToolOutcome, ToolUse
from workflows.contracts import ToolCallInput
from workflows.records import JournaledCall, SessionGoneError, TurnStart

FinalState = Literal["confirmed", "unknown", "refused"]


async def intend(connection: Connection, turn: TurnStart, uses: Sequence[ToolUse]) -> None:
    """Journal tool uses in the transaction that records them."""
    for use in uses:
        await connection.execute(
            "INSERT INTO tool_calls (id, workspace_id, session_id, turn_id, name, input, verdict)"
            " VALUES (%s, %s, %s, %s, %s, %s, 'allow')",
            (
                use.event_id,
                turn.input.workspace_id,
                turn.input.session_id,
                turn.input.turn_id,
                use.name,
                Jsonb(use.input),
            ),
        )


async def close_open(connection: Connection, turn: TurnStart) -> None:
    """Give every call of the session that has no outcome one, so that no tool use is left dangling."""
    left = await rows(
        connection,
        "SELECT id, state FROM tool_calls WHERE session_id = %(session)s AND state IN ('intended', 'dispatched')"
        " ORDER BY intended_at FOR UPDATE",
        {"session": turn.input.session_id},
    )
    for row in left:
        if row["state"] == "intended":
            text, state = "Not run: the turn ended before this call was started.", "refused"
        else:
            text, state = "Outcome unknown: the turn ended while this call was in hand. Check its effects.", "unknown"
        outcome = ToolOutcome(tool_use_id=row["id"], content=[TextBlock(text=text)], is_error=True)
        await _settle(connection, turn.input.session_id, turn.input.turn_id, state, outcome, {})


class PostgresJournal:
    """`workflows.records.Journal` on Postgres."""

    def __init__(self, database: Database):
        self._database = database

    async def dispatch(self, turn: TurnStart, use: ToolUse) -> JournaledCall:
        """See `Journal.dispatch`."""
        async with self._database.transaction(turn.input.workspace_id) as connection:
            await fence(connection, turn)
            await connection.execute(
                "UPDATE tool_calls SET state = 'dispatched', dispatched_at = clock_timestamp()"
                " WHERE id = %s AND state = 'intended'",
                (use.event_id,),
            )
            return _call(await _lock(connection, use.event_id))

    async def refuse(self, turn: TurnStart, use: ToolUse, outcome: ToolOutcome) -> ToolOutcome:
        """See `Journal.refuse`."""
        async with self._database.transaction(turn.input.workspace_id) as connection:
            await fence(connection, turn)
            row = _call(await _lock(connection, use.event_id))
            if row.outcome is not None:
                return row.outcome
            await _settle(connection, row.session_id, row.turn_id, "refused", outcome, {})
            return outcome

    async def start(self, call: ToolCallInput, *, worker_id: str, task_token: bytes) -> JournaledCall:
        """See `Journal.start`."""
        async with self._database.transaction(call.workspace_id) as connection:
            before = _call(await _lock(connection, call.tool_use_id))
            await connection.execute(
                "UPDATE tool_calls SET worker_id = %s, task_token = %s,"
                " started_at = coalesce(started_at, clock_timestamp()) WHERE id = %s",
                (worker_id, task_token, call.tool_use_id),
            )
            return before

    async def bind(self, call: ToolCallInput, sandbox_id: str) -> None:
        """See `Journal.bind`."""
        async with self._database.transaction(call.workspace_id) as connection:
            await connection.execute(
                "UPDATE tool_calls SET sandbox_id = %s WHERE id = %s", (sandbox_id, call.tool_use_id)
            )

    async def finish(
        self,
        call: ToolCallInput,
        state: Literal["confirmed", "unknown"],
        outcome: ToolOutcome,
        *,
        details: dict[str, Any] | None = None,
    ) -> ToolOutcome:
        """See `Journal.finish`."""
        async with self._database.transaction(call.workspace_id) as connection:
            # The session's row first, as everywhere: two transactions that take both never wait for each other.
            await connection.execute("SELECT FROM sessions WHERE id = %s FOR UPDATE", (call.session_id,))
            row = _call(await _lock(connection, call.tool_use_id))
            if row.outcome is not None:
                return row.outcome
            await _settle(connection, call.session_id, row.turn_id, state, outcome, details or {})
            return outcome

    async def read(self, call: ToolCallInput) -> JournaledCall | None:
        """See `Journal.read`."""
        async with self._database.transaction(call.workspace_id) as connection:
            row = await one(
                connection,
                "SELECT c.*, e.payload AS result FROM tool_calls c LEFT JOIN events e ON e.id = c.result_event_id"
                " WHERE c.id = %(id)s",
                {"id": call.tool_use_id},
            )
            return _call(row) if row else None


async def _lock(connection: Connection, tool_use_id: str) -> DictRow:
    row = await one(
        connection,
        "SELECT c.*, e.payload AS result FROM tool_calls c LEFT JOIN events e ON e.id = c.result_event_id"
        " WHERE c.id = %(id)s FOR UPDATE OF c",
        {"id": tool_use_id},
    )
    if row is None:
        raise SessionGoneError(f"tool call {tool_use_id!r} is not journaled: its session has been deleted")
    return row


async def _settle(
    connection: Connection,
    session_id: str,
    turn_id: str,
    state: FinalState,
    outcome: ToolOutcome,
    details: dict[str, Any],
) -> None:
    payload = {
        "tool_use_id": outcome.tool_use_id,
        "content": [block.model_dump(exclude_none=True) for block in outcome.content],
        "is_error": outcome.is_error,
        "tool_call": {"state": state, **details},
    }
    event = NewEvent(type="agent.tool_result", payload=payload, turn_id=turn_id)
    await events.append(connection, session_id, [event])
    await connection.execute(
        "UPDATE tool_calls SET state = %s, result_event_id = %s, ended_at = clock_timestamp() WHERE id = %s",
        (state, event.id, outcome.tool_use_id),
    )


def _call(row: DictRow) -> JournaledCall:
    return JournaledCall(
        tool_use_id=row["id"],
        session_id=row["session_id"],
        workspace_id=row["workspace_id"],
        turn_id=row["turn_id"],
        name=row["name"],
        input=row["input"],
        state=row["state"],
        verdict=row["verdict"],
        started=row["started_at"] is not None,
        sandbox_id=row["sandbox_id"],
        outcome=ToolOutcome.model_validate(row["result"]) if row["result"] else None,
    )
