"""Turns: what they take from the queue, what they record, and the fence that keeps an older attempt out."""

import hashlib
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from controlplane.store import deltas, events, journal
from controlplane.store.events import NewEvent
from controlplane.store.fence import fence, lock_session
from controlplane.store.pool import Connection, Database, one, rows
from controlplane.store.turn_events import block_event, model_error, request_lost, turn_error
from harness_adapters import toolset
from harness_adapters.contract import (
    HarnessSpec,
    ModelAnswered,
    ModelRequestFailed,
    ModelRequestStarted,
    PreviewStarted,
    TextDelta,
    ToolUse,
)
from workflows import history, takings
from workflows.contracts import TurnEnd, TurnInput, TurnResult
from workflows.limits import MAX_TURN_ATTEMPTS
from workflows.records import TurnStart
from workflows.verdicts import denials


class PostgresTurns:
    """`workflows.records.TurnRecords` on Postgres."""

    def __init__(self, database: Database, *, gateway_url: str):
        self._database = database
        self._gateway_url = gateway_url

    async def begin(self, turn: TurnInput, *, worker_id: str, task_token: bytes) -> TurnStart | TurnResult:
        """See `TurnRecords.begin`."""
        token = secrets.token_urlsafe(32)
        async with self._database.transaction(turn.workspace_id) as connection:
            session = await lock_session(connection, turn.session_id)
            row = await one(connection, "SELECT status, outcome FROM turns WHERE id = %(id)s", {"id": turn.turn_id})
            if row is not None and row["status"] == "ended":
                return TurnResult(reason=row["outcome"]["reason"], more=await _more(connection, turn.session_id))
            if row is None and not await _open_turn(connection, turn, session):
                return TurnResult(reason="nothing_to_do")
            attempt = await _next_attempt(connection, turn, worker_id, task_token, token)
            if attempt > 1:
                await _recover(connection, turn, attempt)
            logged = await _logged(connection, turn.session_id)
            start = TurnStart(
                input=turn,
                attempt=attempt,
                denied=denials(session["agent"].get("tools") or []),
                harness=session["agent"].get("harness") or "builtin",
                spec=_spec(turn, session, gateway_url=self._gateway_url, token=token),
                history=history.build(logged),
            )
        if attempt > MAX_TURN_ATTEMPTS:
            message = f"the turn was tried {MAX_TURN_ATTEMPTS} times and its worker died or failed each time"
            return await self.end(start, "retries_exhausted", message=message)
        return start

    async def model_request_started(self, turn: TurnStart, started: ModelRequestStarted) -> None:
        """See `TurnRecords.model_request_started`."""
        async with self._fenced(turn) as connection:
            await connection.execute(
                "UPDATE sessions SET status = 'running' WHERE id = %s AND status = 'rescheduling'",
                (turn.input.session_id,),
            )
            await _append(connection, turn, [NewEvent(id=started.request_id, type="span.model_request_start")])

    async def preview(self, turn: TurnStart, preview: PreviewStarted | TextDelta) -> None:
        """See `TurnRecords.preview`."""
        async with self._database.transaction(turn.input.workspace_id) as connection:
            await deltas.publish(connection, turn.input.session_id, preview)

    async def model_answered(self, turn: TurnStart, answered: ModelAnswered) -> None:
        """See `TurnRecords.model_answered`."""
        usage = answered.usage.model_dump()
        span_end = NewEvent(
            type="span.model_request_end",
            payload={
                "model_request_start_id": answered.answer.request_id,
                "is_error": False,
                "model_usage": usage,
                "stop_reason": answered.stop_reason,
            },
        )
        blocks = [block_event(block, answered.answer.request_id) for block in answered.answer.blocks]
        async with self._fenced(turn) as connection:
            await _append(connection, turn, [*blocks, span_end])
            await _add_usage(connection, turn.input.session_id, usage)
            uses = [block for block in answered.answer.blocks if isinstance(block, ToolUse)]
            await journal.intend(connection, turn, uses)

    async def model_request_failed(self, turn: TurnStart, failed: ModelRequestFailed) -> None:
        """See `TurnRecords.model_request_failed`."""
        retrying = failed.retry_in_seconds is not None
        async with self._fenced(turn) as connection:
            await _append(
                connection,
                turn,
                [
                    request_lost(failed.request_id),
                    model_error(failed),
                    *([NewEvent(type="session.status_rescheduled")] if retrying else []),
                ],
            )
            if retrying:
                await connection.execute(
                    "UPDATE sessions SET status = 'rescheduling' WHERE id = %s", (turn.input.session_id,)
                )

    async def end(self, turn: TurnStart, reason: TurnEnd, *, message: str | None = None) -> TurnResult:
        """See `TurnRecords.end`."""
        stop_reason = {"type": _STOP_REASONS.get(reason, "end_turn")}
        async with self._fenced(turn) as connection:
            await journal.close_open(connection, turn)
            await _finish_inputs(connection, turn.input.session_id, interrupted=reason == "interrupted")
            ending: list[NewEvent] = []
            if message is not None:
                ending.append(turn_error(message))
            ending.append(NewEvent(type="session.status_idle", payload={"stop_reason": stop_reason}))
            await _append(connection, turn, ending)
            await connection.execute(
                "UPDATE turns SET status = 'ended', ended_at = clock_timestamp(), outcome = %s WHERE id = %s",
                (Jsonb({"reason": reason, "message": message}), turn.input.turn_id),
            )
            await connection.execute(
                "UPDATE sessions SET status = 'idle', stop_reason = %s, active_ms = active_ms + "
                "(SELECT extract(epoch FROM clock_timestamp() - started_at) * 1000 FROM turns WHERE id = %s)"
                " WHERE id = %s",
                (Jsonb(stop_reason), turn.input.turn_id, turn.input.session_id),
            )
            return TurnResult(reason=reason, more=await _more(connection, turn.input.session_id))

    @asynccontextmanager
    async def _fenced(self, turn: TurnStart) -> AsyncGenerator[Connection]:
        async with self._database.transaction(turn.input.workspace_id) as connection:
            await fence(connection, turn)
            yield connection


