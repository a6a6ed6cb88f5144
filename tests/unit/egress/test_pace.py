"""A sandbox that asks for what it may not have does not fill the record."""

import asyncio

from sandbox.egress.limits import REFUSALS_AT_ONCE
from sandbox.egress.pace import RefusalPace


async def test_many_refusals_at_once_wait_for_one_another() -> None:
    pace = RefusalPace()
    first = [asyncio.create_task(pace.turn()) for _ in range(REFUSALS_AT_ONCE)]
    await asyncio.sleep(0)
    assert all(task.done() for task in first)
    waiting = [asyncio.create_task(pace.turn()) for _ in range(3)]
    await asyncio.sleep(0.01)
    assert not any(task.done() for task in waiting)
    await waiting[0]
    assert not waiting[2].done()
    await asyncio.wait(waiting)
