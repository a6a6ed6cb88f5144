"""A turn: the activity that lets a harness work, and records every step before the next one starts."""

import asyncio
import traceback
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Literal

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from harness_adapters.contract import (
    ContextCompacted,
    FailureKind,
    Harness,
    HarnessEvent,
    HarnessRestarted,
    ModelAnswered,
    ModelRequestFailed,
    ModelRequestStarted,
    TextDelta,
    TurnFinished,
)
from workflows import failures
from workflows.contracts import RUN_TURN, TurnEnd, TurnInput, TurnResult
from workflows.heartbeat import heartbeats
from workflows.history import is_unfinished
from workflows.interrupts import Interrupts, cancelled_once, interrupted, to_its_end
from workflows.limits import LAST_WORD
from workflows.outputs import OutputDispatcher
from workflows.records import CutAnswer, SessionGoneError, SupersededError, TurnRecords, TurnStart
from workflows.tools import ToolDispatcher

_log = structlog.get_logger(__name__)

_ENDS: Mapping[str, TurnEnd] = {
    "end_turn": "end_turn",
    "parked": "requires_action",
    "refusal": "refusal",
    "failed": "retries_exhausted",
    "limit": "retries_exhausted",
}


class TurnRunner:
    """Runs turns of any session with the harness its agent names."""

    def __init__(
        self,
        *,
        worker_id: str,
        records: TurnRecords,
        harnesses: Mapping[str, Harness],
        dispatcher: ToolDispatcher,
        outputs: OutputDispatcher,
        interrupts: Interrupts,
    ):
        self._worker_id = worker_id
        self._records = records
        self._harnesses = harnesses
        self._dispatcher = dispatcher
        self._outputs = outputs
        self._interrupts = interrupts

    @activity.defn(name=RUN_TURN)
    async def run_turn(self, turn: TurnInput) -> TurnResult:
        """Run one attempt of the turn to its end; every effect of it is in Postgres when this returns."""
        structlog.contextvars.bind_contextvars(session_id=turn.session_id, turn_id=turn.turn_id)
        async with heartbeats():
            try:
                start = await self._records.begin(
                    turn, worker_id=self._worker_id, task_token=activity.info().task_token
                )
                return start if isinstance(start, TurnResult) else await self._attempt(start)
            except SessionGoneError:
                return TurnResult(reason="gone")
            except SupersededError as error:
                raise ApplicationError("a newer attempt has taken this turn over", type="superseded") from error

    async def _attempt(self, start: TurnStart) -> TurnResult:
        try:
            return await self._run(start)
        except (SessionGoneError, SupersededError):
            raise
        except asyncio.CancelledError:
            await self._ended(start, "stopped")
            raise
        except Exception as error:
            await self._ended(start, "failed", error=_place(error))
            raise

    async def _ended(
        self, start: TurnStart, ending: Literal["failed", "stopped"], *, error: str | None = None
    ) -> None:
        """Record how an attempt ended, if it can be recorded: the next one draws its own conclusion otherwise."""
        recording = asyncio.ensure_future(self._records.attempt_ended(start, ending, error=error))
        await asyncio.wait({recording}, timeout=LAST_WORD.total_seconds())
        if not recording.done() or recording.cancelled() or recording.exception() is not None:
            recording.cancel()
            _log.warning("attempt_end_lost", ending=ending, error=error)

    async def _run(self, start: TurnStart) -> TurnResult:
        _log.info("turn_started", attempt=start.attempt, model=start.spec.model, harness=start.harness)
        spoken = _Spoken()
        try:
            with self._interrupts.stop(start.input.session_id, since=start.begun_seq):
                finished = await cancelled_once(self._follow(start, spoken))
        except asyncio.CancelledError:
            # One that was meant for an earlier turn may come late: then the next attempt goes on.
            if not interrupted() or not await to_its_end(self._records.is_interrupted(start)):
                raise
            await to_its_end(self._outputs.keep(start))
            return await to_its_end(self._records.end(start, "interrupted", cut=spoken.cut()))
        failure, reason = failures.of_turn(finished), _ENDS[finished.reason]
        if spoken.given_up in {"budget_reached", "unpriced"}:
            failure, reason = None, "budget_reached"
        await to_its_end(self._outputs.keep(start))
        end = self._records.end(
            start,
            reason,
            failure=None if spoken.given_up else failure,
            note=None if failure or spoken.given_up else finished.message,
        )
        result = await to_its_end(end)
        _log.info("turn_ended", attempt=start.attempt, reason=result.reason)
        return result

    async def _follow(self, start: TurnStart, spoken: "_Spoken") -> TurnFinished:
        if not is_unfinished(start.history):
            # Killed between the last answer and the end of the turn: nothing is left to ask.
            return TurnFinished(reason="end_turn")
        harness = self._harnesses.get(start.harness)
        if harness is None:
            return TurnFinished(reason="failed", message=f"the harness {start.harness!r} is not installed here")
        port = self._dispatcher.port(start)
        async with aclosing(harness.run_turn(start.spec, start.history, port)) as steps:
            async for step in steps:
                if isinstance(step, TurnFinished):
                    return step
                spoken.hear(step)
                await self._record(start, step)
                spoken.recorded(step)
        return TurnFinished(reason="failed", message=f"harness {start.harness!r} ended without a last word")

    async def _record(self, start: TurnStart, step: HarnessEvent) -> None:
        match step:
            case ModelRequestStarted():
                await self._records.model_request_started(start, step)
            case ModelAnswered():
                await self._records.model_answered(start, step)
            case ContextCompacted():
                _log.info("context_compacted", tokens_before=step.tokens_before)
                await self._records.context_compacted(start, step)
            case ModelRequestFailed():
                _log.warning(
                    "model_request_failed",
                    kind=step.kind,
                    message=step.message,
                    retry_in_seconds=step.retry_in_seconds,
                )
                await self._records.model_request_failed(start, step)
            case HarnessRestarted():
                await self._records.harness_restarted(start, step)
            case TurnFinished():
                pass
            case _:
                await self._records.preview(start, step)


def _place(error: Exception) -> str:
    """Say what was raised and where, without its text: that may quote anything."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"


class _Spoken:
    """What the model has said in the answer that is not recorded yet.

    ``given_up``: how its last request has failed for good; why is recorded.
    """

    def __init__(self) -> None:
        self.given_up: FailureKind | None = None
        self._request_id = ""
        self._texts: dict[str, str] = {}

    def hear(self, step: HarnessEvent) -> None:
        """Take note of a step before it is recorded."""
        if isinstance(step, ModelRequestStarted):
            self._request_id, self._texts = step.request_id, {}
        elif isinstance(step, TextDelta):
            self._texts[step.event_id] = self._texts.get(step.event_id, "") + step.text

    def recorded(self, step: HarnessEvent) -> None:
        """Take note that a step is durable."""
        if isinstance(step, ModelAnswered | ContextCompacted | ModelRequestFailed):
            self._texts = {}
        self.given_up = None
        if isinstance(step, ModelRequestFailed) and step.retry_in_seconds is None:
            self.given_up = step.kind

    def cut(self) -> CutAnswer | None:
        """Return it, if it is more than blanks."""
        texts = {event_id: text for event_id, text in self._texts.items() if text.strip()}
        return CutAnswer(request_id=self._request_id, texts=texts) if texts else None
