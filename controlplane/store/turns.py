"""Turns: what they take from the queue, what they record, and the fence that keeps an older attempt out."""

import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import psycopg
import structlog
from psycopg.types.json import Jsonb

from controlplane.store import attempts, conversation, deltas, events, journal, ledger, outputs, turn_events
from controlplane.store.events import NewEvent
from controlplane.store.fence import fence, lock_session
from controlplane.store.judging import Judge
from controlplane.store.pool import Connection, Database, one, rows
from controlplane.store.queue import interrupt_waits, mark_taken, waiting
from controlplane.store.settling import lose_requests, recorded, settle
from controlplane.store.turn_events import (
    block_event,
    compacted_events,
    cut_events,
    owned,
    request_answered,
    request_lost,
)
from controlplane.store.turn_opening import go_on, next_attempt, open_turn
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
        memory: Callable[[str, str], Awaitable[str]] | None = None,
    ):
        self._database = database
        self._judge = judge or Judge()
        self._gateway_url = gateway_url
        self._compact_above_tokens = compact_above_tokens
        self._memory = memory

    async def begin(self, turn: TurnInput, *, worker_id: str, task_token: bytes) -> TurnStart | TurnResult:
        """See `TurnRecords.begin`."""
        model_token = secrets.token_urlsafe(32)
        async with self._database.transaction(turn.workspace_id) as connection:
            session = await lock_session(connection, turn.session_id)
            opened = await open_turn(connection, turn, session)
            if isinstance(opened, TurnResult):
                return opened
            attempt = await next_attempt(connection, opened, worker_id, task_token, model_token)
            if await interrupt_waits(connection, opened):
                return await settle(connection, opened, "interrupted")
            if given_up := await attempts.begin(connection, opened, attempt, worker_id=worker_id):
                return await settle(connection, opened, "retries_exhausted", failure=given_up)
            if attempt > 1:
                await go_on(connection, opened, attempt)
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
            logged = await conversation.read(connection, turn.session_id)
        agent: dict[str, Any] = session["agent"]
        memory = await self._memory(turn.workspace_id, turn.session_id) if self._memory else ""
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
            await mark_taken(connection, taken, position=session.last_seq + 1)
            logged = await conversation.read(connection, turn.input.session_id, only=taken)
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
