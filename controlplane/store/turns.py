"""Turns: what they take from the queue, what they record, and the fence that keeps an older attempt out."""

import hashlib
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Literal, LiteralString

import psycopg
import structlog
from psycopg.types.json import Jsonb

from controlplane.memory.recall import Recall
from controlplane.store import attachments, attempts, deltas, events, journal, ledger, outputs, turn_events
from controlplane.store.events import NewEvent
from controlplane.store.fence import LockedSession, fence, lock_session
from controlplane.store.judging import Judge
from controlplane.store.pool import Connection, Database, one, rows
from controlplane.store.settling import (
    interrupt_waits,
    lose_requests,
    more,
    owned,
    recorded,
    settle,
    takeable,
    waiting,
    withdraw,
)
from controlplane.store.turn_events import block_event, compacted_events, cut_events, request_answered, request_lost
from harness_adapters import toolset
from harness_adapters.contract import (
    COMPACT_ABOVE_TOKENS,
    ContextCompacted,
    HarnessRestarted,
    HarnessSpec,
    ModelAnswered,
    ModelRequestFailed,
    ModelRequestStarted,
    PreviewStarted,
    TextDelta,
    ToolUse,
    UserInput,
)
from workflows import failures, history, takings
from workflows.contracts import OutputsInput, TurnEnd, TurnInput, TurnResult
from workflows.failures import Failure
from workflows.records import CutAnswer, SessionGoneError, TurnStart

_log = structlog.get_logger(__name__)


