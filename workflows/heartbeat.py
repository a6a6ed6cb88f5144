"""Heartbeats of a running activity."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from temporalio import activity

from workflows.limits import HEARTBEAT_INTERVAL_SECONDS


@contextlib.asynccontextmanager
async def heartbeats() -> AsyncGenerator[None]:
    """Heartbeat in the background for as long as the body runs; that is also how a cancellation arrives."""

    async def beat() -> None:
        while True:
            activity.heartbeat()
            await asyncio.sleep(HEARTBEAT_INTERVAL_SECONDS)

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beating
