"""Calling the tools of an answer."""

import asyncio
from collections.abc import Sequence

from harness_adapters.contract import ToolOutcome, ToolUse, TurnPort


async def call_all(tools: TurnPort, called: Sequence[ToolUse]) -> list[ToolOutcome | None]:
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