class PostgresTurns:
    """`workflows.records.TurnRecords` on Postgres."""

    def __init__(
        self,
        database: Database,
        *,
        gateway_url: str,
        judge: Judge | None = None,
        compact_above_tokens: int = COMPACT_ABOVE_TOKENS,
        recall: Recall | None = None,
    ):
        self._database = database
        self._judge = judge or Judge()
        self._gateway_url = gateway_url
        self._compact_above_tokens = compact_above_tokens
        self._recall = recall

    async def begin(self, turn: TurnInput, *, worker_id: str, task_token: bytes) -> TurnStart | TurnResult:
        """See `TurnRecords.begin`."""
        model_token = secrets.token_urlsafe(32)
        async with self._database.transaction(turn.workspace_id) as connection:
            session = await lock_session(connection, turn.session_id)
            opened = await _open(connection, turn, session)
            if isinstance(opened, TurnResult):
                return opened
            attempt = await _next_attempt(connection, opened, worker_id, task_token, model_token)
            if await interrupt_waits(connection, opened):
                return await settle(connection, opened, "interrupted")
            if given_up := await attempts.begin(connection, opened, attempt, worker_id=worker_id):
                return await settle(connection, opened, "retries_exhausted", failure=given_up)
            if attempt > 1:
                await _go_on(connection, opened, attempt)
        # The attempt is counted before what it works with is read: should that fail each time, the count tells.
        return await self._start(opened, attempt, model_token)

    async def _start(self, turn: TurnInput, attempt: int, model_token: str) -> TurnStart:
        async with self._database.transaction(turn.workspace_id) as connection:
            session = await one(
                connection,
                "SELECT s.agent, t.begun_seq, t.models FROM sessions s JOIN turns t ON t.session_id = s.id"
                " WHERE t.id = %(id)s",
                {"id": turn.turn_id},
            )
            if session is None:
                raise SessionGoneError(f"session {turn.session_id!r} is gone")
            logged = await _logged(connection, turn.session_id)
        agent: dict[str, Any] = session["agent"]
        memory = await self._recall.section(turn.workspace_id, turn.session_id) if self._recall else ""
        return TurnStart(
            input=turn,
            attempt=attempt,
            begun_seq=session["begun_seq"],
            harness=agent.get("harness") or "builtin",
            spec=self._spec(turn, agent, model=session["models"][0], token=model_token, memory=memory),
            history=history.build(logged),
        )

    def _spec(self, turn: TurnInput, agent: dict[str, Any], *, model: str, token: str, memory: str) -> HarnessSpec:
        return HarnessSpec(
            session_id=turn.session_id,
            turn_id=turn.turn_id,
            model=model,
            effort=(agent["model"].get("effort") or {}).get("type"),
            system="\n\n".join(filter(None, [agent.get("system"), memory])) or None,
            tools=toolset.definitions(agent.get("tools") or [], memory=bool(memory)),
            compact_above_tokens=self._compact_above_tokens,
            mode=agent.get("harness_mode") or "inline",
            gateway_url=self._gateway_url,
            gateway_token=token,
        )

    async def model_request_started(self, turn: TurnStart, started: ModelRequestStarted) -> None:
        """See `TurnRecords.model_request_started`."""
        async with self._fenced(turn) as connection:
            again = await connection.execute(
                "UPDATE sessions SET status = 'running', failure = NULL WHERE id = %s AND status = 'rescheduling'",
                (turn.input.session_id,),
            )
            new = [NewEvent(id=started.request_id, type="span.model_request_start")]
            if again.rowcount:
                new.insert(0, NewEvent(type="session.status_running"))
            await _append(connection, turn, new)

    async def preview(self, turn: TurnStart, preview: PreviewStarted | TextDelta) -> None:
        """See `TurnRecords.preview`."""
        try:
            async with self._database.transaction(turn.input.workspace_id) as connection:
                await deltas.publish(connection, turn, preview)
        except psycopg.Error as error:
            _log.info("preview_lost", cause=str(error).strip())

    async def model_answered(self, turn: TurnStart, answered: ModelAnswered) -> None:
        """See `TurnRecords.model_answered`."""
        request_id = answered.answer.request_id
        uses = [block for block in answered.answer.blocks if isinstance(block, ToolUse)]
        async with self._fenced(turn) as connection:
            judgements = await self._judge.judge(connection, turn.input.session_id, uses)
            blocks = [block_event(block, request_id, judgements=judgements) for block in answered.answer.blocks]
            booking = await ledger.booked(connection, request_id, told=answered.usage)
            await _append(connection, turn, [*blocks, request_answered(answered, booking)])
            await journal.intend(connection, turn.input, uses, judgements=judgements)

    async def context_compacted(self, turn: TurnStart, compacted: ContextCompacted) -> None:
        """See `TurnRecords.context_compacted`."""
        async with self._fenced(turn) as connection:
            booking = await ledger.booked(connection, compacted.request_id, told=compacted.usage)
            await _append(connection, turn, compacted_events(compacted, booking))

    async def model_request_failed(self, turn: TurnStart, failed: ModelRequestFailed) -> None:
        """See `TurnRecords.model_request_failed`."""
        failure = failures.of_request(failed)
        new = [request_lost(failed.request_id)]
        if failed.kind != "budget_reached":
            new.append(turn_events.failed(failure, retry_in_seconds=failed.retry_in_seconds))
        retrying = failure.status == "retrying"
        if retrying:
            new.append(NewEvent(type="session.status_rescheduled"))
        async with self._fenced(turn) as connection:
            await connection.execute(
                "UPDATE sessions SET status = CASE WHEN %s THEN 'rescheduling' ELSE status END, failure = %s"
                " WHERE id = %s",
                (retrying, Jsonb(recorded(turn.input, failure)), turn.input.session_id),
            )
            how = "lost" if failed.kind in failures.PERHAPS_ANSWERED else "free"
            await ledger.release(connection, turn.input.session_id, [failed.request_id], how)
            await _append(connection, turn, new)

    async def harness_restarted(self, turn: TurnStart, restarted: HarnessRestarted) -> None:
        """See `TurnRecords.harness_restarted`."""
        failure = failures.failure("harness_failed", restarted.message, retrying=True)
        async with self._fenced(turn) as connection:
            await _append(
                connection, turn, [*await lose_requests(connection, turn.input), turn_events.failed(failure)]
            )

    async def steering(self, turn: TurnStart) -> list[UserInput]:
        """See `TurnRecords.steering`."""
        async with self._fenced(turn) as connection:
            waits = await waiting(connection, turn.input.session_id)
            taken = takings.steering(waits)
            if not taken:
                return []
            session = await lock_session(connection, turn.input.session_id)
            await _mark_taken(connection, taken, position=session.last_seq + 1)
            logged = await _logged(connection, turn.input.session_id, only=taken)
        return [item for item in history.build(logged) if isinstance(item, UserInput)]

    async def is_interrupted(self, turn: TurnStart) -> bool:
        """See `TurnRecords.is_interrupted`."""
        async with self._fenced(turn) as connection:
            return await interrupt_waits(connection, turn.input)

    async def outputs(self, turn: TurnStart) -> tuple[str, OutputsInput] | None:
        """See `TurnRecords.outputs`."""
        async with self._fenced(turn) as connection:
            return await outputs.unkept(connection, turn.input)

    async def end(
        self,
        turn: TurnStart,
        reason: TurnEnd,
        *,
        failure: Failure | None = None,
        note: str | None = None,
        cut: CutAnswer | None = None,
    ) -> TurnResult:
        """See `TurnRecords.end`."""
        async with self._fenced(turn) as connection:
            if cut is not None:
                # Who was interrupted while an answer was committed does not know that it is recorded.
                known = await rows(
                    connection, "SELECT id FROM events WHERE id = ANY(%(ids)s)", {"ids": list(cut.texts)}
                )
                await _append(connection, turn, cut_events(cut) if not known else [])
            return await settle(connection, turn.input, reason, failure=failure, note=note)

    async def attempt_ended(
        self, turn: TurnStart, ending: Literal["failed", "stopped"], *, error: str | None = None
    ) -> None:
        """See `TurnRecords.attempt_ended`."""
        async with self._database.transaction(turn.input.workspace_id) as connection:
            await attempts.end(connection, turn.input.turn_id, turn.attempt, ending=ending, error=error)

    @asynccontextmanager
    async def _fenced(self, turn: TurnStart) -> AsyncGenerator[Connection]:
        async with self._database.transaction(turn.input.workspace_id) as connection:
            await fence(connection, turn)
            yield connection


