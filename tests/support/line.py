"""A proxy's line to the store, kept up for the length of a test."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from controlplane.store.line import Line

_PATIENCE_SECONDS = 20


@asynccontextmanager
async def running(line: Line) -> AsyncGenerator[None]:
    """Keep a line up."""
    task = asyncio.create_task(line.run())
    try:
        await until(lambda: line.is_up)
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(holds: Callable[[], bool]) -> None:
    """Wait until ``holds``; fail if it never does."""
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)
