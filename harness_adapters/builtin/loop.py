"""The loop: ask, show, record, call the tools, ask again."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from harness_adapters.builtin import compaction
from harness_adapters.builtin.answer import Complete
from harness_adapters.builtin.client import ModelClient
from harness_adapters.builtin.errors import RETRIED, ModelError
from harness_adapters.builtin.pace import paced
from harness_adapters.builtin.patience import Patience
from harness_adapters.builtin.rounds import open_uses, uses
from harness_adapters.contract import (
    Answer,
    AnswerText,
    ContextCompacted,
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
    Usage,
    UserInput,
)

_MOST_HALVINGS = 4
"""Of a history that is too large even to be summarized: its newest sixteenth will do."""


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
            turn.goes_on(answered)

    async def _answer(self, turn: "_Turn") -> AsyncGenerator[HarnessEvent]:
        """Ask until there is a whole answer; the last item is `ModelAnswered`, or `TurnFinished` if there is none."""
        failures = itertools.count(1)
        while True:
            if turn.requests_left == 0:
                limit = turn.spec.max_model_requests
                yield TurnFinished(reason="limit", message=f"the turn has used its {limit} model requests")
                return
            turn.requests_left -= 1
            compacts = turn.compaction()
            last: HarnessEvent | None = None
            async with aclosing(self._compact(turn, compacts) if compacts else self._ask(turn)) as steps:
                async for step in steps:
                    failed = isinstance(step, ModelRequestFailed)
                    last = self._judged(step, turn, compacts, failures) if failed else step
                    yield last
            if isinstance(last, ModelAnswered):
                return
            if isinstance(last, ModelRequestFailed):
                if last.retry_in_seconds is None:
                    yield TurnFinished(reason="failed", message=last.message)
                    return
                await asyncio.sleep(last.retry_in_seconds)

    def _judged(
        self, failed: ModelRequestFailed, turn: "_Turn", compacts: "Compaction | None", failures: Iterator[int]
    ) -> ModelRequestFailed:
        """Say whether and when to ask again: at once if the context can be made smaller first."""
        if failed.kind == "context_window" and turn.shrink(compacts):
            return failed.model_copy(update={"retry_in_seconds": 0.0})
        attempt = next(failures)
        again = failed.kind in RETRIED and attempt < self._patience.max_attempts
        wait = self._patience.wait_seconds(attempt, failed.retry_in_seconds) if again else None
        return failed.model_copy(update={"retry_in_seconds": wait})

    async def _ask(self, turn: "_Turn") -> AsyncGenerator[HarnessEvent]:
        """Ask once; the last item is `ModelAnswered` or `ModelRequestFailed`."""
        request_id = self._new_id()
        yield ModelRequestStarted(request_id=request_id)
        try:
            async with aclosing(paced(self._models.ask(turn.spec, turn.history, request_id=request_id))) as pieces:
                async for piece in pieces:
                    yield _answered(request_id, piece) if isinstance(piece, Complete) else piece
        except ModelError as error:
            yield _failed(request_id, error)

    async def _compact(self, turn: "_Turn", compacts: "Compaction") -> AsyncGenerator[HarnessEvent]:
        """Ask for a summary once; the last item is `ContextCompacted` or `ModelRequestFailed`."""
        request_id, event_id = self._new_id(), self._new_id()
        yield ModelRequestStarted(request_id=request_id)
        asked = compaction.question(
            turn.history[: compacts.place], at_most_tokens=compacts.at_most_tokens, event_id=event_id
        )
        complete = None
        try:
            async with aclosing(self._models.ask(turn.spec, asked, request_id=request_id)) as pieces:
                async for piece in pieces:
                    complete = piece if isinstance(piece, Complete) else None
            summary = _text(complete)
        except ModelError as error:
            yield _failed(request_id, error)
            return
        kept = turn.history[compacts.place] if compacts.place < len(turn.history) else None
        yield ContextCompacted(
            event_id=event_id,
            request_id=request_id,
            summary=summary,
            kept_from=kept.event_id if isinstance(kept, UserInput) else None,
            tokens_before=turn.tokens,
            usage=complete.usage if complete else Usage(),
        )
        turn.compacted(compaction.compacted(turn.history, compacts.place, summary=summary, event_id=event_id))


@dataclass(frozen=True)
class Compaction:
    """A summary to ask for: of the history before ``place``, as far as the newest ``at_most_tokens`` of it."""

    place: int
    at_most_tokens: int


@dataclass
class _Turn:
    """What one run of a turn carries from step to step.

    ``counted``: the tokens that the provider counted when the history had so many items. ``full``: it has not taken
    the history. ``shrunk``: how often the question for a summary was halved. ``rests``: there has just been one.
    """

    spec: HarnessSpec
    history: list[HistoryItem]
    requests_left: int
    counted: tuple[int, int] = (0, 0)
    full: bool = False
    shrunk: int = 0
    rests: bool = False

    @property
    def tokens(self) -> int:
        """About how many tokens the history has."""
        counted, items = self.counted
        return counted + compaction.tokens(self.history[items:])

    def goes_on(self, answered: ModelAnswered) -> None:
        """Add an answer whose calls are about to run."""
        self.history.append(answered.answer)
        self.counted = (sum(answered.usage.model_dump().values()), len(self.history))
        self.rests = False

    def compaction(self) -> Compaction | None:
        """Return the summary to ask for before the model is asked again, if the context needs one."""
        limit = self.spec.compact_above_tokens
        if self.rests or not (self.full or self.tokens > limit):
            return None
        place = compaction.kept_from(self.history, at_most_tokens=limit // 4)
        return Compaction(place, limit >> self.shrunk) if place else None

    def shrink(self, compacts: Compaction | None) -> bool:
        """Take note that the context is too large; return whether it can be made smaller."""
        if compacts is not None:
            self.shrunk += 1
            return self.shrunk <= _MOST_HALVINGS
        self.full = True
        return self.compaction() is not None

    def compacted(self, history: list[HistoryItem]) -> None:
        """Go on with a shorter history."""
        self.history, self.counted, self.full, self.rests = history, (0, 0), False, True


def _failed(request_id: str, error: ModelError) -> ModelRequestFailed:
    """Return a failed request; its wait is what the provider asks for, to be judged by the caller."""
    return ModelRequestFailed(
        request_id=request_id, kind=error.kind, message=error.message, retry_in_seconds=error.retry_after_seconds
    )


def _text(complete: Complete | None) -> str:
    texts = [block.text for block in complete.blocks if isinstance(block, AnswerText)] if complete else []
    if not "".join(texts).strip():
        raise ModelError("unknown", "the model was asked for a summary, and wrote none")
    return "\n".join(texts)


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
