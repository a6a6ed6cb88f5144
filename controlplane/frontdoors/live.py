"""The answer that is being written, shown as it comes where the service can."""

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog

from controlplane.frontdoors.contract import Text
from controlplane.frontdoors.failures import PASSES
from controlplane.frontdoors.parts import Parts
from controlplane.store import front_door_posts, front_door_threads
from controlplane.store.front_door_threads import DoorThread
from controlplane.tasks import end

PAUSE_SECONDS = 1.0  # an answer that is whole sooner comes as one

_log = structlog.get_logger(__name__)


class Live:
    """Puts what is known of an answer into the ledger, under the name that the whole one has: that takes its place.

    Previews may be lost. So what has been shown may lack the end, and is taken away if the answer is never recorded.
    """

    def __init__(self, parts: Parts, thread: DoorThread):
        self._parts = parts
        self._thread = thread
        self._event_id = ""
        self._text = ""
        self._task: asyncio.Task[None] | None = None

    async def hear(self, preview: Mapping[str, Any]) -> None:
        """Take note of a preview."""
        if not self._parts.service.streams or self._thread.anchor is None or self._thread.person is None:
            return
        if preview["type"] == "event_start":
            await self.end()
            self._event_id, self._text = preview["event"]["id"], ""
        elif preview["event_id"] == self._event_id:
            self._text += preview["delta"]["content"].get("text", "")
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._show(self._event_id, self._thread.person))

    async def end(self) -> None:
        """Show nothing further."""
        await end(self._task)
        self._task, self._event_id = None, ""

    async def _show(self, event_id: str, person: str) -> None:
        name, shown = f"answer:{event_id}:0", ""
        while self._parts.service.streams:
            await asyncio.sleep(PAUSE_SECONDS)
            try:
                text = await self._parts.leaving.begun(self._text)
                if text in ("", shown) or len(text) > self._parts.service.part_characters:
                    continue
                await self._note(name, Text(markdown=text, live_for=person), is_first=not shown)
            except PASSES as error:
                _log.info("answer_not_shown", thread_id=self._thread.id, error=type(error).__name__)
            else:
                shown = text

    async def _note(self, name: str, body: Text, *, is_first: bool) -> None:
        async with self._parts.transaction() as connection:
            if is_first:
                await front_door_posts.withdraw(connection, self._thread.id, "status:")
                await front_door_posts.intend(connection, self._thread, self._parts.door.workspace_id, name, body)
            await front_door_posts.revise(connection, self._thread.id, name, body)
            await front_door_threads.wake(connection, self._thread.id)