_STOP_REASONS = {"retries_exhausted": "retries_exhausted", "refusal": "refusal"}


async def _append(connection: Connection, turn: TurnStart, new: list[NewEvent]) -> None:
    owned = [event.model_copy(update={"turn_id": turn.input.turn_id}) for event in new]
    await events.append(connection, turn.input.session_id, owned)


async def _open_turn(connection: Connection, turn: TurnInput, session: DictRow) -> bool:
    """Make the turn's row and take its inputs; False if there is nothing to do."""
    orphans = await rows(
        connection,
        "UPDATE turns SET status = 'ended', ended_at = clock_timestamp(),"
        " outcome = '{\"reason\": \"superseded\"}' WHERE session_id = %(id)s AND status = 'running' RETURNING id",
        {"id": turn.session_id},
    )
    taken = takings.take(await _waiting(connection, turn.session_id))
    await _mark_processed(connection, taken.passed)
    if not (taken.inputs or orphans or session["resume_wanted"]):
        return False
    await _mark_taken(connection, taken.inputs, position=session["last_seq"] + 1)
    await connection.execute(
        "INSERT INTO turns (id, workspace_id, session_id) VALUES (%s, %s, %s)",
        (turn.turn_id, turn.workspace_id, turn.session_id),
    )
    await connection.execute(
        "UPDATE sessions SET status = 'running', resume_wanted = false WHERE id = %s", (turn.session_id,)
    )
    running = NewEvent(type="session.status_running", turn_id=turn.turn_id)
    await events.append(connection, turn.session_id, [running])
    return True


async def _waiting(connection: Connection, session_id: str) -> list[takings.Waiting]:
    found = await rows(
        connection,
        "SELECT id, type FROM events WHERE session_id = %(id)s AND processed_at IS NULL ORDER BY seq",
        {"id": session_id},
    )
    return [takings.Waiting(id=row["id"], type=row["type"]) for row in found]


