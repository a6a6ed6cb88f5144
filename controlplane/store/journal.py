"""The side-effect journal, keyed by tool-use id: *intended → dispatched → confirmed | unknown*, or *refused*."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, LiteralString

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict

from controlplane.store import events, sandboxes
from controlplane.store.events import NewEvent
from controlplane.store.fence import fence
from controlplane.store.judging import Judge
from controlplane.store.pool import Connection, Database, one, rows
from controlplane.store.workers import living
from harness_adapters.contract import ToolOutcome, ToolUse
from workflows.contracts import ToolCallInput, TurnInput
from workflows.history import outcome as outcome_of
from workflows.limits import TOOL_PATIENCE
from workflows.outcomes import failure, not_run, unknown, with_edited_input
from workflows.records import CallState, FinalState, JournaledCall, SessionGoneError, TurnStart
from workflows.verdicts import WAITING, Judgement

Effect = Callable[[Connection], Awaitable[tuple[ToolOutcome, dict[str, Any]]]]
"""What a call does to this database, in the transaction that it is given: its outcome, and what to note of it."""

_CALL: LiteralString = """
    SELECT c.*, e.payload AS result, t.begun_seq AS turn_begun_seq,
           (SELECT b.host FROM sandboxes b
             WHERE b.session_id = c.session_id AND b.status <> 'ended'
               AND EXISTS (SELECT FROM workers w WHERE w.kind = 'sandbox' AND w.host = b.host)) AS host
      FROM tool_calls c JOIN turns t ON t.id = c.turn_id LEFT JOIN events e ON e.id = c.result_event_id
     WHERE c.id = %(id)s"""


async def intend(
    connection: Connection, turn: TurnInput, uses: Sequence[ToolUse], *, judgements: Mapping[str, Judgement]
) -> None:
    """Journal tool uses in the transaction that records them; ``judgements`` by their ids."""
    for use in uses:
        await connection.execute(
            "INSERT INTO tool_calls (id, workspace_id, session_id, turn_id, name, input, verdict, rule_id,"
            " verdict_reason, expires_at, on_expiry) VALUES (%(id)s, %(workspace_id)s, %(session_id)s, %(turn_id)s,"
            " %(name)s, %(input)s, %(verdict)s, %(rule_id)s, %(reason)s,"
            " clock_timestamp() + %(expires_after_seconds)s * interval '1 second', %(on_expiry)s)",
            {
                "id": use.event_id,
                **turn.model_dump(),
                "name": use.name,
                "input": Jsonb(events.storable(use.input)),
                **asdict(judgements[use.event_id]),
            },
        )


EXPIRY = "expiry"
"""Who has decided, where nobody had in time."""


class ParkedCall(BaseModel):
    """A call that waits, or waited, for somebody's decision and has no outcome yet."""

    model_config = ConfigDict(frozen=True)

    id: str
    decided: bool


async def parked(connection: Connection, session_id: str) -> list[ParkedCall]:
    """Return the session's calls that wait for a turn to act on a decision, in order."""
    found = await rows(
        connection,
        "SELECT id, decision IS NOT NULL AS decided FROM tool_calls WHERE session_id = %(session)s"
        " AND state = 'intended' AND verdict = ANY(%(waiting)s) ORDER BY intended_at, id",
        {"session": session_id, "waiting": list(WAITING)},
    )
    return [ParkedCall.model_validate(row) for row in found]


async def adopt_results(connection: Connection, session_id: str) -> None:
    """Confirm the calls whose result a client has sent and a turn has taken."""
    await connection.execute(
        "UPDATE tool_calls c SET state = 'confirmed', result_event_id = e.id, ended_at = clock_timestamp()"
        "  FROM events e WHERE c.session_id = %(session)s AND c.state = 'intended' AND c.decision = 'result'"
        "   AND e.session_id = c.session_id AND e.type = 'user.custom_tool_result' AND e.processed_at IS NOT NULL"
        "   AND e.payload ->> 'custom_tool_use_id' = c.id",
        {"session": session_id},
    )


