"""Ending tasks that use the database."""

import asyncio
from typing import Any

_AGAIN_SECONDS = 0.5


async def end(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks and return when they have ended, whatever of.

    Once is not enough: `asyncio.wait_for` of Python 3.11, with which psycopg's pool waits for a connection, forgets a
    cancellation that comes in the moment in which it would have returned.
    """
    for task in tasks:
        while task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=_AGAIN_SECONDS)