async def _append(connection: Connection, turn: TurnStart, new: list[NewEvent]) -> None:
    await events.append(connection, turn.input.session_id, owned(turn.input, new))


_BEGIN: LiteralString = """
    INSERT INTO turns (id, workspace_id, session_id, begun_seq, run_id)
    SELECT %(id)s, %(workspace)s, %(session)s, %(seq)s,
           CASE WHEN EXISTS (SELECT FROM events WHERE id = ANY(%(inputs)s) AND type = ANY(%(starters)s))
                THEN (SELECT r.id FROM sessions s JOIN deployment_runs r ON r.deployment_id = s.deployment_id
                       WHERE s.id = %(session)s AND r.session_id = s.id AND r.state = 'running'
                         AND r.inputs ?| %(inputs)s LIMIT 1)
                ELSE (SELECT run_id FROM turns WHERE session_id = %(session)s ORDER BY started_at DESC LIMIT 1) END"""
"""Begin a turn: of the run that its message came from or, without one, of the run of the turn that it continues."""


async def _open(connection: Connection, turn: TurnInput, session: LockedSession) -> TurnInput | TurnResult:
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
    await _mark_taken(connection, taken.passed, position=session.last_seq)
    if await _called_off(connection, turn.session_id, taken.passed):
        session = await lock_session(connection, turn.session_id)
    # What is tried again comes before what was sent after it.
    inputs = [] if session.resume_wanted else taken.inputs
    if session.frozen or not (inputs or session.resume_wanted):
        return TurnResult(reason="nothing_to_do")
    await _mark_taken(connection, inputs, position=session.last_seq + 1)
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


async def _called_off(connection: Connection, session_id: str, passed: list[str]) -> bool:
    """Forget what is to be tried again if an interrupt came when nothing ran; say whether it was so."""
    forgotten = await connection.execute(
        "UPDATE sessions SET resume_wanted = false, resume_at = NULL, held_seq = NULL WHERE id = %s"
        " AND (resume_wanted OR held_seq IS NOT NULL) AND EXISTS"
        " (SELECT FROM events WHERE id = ANY(%s) AND type = 'user.interrupt')",
        (session_id, passed),
    )
    return bool(forgotten.rowcount)


async def _mark_taken(connection: Connection, ids: list[str], *, position: int) -> None:
    """Place inputs in the conversation just before the event that will have ``position`` as its seq."""
    if ids:
        await connection.execute(
            "UPDATE events SET processed_at = clock_timestamp(), position = %s WHERE id = ANY(%s)", (position, ids)
        )


async def _next_attempt(
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


async def _go_on(connection: Connection, turn: TurnInput, attempt: int) -> None:
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


async def _logged(
    connection: Connection, session_id: str, *, only: list[str] | None = None
) -> list[history.LoggedEvent]:
    found = await rows(
        connection,
        "SELECT id, type, payload, internal FROM events WHERE session_id = %(id)s AND type = ANY(%(types)s)"
        " AND processed_at IS NOT NULL AND NOT internal ? 'withdrawn'"
        " AND (%(only)s::text[] IS NULL OR id = ANY(%(only)s))"
        " AND position >= coalesce((SELECT coalesce(k.position, c.position) FROM events c"
        "   LEFT JOIN events k ON k.id = c.internal ->> 'kept_from'"
        "  WHERE c.session_id = %(id)s AND c.type = %(compacted)s ORDER BY c.seq DESC LIMIT 1), 0)"
        " ORDER BY position, seq",
        {
            "id": session_id,
            "types": list(history.HISTORY_TYPES),
            "only": only,
            "compacted": history.COMPACTED,
        },
    )
    return await attachments.resolve(connection, [history.LoggedEvent.model_validate(row) for row in found])
