"""Asking until there is a whole answer: what to do when a request fails, and when the context is too large."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing

from harness_adapters.contract import (
    Answer,
    AnswerText,
    ContextCompacted,
    HarnessEvent,
    ModelAnswered,
    ModelRequestFailed,
    ModelRequestStarted,
    TurnFinished,
    Usage,
    UserInput,
)
from harness_adapters.model import compaction
from harness_adapters.model.answer import Complete
from harness_adapters.model.client import ModelClient, PassedOn
from harness_adapters.model.conversation import Compaction, Conversation
from harness_adapters.model.errors import RETRIED, ModelError
from harness_adapters.model.pace import paced
from harness_adapters.model.patience import Patience


class Asker:
    """Asks models for the turns of any session; ``new_id`` makes event ids."""

    def __init__(self, new_id: Callable[[], str], *, patience: Patience | None = None):
        self._new_id = new_id
        self._patience = patience or Patience()
        self._models = ModelClient(new_id, stream_idle_seconds=self._patience.stream_idle_seconds)

    async def close(self) -> None:
        """Close the connections to the gateway."""
        await self._models.close()

    async def answer(
        self, conversation: Conversation, passed_on: PassedOn | None = None
    ) -> AsyncGenerator[HarnessEvent]:
        """Ask until there is a whole answer: the last item is `ModelAnswered`, or `TurnFinished` if there is none.

        ``passed_on``: a request that a harness wrote itself. It holds the conversation as it was, so that the last
        item is `ContextCompacted` if that has changed.
        """
        failures = itertools.count(1)
        while True:
            if conversation.requests_left == 0:
                limit = conversation.spec.max_model_requests
                yield TurnFinished(reason="limit", message=f"the turn has used its {limit} model requests")
                return
            conversation.requests_left -= 1
            compacts = conversation.compaction()
            asking = self._compact(conversation, compacts) if compacts else self._ask(conversation, passed_on)
            last: HarnessEvent | None = None
            async with aclosing(asking) as steps:
                async for step in steps:
                    failed = isinstance(step, ModelRequestFailed)
                    last = self._judged(step, conversation, compacts, failures) if failed else step
                    yield last
            if isinstance(last, ModelAnswered) or (isinstance(last, ContextCompacted) and passed_on):
                return
            if isinstance(last, ModelRequestFailed):
                if last.retry_in_seconds is None:
                    yield TurnFinished(reason="failed", message=last.message)
                    return
                await asyncio.sleep(last.retry_in_seconds)

    def _judged(
        self,
        failed: ModelRequestFailed,
        conversation: Conversation,
        compacts: Compaction | None,
        failures: Iterator[int],
    ) -> ModelRequestFailed:
        """Say whether and when to ask again: at once if the context can be made smaller first."""
        if failed.kind == "context_window" and conversation.shrink(compacts):
            return failed.model_copy(update={"retry_in_seconds": 0.0})
        attempt = next(failures)
        again = failed.kind in RETRIED and attempt < self._patience.max_attempts
        wait = self._patience.wait_seconds(attempt, failed.retry_in_seconds) if again else None
        return failed.model_copy(update={"retry_in_seconds": wait})

    async def _ask(self, conversation: Conversation, passed_on: PassedOn | None) -> AsyncGenerator[HarnessEvent]:
        """Ask once; the last item is `ModelAnswered` or `ModelRequestFailed`."""
        request_id = self._new_id()
        yield ModelRequestStarted(request_id=request_id)
        spec = conversation.spec
        if passed_on is None:
            asked = self._models.ask(spec, conversation.history, request_id=request_id)
        else:
            asked = self._models.pass_on(spec, passed_on, request_id=request_id)
        try:
            async with aclosing(paced(asked)) as pieces:
                async for piece in pieces:
                    yield _answered(request_id, piece) if isinstance(piece, Complete) else piece
        except ModelError as error:
            yield _failed(request_id, error)

    async def _compact(self, conversation: Conversation, compacts: Compaction) -> AsyncGenerator[HarnessEvent]:
        """Ask for a summary once; the last item is `ContextCompacted` or `ModelRequestFailed`."""
        request_id, event_id = self._new_id(), self._new_id()
        yield ModelRequestStarted(request_id=request_id)
        history = conversation.history
        asked = compaction.question(
            history[: compacts.place], at_most_tokens=compacts.at_most_tokens, event_id=event_id
        )
        complete = None
        try:
            async with aclosing(self._models.ask(conversation.spec, asked, request_id=request_id)) as pieces:
                async for piece in pieces:
                    complete = piece if isinstance(piece, Complete) else None
            summary = _text(complete)
        except ModelError as error:
            yield _failed(request_id, error)
            return
        kept = history[compacts.place] if compacts.place < len(history) else None
        yield ContextCompacted(
            event_id=event_id,
            request_id=request_id,
            summary=summary,
            kept_from=kept.event_id if isinstance(kept, UserInput) else None,
            tokens_before=conversation.tokens,
            usage=complete.usage if complete else Usage(),
        )
        conversation.compacted(compaction.compacted(history, compacts.place, summary=summary, event_id=event_id))


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
