"""Ending tasks that use the database."""

import asyncio
from typing import Any

_AGAIN_SECONDS = 2.0  # what a task does at its end is cut short by the next


async def end(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks, all at once, and return when they have ended, whatever of.

    Once is not enough: `asyncio.wait_for` of Python 3.11, with which psycopg's pool waits for a connection, forgets a
    cancellation that comes in the moment in which it would have returned.
    """
    left = {task for task in tasks if task is not None and not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_AGAIN_SECONDS)
