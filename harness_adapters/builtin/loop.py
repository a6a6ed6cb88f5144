"""The loop: ask, show, record, call the tools, ask again."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from harness_adapters.builtin.answer import Complete
from harness_adapters.builtin.client import ModelClient
from harness_adapters.builtin.errors import ModelError
from harness_adapters.builtin.pace import paced
from harness_adapters.builtin.patience import Patience
from harness_adapters.builtin.rounds import open_uses, uses
from harness_adapters.contract import (
    Answer,
    HarnessEvent,
    HarnessSpec,
    HistoryItem,
    ModelAnswered,
    ModelRequestFailed,
    ModelRequestStarted,
    ToolOutcome,
    ToolUse,
    TurnFinished,
    TurnPort,
)


class BuiltinHarness:
    """A `Harness` that speaks Anthropic Messages and OpenAI Chat Completions itself; ``new_id`` makes event ids."""

    def __init__(self, new_id: Callable[[], str], *, patience: Patience | None = None):
        self._new_id = new_id
        self._patience = patience or Patience()
        self._models = ModelClient(new_id, stream_idle_seconds=self._patience.stream_idle_seconds)

    async def close(self) -> None:
        """Close the connections to the gateway."""
        await self._models.close()

    async def run_turn(
        self, spec: HarnessSpec, history: list[HistoryItem], tools: TurnPort
    ) -> AsyncGenerator[HarnessEvent]:
        """Continue ``history``; see `Harness.run_turn`. Exceptions of ``tools`` come out as they are."""
        turn, called = _Turn(spec, list(history), spec.max_model_requests), open_uses(history)
        while True:
            outcomes = await _call_all(tools, called)
            turn.history += [outcome for outcome in outcomes if outcome is not None]
            if None in outcomes:
                yield TurnFinished(reason="parked")
                return
            turn.history += await tools.steering()
            if turn.history and isinstance(turn.history[-1], Answer):
                yield TurnFinished(reason="end_turn")
                return
            answered = None
            async with aclosing(self._answer(turn)) as steps:
                async for step in steps:
                    yield step
                    answered = step if isinstance(step, ModelAnswered) else None
            if answered is None:
                return
            called = uses(answered.answer)
            if not called:
                yield _ending(answered, spec)
                return
            turn.history.append(answered.answer)

    async def _answer(self, turn: "_Turn") -> AsyncGenerator[HarnessEvent]:
        """Ask until there is a whole answer; the last item is `ModelAnswered`, or `TurnFinished` if there is none."""
        for attempt in itertools.count(1):
            if turn.requests_left == 0:
                limit = turn.spec.max_model_requests
                yield TurnFinished(reason="limit", message=f"the turn has used its {limit} model requests")
                return
            turn.requests_left -= 1
            failed = None
            async with aclosing(self._ask(turn, attempt)) as steps:
                async for step in steps:
                    yield step
                    failed = step if isinstance(step, ModelRequestFailed) else None
            if failed is None:
                return
            if failed.retry_in_seconds is None:
                yield TurnFinished(reason="failed", message=failed.message)
                return
            await asyncio.sleep(failed.retry_in_seconds)

    async def _ask(self, turn: "_Turn", attempt: int) -> AsyncGenerator[HarnessEvent]:
        """Ask once; the last item is `ModelAnswered` or `ModelRequestFailed`."""
        request_id = self._new_id()
        yield ModelRequestStarted(request_id=request_id)
        try:
            async with aclosing(paced(self._models.ask(turn.spec, turn.history, request_id=request_id))) as pieces:
                async for piece in pieces:
                    yield _answered(request_id, piece) if isinstance(piece, Complete) else piece
        except ModelError as error:
            again = error.retried and attempt < self._patience.max_attempts
            wait = self._patience.wait_seconds(attempt, error.retry_after_seconds) if again else None
            yield ModelRequestFailed(
                request_id=request_id, kind=error.kind, message=error.message, retry_in_seconds=wait
            )


@dataclass
class _Turn:
    """What one run of a turn carries from step to step."""

    spec: HarnessSpec
    history: list[HistoryItem]
    requests_left: int


def _answered(request_id: str, complete: Complete) -> ModelAnswered:
    answer = Answer(request_id=request_id, blocks=complete.blocks)
    return ModelAnswered(answer=answer, usage=complete.usage, stop_reason=complete.stop_reason)


def _ending(answered: ModelAnswered, spec: HarnessSpec) -> TurnFinished:
    if answered.stop_reason == "refusal":
        return TurnFinished(reason="refusal", message="the model refused to answer")
    if answered.stop_reason == "max_tokens":
        return TurnFinished(reason="end_turn", message=f"the answer was cut at its limit of {spec.max_tokens} tokens")
    return TurnFinished(reason="end_turn")


async def _call_all(tools: TurnPort, called: Sequence[ToolUse]) -> list[ToolOutcome | None]:
    """Call all at once and return the outcomes in the order of the uses.

    When one raises, or the turn is cancelled, the others are cancelled once and awaited: each has an end to record.
    """
    tasks = [asyncio.ensure_future(tools.call(use)) for use in called]
    try:
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        unfinished = [task for task in tasks if not task.done()]
        for task in unfinished:
            task.cancel()
        if unfinished:
            await asyncio.wait(unfinished)
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
    return [task.result() for task in tasks]
