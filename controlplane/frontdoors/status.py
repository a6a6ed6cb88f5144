"""What the agent does at the moment, shown in its thread."""

import asyncio
from contextlib import suppress

import structlog

from controlplane.frontdoors.contract import AmbiguousError, DeclinedError, LimitedError, Working
from controlplane.frontdoors.failures import PASSES
from controlplane.frontdoors.parts import Parts
from controlplane.ids import new_id
from controlplane.store import front_door_posts, front_door_slots, front_door_threads
from controlplane.store.front_door_threads import DoorThread
from controlplane.tasks import end

_STATUS_AFTER_SECONDS = 1.5  # a turn that is over sooner needs no message that says so
_STATUS_PAUSE_SECONDS = 3.0
_FADES_SECONDS = 90.0  # Slack takes its own away after two minutes (docs.slack.dev, assistant.threads.setStatus)
_SHARED_PAUSE_SECONDS = 1.2  # a minute has room for some fifty changes of messages, of all threads together
_CHARACTERS = 90
_SLOT = "of all:status"
_PREFIX = "status:"

_log = structlog.get_logger(__name__)


class Status:
    """What the agent does, as the service can show it: its own way, or a message that is changed now and then."""

    def __init__(self, parts: Parts, thread: DoorThread, link: str):
        self._parts = parts
        self._thread = thread
        self._link = link
        self._text = ""
        self._task: asyncio.Task[None] | None = None
        self._shown = False

    def now(self, text: str) -> None:
        """Show this next; where nothing has been said yet there is nothing to show it under."""
        self._text = text
        if (self._task is None or self._task.done()) and self._thread.anchor is not None:
            self._task = asyncio.create_task(self._show())

    async def end(self) -> None:
        """Show nothing further."""
        await end(self._task)
        self._task = None

    async def clear(self) -> None:
        """Take away what the service shows in its own way."""
        if self._shown:
            self._shown = False
            with suppress(LimitedError, AmbiguousError, DeclinedError):
                await self._parts.service.status(self._thread.place, self._thread.anchor or "", "")

    async def _show(self) -> None:
        await asyncio.sleep(_STATUS_AFTER_SECONDS)
        shown, shown_at, clock = "", 0.0, asyncio.get_running_loop().time
        while True:
            if self._text != shown or clock() - shown_at > _FADES_SECONDS:
                try:
                    await self._turn()
                    shown, shown_at = self._text, clock()
                    said = _short(await self._parts.leaving.text(shown))
                    self._shown = True
                    if not await self._parts.service.status(self._thread.place, self._thread.anchor or "", said):
                        await self._message(Working(status=said, link=self._link))
                except (LimitedError, AmbiguousError, DeclinedError) as error:
                    _log.debug("status_not_shown", thread_id=self._thread.id, error=type(error).__name__)
                except PASSES as error:
                    shown = ""
                    _log.info("status_not_shown", thread_id=self._thread.id, error=type(error).__name__)
            await asyncio.sleep(_STATUS_PAUSE_SECONDS)

    async def _turn(self) -> None:
        """Wait until it is this thread's turn to show something."""
        async with self._parts.transaction() as connection:
            wait = await front_door_slots.reserve(
                connection, self._parts.door, _SLOT, pause_seconds=_SHARED_PAUSE_SECONDS
            )
        await asyncio.sleep(wait)

    async def _message(self, body: Working) -> None:
        """Have the message that stands there say it, or a new one: an answer that came meanwhile took it away. Under
        one that is being written there is none."""
        async with self._parts.transaction() as connection:
            if await front_door_posts.is_writing(connection, self._thread.id):
                return
            name = (
                await front_door_posts.standing(connection, self._thread.id, _PREFIX) or f"{_PREFIX}{new_id('post')}"
            )
            await front_door_posts.intend(connection, self._thread, self._parts.door.workspace_id, name, body)
            await front_door_posts.revise(connection, self._thread.id, name, body)
            await front_door_threads.wake(connection, self._thread.id)


def _short(status: str) -> str:
    if len(status) <= _CHARACTERS:
        return status
    return f"{status[:_CHARACTERS]}…{'`' if status.endswith('`') else ''}"