async def close_open(connection: Connection, turn: TurnInput, *, but_parked: bool = False) -> None:
    """Give every call of the session that has no outcome one, so that no tool use is left dangling.

    ``but_parked``: those that wait for a decision go on waiting.
    """
    left = await rows(
        connection,
        "SELECT id, state, edited_input FROM tool_calls WHERE session_id = %(session)s"
        " AND state IN ('intended', 'dispatched')"
        " AND NOT (%(but_parked)s AND state = 'intended' AND verdict = ANY(%(waiting)s))"
        " ORDER BY intended_at FOR UPDATE",
        {"session": turn.session_id, "but_parked": but_parked, "waiting": list(WAITING)},
    )
    for row in left:
        edited = row["edited_input"]
        if row["state"] == "intended":
            outcome = not_run(row["id"], "the turn ended before it was started")
            await _settle(connection, turn, "refused", outcome, edited=edited)
        else:
            await _settle(connection, turn, "unknown", unknown(row["id"], "the turn ended"), edited=edited)


class PostgresJournal:
    """`workflows.records.Journal` on Postgres."""

    def __init__(self, database: Database, *, judge: Judge | None = None):
        self._database = database
        self._judge = judge or Judge()

    async def dispatch(self, turn: TurnStart, use: ToolUse) -> JournaledCall:
        """See `Journal.dispatch`."""
        async with self._database.transaction(turn.input.workspace_id) as connection:
            await fence(connection, turn)
            row = await _lock(connection, use.event_id)
            if row["state"] == "intended":
                meant = use.model_copy(update={"input": _meant(row)})
                now = await self._judge.judge(connection, turn.input.session_id, [meant])
                await _act(connection, turn.input, row, now[use.event_id])
                row = await _lock(connection, use.event_id)
            return _call(row)

    async def refuse(self, turn: TurnStart, use: ToolUse, outcome: ToolOutcome) -> ToolOutcome:
        """See `Journal.refuse`."""
        async with self._database.transaction(turn.input.workspace_id) as connection:
            await fence(connection, turn)
            row = _call(await _lock(connection, use.event_id))
            if row.outcome is not None:
                return row.outcome
            return await _settle(connection, turn.input, "refused", outcome, edited=row.edited_input)

    async def start(self, call: ToolCallInput, *, worker_id: str, task_token: bytes) -> JournaledCall:
        """See `Journal.start`."""
        async with self._database.transaction(call.workspace_id) as connection:
            crashed = await _last_attempt_crashed(connection, call.tool_use_id, worker_id)
            row = await one(
                connection,
                "UPDATE tool_calls SET worker_id = %(worker)s, task_token = %(token)s, attempt_open = true,"
                " crashes = crashes + %(crashed)s,"
                " started_at = coalesce(started_at, clock_timestamp()) WHERE id = %(id)s"
                " RETURNING *, NULL AS result, NULL AS host,"
                " (SELECT begun_seq FROM turns t WHERE t.id = turn_id) AS turn_begun_seq",
                {"worker": worker_id, "token": task_token, "crashed": int(crashed), "id": call.tool_use_id},
            )
            if row is None:
                raise _gone(call.tool_use_id)
            return _call(row)

    async def attempt_ended(self, call: ToolCallInput, *, trouble: str | None = None) -> float:
        """See `Journal.attempt_ended`."""
        async with self._database.transaction(call.workspace_id) as connection:
            row = await one(
                connection,
                "UPDATE tool_calls SET attempt_open = false, trouble = %(trouble)s,"
                " troubled_at = CASE WHEN %(trouble)s::text IS NOT NULL THEN clock_timestamp() END,"
                " troubled_since = CASE WHEN %(trouble)s::text IS NOT NULL THEN CASE"
                # What lies further back was over: an attempt went well for so long, or there was none.
                " WHEN troubled_at > clock_timestamp() - %(patience)s::interval THEN troubled_since"
                " ELSE clock_timestamp() END END WHERE id = %(id)s"
                " RETURNING extract(epoch FROM clock_timestamp() - troubled_since)::float AS seconds",
                {"id": call.tool_use_id, "trouble": trouble, "patience": TOOL_PATIENCE},
            )
            return (row["seconds"] if row else None) or 0.0

    async def bind(self, call: ToolCallInput, sandbox_id: str | None) -> None:
        """See `Journal.bind`."""
        async with self._database.transaction(call.workspace_id) as connection:
            await connection.execute(
                "UPDATE tool_calls SET sandbox_id = %s WHERE id = %s", (sandbox_id, call.tool_use_id)
            )

    async def finish(
        self,
        call: ToolCallInput,
        state: FinalState,
        outcome: ToolOutcome,
        *,
        details: dict[str, Any] | None = None,
        spent: str | None = None,
    ) -> ToolOutcome:
        """See `Journal.finish`."""
        async with self._database.transaction(call.workspace_id) as connection:
            # The session's row first, as everywhere: two transactions that take both never wait for each other.
            await connection.execute("SELECT FROM sessions WHERE id = %s FOR UPDATE", (call.session_id,))
            row = _call(await _lock(connection, call.tool_use_id))
            if row.outcome is not None:
                return row.outcome
            if spent is not None:
                # Retired before, a sandbox could be gone when a worker that died here asks what its command came to.
                await sandboxes.retire(connection, spent, "recycled")
            turn = TurnInput(session_id=call.session_id, workspace_id=call.workspace_id, turn_id=row.turn_id)
            return await _settle(connection, turn, state, outcome, details=details, edited=row.edited_input)

    async def finish_with(self, call: ToolCallInput, effect: Effect) -> FinalState:
        """Have an effect on this database and record its outcome, in one transaction; not if one is recorded."""
        async with self._database.transaction(call.workspace_id) as connection:
            await connection.execute("SELECT FROM sessions WHERE id = %s FOR UPDATE", (call.session_id,))
            row = _call(await _lock(connection, call.tool_use_id))
            if row.outcome is not None:
                return _final(row.state)
            outcome, details = await effect(connection)
            turn = TurnInput(session_id=call.session_id, workspace_id=call.workspace_id, turn_id=row.turn_id)
            await _settle(connection, turn, "confirmed", outcome, details=details, edited=row.edited_input)
            return "confirmed"

    async def read(self, call: ToolCallInput) -> JournaledCall | None:
        """See `Journal.read`."""
        async with self._database.transaction(call.workspace_id) as connection:
            row = await one(connection, _CALL, {"id": call.tool_use_id})
            return _call(row) if row else None


