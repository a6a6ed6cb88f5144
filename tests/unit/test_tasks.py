"""Ending tasks."""

import asyncio
from contextlib import suppress

from controlplane.tasks import end


async def test_all_are_cancelled_before_any_is_waited_for() -> None:
    last_is_told = asyncio.Event()

    async def first() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await last_is_told.wait()

    async def last() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            last_is_told.set()

    tasks = [asyncio.create_task(each()) for each in (first, last)]
    await asyncio.sleep(0)
    await end(*tasks)
    assert tasks[0].cancelling() == 1, "what the first does at its end was cut short"


async def test_one_that_forgets_a_cancellation_is_ended_all_the_same() -> None:
    async def forgetful() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    task = asyncio.create_task(forgetful())
    await asyncio.sleep(0)
    await end(task, None)
    assert task.cancelled()
