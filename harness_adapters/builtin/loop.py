"""The loop: ask, show, record, call the tools, ask again."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from harness_adapters.calls import call_all
from harness_adapters.contract import (
    Answer,
    HarnessEvent,
    HarnessSpec,
    HistoryItem,
    ModelAnswered,
    TurnFinished,
    TurnPort,
)
from harness_adapters.model.asker import Asker
from harness_adapters.model.conversation import Conversation
from harness_adapters.model.patience import Patience
from harness_adapters.model.rounds import open_uses, uses


class BuiltinHarness:
    """A `Harness` that speaks the providers' formats itself; ``new_id`` makes event ids."""

    def __init__(self, new_id: Callable[[], str], *, patience: Patience | None = None):
        self._asker = Asker(new_id, patience=patience)

    async def close(self) -> None:
        """Close the connections to the gateway."""
        await self._asker.close()

    async def run_turn(
        self, spec: HarnessSpec, history: list[HistoryItem], tools: TurnPort
    ) -> AsyncGenerator[HarnessEvent]:
        """Continue ``history``; see `Harness.run_turn`. Exceptions of ``tools`` come out as they are."""
        turn, called = Conversation(spec, list(history), spec.max_model_requests), open_uses(history)
        while True:
            outcomes = await call_all(tools, called)
            turn.history += [outcome for outcome in outcomes if outcome is not None]
            if None in outcomes:
                yield TurnFinished(reason="parked")
                return
            turn.history += await tools.steering()
            if turn.history and isinstance(turn.history[-1], Answer):
                yield TurnFinished(reason="end_turn")
                return
            answered = None
            async with aclosing(self._asker.answer(turn)) as steps:
                async for step in steps:
                    yield step
                    answered = step if isinstance(step, ModelAnswered) else None
            if answered is None:
                return
            called = uses(answered.answer)
            if not called:
                yield answered.ending(spec)
                return
            turn.goes_on(answered)