async def _last_attempt_crashed(connection: Connection, tool_use_id: str, worker_id: str) -> bool:
    row = await one(
        connection,
        "SELECT worker_id FROM tool_calls WHERE id = %(id)s AND attempt_open AND worker_id <> %(worker)s FOR UPDATE",
        {"id": tool_use_id, "worker": worker_id},
    )
    return row is not None and row["worker_id"] not in await living(connection)


async def _act(connection: Connection, turn: TurnInput, row: DictRow, now: Judgement) -> None:
    """Dispatch an intended call, refuse it, or let it wait.

    A decision that was taken holds, but what a rule denies by now is not run, whoever allowed it.
    """
    if row["decision"] == "deny":
        await _refuse(connection, turn, row, _denial(row))
    elif now.verdict == "deny":
        await _note(connection, row["id"], now)
        await _refuse(connection, turn, row, now.reason or "")
    elif row["verdict"] == "deny" and now.verdict == "client":
        # Its client has never been told of it.
        await _refuse(connection, turn, row, row["verdict_reason"] or "")
    elif row["decision"] == "allow" or (now.verdict == "allow" and row["verdict"] != "client"):
        if row["decision"] is None:
            await _note(connection, row["id"], now)
        await connection.execute(
            "UPDATE tool_calls SET state = 'dispatched', dispatched_at = clock_timestamp() WHERE id = %s",
            (row["id"],),
        )
    elif row["decision"] is None and row["verdict"] not in WAITING:
        # The agent's settings, or the rules, have changed since the model asked.
        await _note(connection, row["id"], now)