async def _more(connection: Connection, session_id: str) -> bool:
    return bool(takings.take(await _waiting(connection, session_id)).inputs)


async def _mark_processed(connection: Connection, ids: list[str]) -> None:
    if ids:
        await connection.execute("UPDATE events SET processed_at = clock_timestamp() WHERE id = ANY(%s)", (ids,))


async def _mark_taken(connection: Connection, ids: list[str], *, position: int) -> None:
    """Place inputs in the conversation just before the event that will have ``position`` as its seq."""
    await connection.execute(
        "UPDATE events SET processed_at = clock_timestamp(), position = %s WHERE id = ANY(%s)", (position, ids)
    )


async def _finish_inputs(connection: Connection, session_id: str, *, interrupted: bool) -> None:
    if interrupted:
        waiting = await _waiting(connection, session_id)
        await _mark_processed(connection, [each.id for each in waiting if each.type == "user.interrupt"])


async def _next_attempt(
    connection: Connection, turn: TurnInput, worker_id: str, task_token: bytes, model_token: str
) -> int:
    row = await one(
        connection,
        "UPDATE turns SET attempt = attempt + 1, worker_id = %(worker)s, task_token = %(task)s,"
        " model_token_hash = %(model)s WHERE id = %(id)s RETURNING attempt",
        {
            "worker": worker_id,
            "task": task_token,
            "model": hashlib.sha256(model_token.encode()).digest(),
            "id": turn.turn_id,
        },
    )
    return row["attempt"] if row else 0


async def _recover(connection: Connection, turn: TurnInput, attempt: int) -> None:
    """Say that the turn goes on after a crash, and close the model request that the crash lost."""
    lost = await rows(
        connection,
        "SELECT id FROM events AS started WHERE session_id = %(session)s AND turn_id = %(turn)s"
        " AND type = 'span.model_request_start' AND NOT EXISTS (SELECT FROM events AS ended"
        " WHERE ended.session_id = %(session)s AND ended.type = 'span.model_request_end'"
        " AND ended.payload ->> 'model_request_start_id' = started.id)",
        {"session": turn.session_id, "turn": turn.turn_id},
    )
    again = [
        *(request_lost(row["id"]) for row in lost),
        NewEvent(type="session.status_rescheduled", payload={"attempt": attempt}),
        NewEvent(type="session.status_running"),
    ]
    owned = [event.model_copy(update={"turn_id": turn.turn_id}) for event in again]
    await events.append(connection, turn.session_id, owned)
    await connection.execute("UPDATE sessions SET status = 'running' WHERE id = %s", (turn.session_id,))


async def _logged(connection: Connection, session_id: str) -> list[history.LoggedEvent]:
    found = await rows(
        connection,
        "SELECT id, type, payload, internal FROM events WHERE session_id = %(id)s AND type = ANY(%(types)s)"
        " AND processed_at IS NOT NULL ORDER BY position, seq",
        {"id": session_id, "types": list(history.HISTORY_TYPES)},
    )
    return [history.LoggedEvent.model_validate(row) for row in found]


def _spec(turn: TurnInput, session: DictRow, *, gateway_url: str, token: str) -> HarnessSpec:
    agent: dict[str, Any] = session["agent"]
    return HarnessSpec(
        session_id=turn.session_id,
        turn_id=turn.turn_id,
        model=agent["model"]["id"],
        effort=(agent["model"].get("effort") or {}).get("type"),
        system=agent.get("system"),
        tools=toolset.definitions(agent.get("tools") or []),
        gateway_url=gateway_url,
        gateway_token=token,
    )


async def _add_usage(connection: Connection, session_id: str, usage: dict[str, int]) -> None:
    await connection.execute(
        "UPDATE sessions SET usage = usage || (SELECT jsonb_object_agg(key,"
        " coalesce((usage ->> key)::bigint, 0) + value::bigint)"
        " FROM jsonb_each_text(%s)) WHERE id = %s",
        (Jsonb(usage), session_id),
    )
