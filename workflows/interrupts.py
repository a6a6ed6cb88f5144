"""Interrupts on the short way: what runs for a session stops when one is recorded, before Temporal has brought it.

A turn, or a call of it, obeys interrupts that are recorded after the turn began. The short way may lose one; the long
way, Temporal's cancellation, comes with the next heartbeat.
"""

import asyncio
from collections.abc import Awaitable, Coroutine, Generator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from temporalio import activity

_T = TypeVar("_T")


@dataclass(eq=False)
class Hearing:
    """What runs for a session, and whether it has been told to stop."""

    task: asyncio.Task[Any]
    since: int
    stopped: bool = False


_current: ContextVar[Hearing] = ContextVar("hearing")


class Interrupts:
    """What runs in this process, by session."""

    def __init__(self) -> None:
        self._running: dict[str, set[Hearing]] = {}

    @contextmanager
    def stop(self, session_id: str, *, since: int) -> Generator[None]:
        """Cancel the current task if an interrupt with a seq above ``since`` is heard of while the body runs."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can be stopped")
        hearing = Hearing(task, since)
        _current.set(hearing)
        self._running.setdefault(session_id, set()).add(hearing)
        try:
            yield
        finally:
            self._running[session_id].discard(hearing)
            if not self._running[session_id]:
                del self._running[session_id]

    def heard(self, session_id: str, seq: int) -> None:
        """Stop what runs for a session whose event ``seq`` is an interrupt."""
        for hearing in self._running.get(session_id, set()).copy():
            if seq > hearing.since and not hearing.stopped:
                hearing.stopped = True
                hearing.task.cancel()


def interrupted() -> bool:
    """Say whether the running activity is cancelled because a person wants it, not because its worker stops."""
    details = activity.cancellation_details()
    if details is not None and details.cancel_requested:
        return True
    hearing = _current.get(None)
    return hearing is not None and hearing.stopped


async def cancelled_once(work: Coroutine[Any, Any, _T]) -> _T:
    """Await what may be cancelled, but tidies up then: an interrupt comes on two ways, and the first is enough."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        return await to_its_end(task)


async def to_its_end(work: Awaitable[_T]) -> _T:
    """Await what may not be left half done, whatever cancels it meanwhile."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    return task.result()
