"""The loop: ask, show, record, call the tools, ask again."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from harness_adapters.calls import caught_up
from harness_adapters.contract import (
    HarnessEvent,
    HarnessSpec,
    HistoryItem,
    ModelAnswered,
    TurnPort,
)
from harness_adapters.model.asker import Asker
from harness_adapters.model.conversation import Conversation
from harness_adapters.model.patience import Patience
from harness_adapters.model.rounds import uses


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
        turn = Conversation(spec, list(history), spec.max_model_requests)
        while True:
            if ending := await caught_up(turn, tools):
                yield ending
                return
            answered = None
            async with aclosing(self._asker.answer(turn)) as steps:
                async for step in steps:
                    yield step
                    answered = step if isinstance(step, ModelAnswered) else None
            if answered is None:
                return
            if not uses(answered.answer):
                yield answered.ending(spec)
                return
            turn.goes_on(answered)
