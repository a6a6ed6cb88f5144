"""The short way of an interrupt: whom it stops, and what it does not cut short."""

import asyncio
import contextlib

import pytest

from workflows.interrupts import Interrupts, cancelled_once, to_its_end


async def _running(interrupts: Interrupts, session_id: str, *, since: int) -> asyncio.Task[None]:
    async def body() -> None:
        with interrupts.stop(session_id, since=since):
            await asyncio.sleep(60)

    task = asyncio.create_task(body())
    await asyncio.sleep(0)
    return task


async def test_an_interrupt_stops_what_began_before_it_and_nothing_else() -> None:
    interrupts = Interrupts()
    earlier = await _running(interrupts, "sesn_a", since=4)
    later = await _running(interrupts, "sesn_a", since=9)
    other = await _running(interrupts, "sesn_b", since=4)
    interrupts.heard("sesn_a", 7)
    interrupts.heard("sesn_a", 7)
    await asyncio.wait([earlier])
    assert earlier.cancelled()
    assert earlier.cancelling() == 1
    for task in (later, other):
        assert not task.done()
        task.cancel()


async def test_what_has_ended_is_not_stopped() -> None:
    interrupts = Interrupts()
    with interrupts.stop("sesn_a", since=1):
        pass
    interrupts.heard("sesn_a", 2)
    await asyncio.sleep(0)


async def test_what_goes_to_its_end_is_not_cut_short() -> None:
    done: list[str] = []

    async def record() -> str:
        await asyncio.sleep(0.05)
        done.append("recorded")
        return "result"

    task = asyncio.create_task(to_its_end(record()))
    for _ in range(3):
        await asyncio.sleep(0.005)
        task.cancel()
    assert await task == "result"
    assert done == ["recorded"]


async def test_what_fails_at_its_end_says_so() -> None:
    async def fail() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        await to_its_end(fail())


async def test_what_is_cancelled_twice_tidies_up_once_and_whole() -> None:
    done: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            done.append("begun")
            await asyncio.sleep(0.05)
            done.append("tidy")
            raise

    task = asyncio.create_task(cancelled_once(work()))
    for _ in range(3):
        await asyncio.sleep(0.005)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["begun", "tidy"]


async def test_what_ends_although_it_was_cancelled_has_ended() -> None:
    async def work() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return "done"

    task = asyncio.create_task(cancelled_once(work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "done"
