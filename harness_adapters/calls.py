"""What every loop does before its model is asked: the tools of the last answer, and who speaks meanwhile."""

import asyncio
from collections.abc import Sequence

from harness_adapters.contract import Answer, ToolOutcome, ToolUse, TurnFinished, TurnPort
from harness_adapters.model.conversation import Conversation
from harness_adapters.model.rounds import open_uses


async def caught_up(turn: Conversation, tools: TurnPort) -> TurnFinished | None:
    """Call what is left open, and take what was said; return how the turn ends, if nothing is to be asked."""
    outcomes = await _call_all(tools, open_uses(turn.history))
    turn.history += [outcome for outcome in outcomes if outcome is not None]
    if None in outcomes:
        return TurnFinished(reason="parked")
    turn.history += await tools.steering()
    is_over = bool(turn.history) and isinstance(turn.history[-1], Answer)
    return TurnFinished(reason="end_turn") if is_over else None


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