async def _note(connection: Connection, tool_use_id: str, now: Judgement) -> None:
    """Record the verdict that holds now, with the rule that gave it."""
    await connection.execute(
        "UPDATE tool_calls SET verdict = %(verdict)s, rule_id = %(rule_id)s, verdict_reason = %(reason)s,"
        " expires_at = clock_timestamp() + %(expires_after_seconds)s * interval '1 second',"
        " on_expiry = %(on_expiry)s WHERE id = %(id)s",
        {"id": tool_use_id, **asdict(now)},
    )


async def _refuse(connection: Connection, turn: TurnInput, row: DictRow, because: str) -> None:
    refused = failure(row["id"], f"Not run: {because}")
    await _settle(connection, turn, "refused", refused, edited=row["edited_input"])


def _denial(row: DictRow) -> str:
    if row["decided_by"] == EXPIRY:
        return f"nobody decided about this call until {row['expires_at']:%Y-%m-%d %H:%M:%S} UTC, so it was denied"
    said = f": {row['deny_message']}" if row["deny_message"] else ", without giving a reason"
    return f"a person denied this call{said}"


def _meant(row: DictRow) -> dict[str, Any]:
    """Return the arguments that the call is to run with."""
    return row["input"] if row["edited_input"] is None else row["edited_input"]


async def _lock(connection: Connection, tool_use_id: str) -> DictRow:
    row = await one(connection, f"{_CALL} FOR UPDATE OF c", {"id": tool_use_id})
    if row is None:
        raise _gone(tool_use_id)
    return row


def _gone(tool_use_id: str) -> SessionGoneError:
    return SessionGoneError(f"tool call {tool_use_id!r} is not journaled: its session has been deleted")


async def _settle(
    connection: Connection,
    turn: TurnInput,
    state: FinalState,
    outcome: ToolOutcome,
    *,
    details: dict[str, Any] | None = None,
    edited: dict[str, Any] | None = None,
) -> ToolOutcome:
    """Record an outcome, which says what the arguments were changed to, and return it as recorded."""
    if edited is not None:
        outcome = with_edited_input(outcome, edited)
    payload = {
        "tool_use_id": outcome.tool_use_id,
        "content": [block.model_dump(exclude_none=True) for block in outcome.content],
        "is_error": outcome.is_error,
        "tool_call": {"state": state, **(details or {})},
    }
    event = NewEvent(type="agent.tool_result", payload=payload, turn_id=turn.turn_id)
    await events.append(connection, turn.session_id, [event])
    await connection.execute(
        "UPDATE tool_calls SET state = %s, result_event_id = %s, ended_at = clock_timestamp() WHERE id = %s",
        (state, event.id, outcome.tool_use_id),
    )
    return outcome


def _final(state: CallState) -> FinalState:
    return "confirmed" if state in ("intended", "dispatched") else state


def _call(row: DictRow) -> JournaledCall:
    return JournaledCall(
        tool_use_id=row["id"],
        session_id=row["session_id"],
        workspace_id=row["workspace_id"],
        turn_id=row["turn_id"],
        name=row["name"],
        input=_meant(row),
        edited_input=row["edited_input"],
        state=row["state"],
        sandbox_id=row["sandbox_id"],
        outcome=outcome_of(row["id"], row["result"]) if row["result"] else None,
        host=row["host"],
        turn_begun_seq=row["turn_begun_seq"],
        crashes=row["crashes"],
    )
