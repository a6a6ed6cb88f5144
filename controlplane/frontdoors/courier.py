"""Brings what the ledger has to where people read it: once, whole, in order, and no faster than the service wants."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from controlplane.frontdoors.contract import (
    AmbiguousError,
    Attachment,
    DeclinedError,
    LimitedError,
    Service,
)
from controlplane.store import deliveries
from controlplane.store.deliveries import DuePost, Thread
from controlplane.store.frontdoors import FrontDoorRecord
from controlplane.store.pool import Database

T = TypeVar("T")

SETTLE_SECONDS = 15.0
"""Before one who has no answer looks what became of a message: a request that its sender has given up, or died over,
may still be worked on at the other end, and after a look that comes too early it would be sent twice."""

_ANSWERED_SECONDS = 1.0  # an error that the service has answered with is the end of its work
_LONGEST_PAUSE_SECONDS = 30.0

_log = structlog.get_logger(__name__)


class Courier:
    """Posts, changes and withdraws the messages of threads; only the owner of a thread calls it for that thread."""

    def __init__(
        self,
        *,
        database: Database,
        service: Service,
        door: FrontDoorRecord,
        content: Callable[[str], Awaitable[bytes]],
    ):
        self._database = database
        self._service = service
        self._door = door
        self._content = content

    async def deliver(self, at: Thread) -> bool:
        """Do what is due first in a thread; False if nothing is. Returns when it is done, however long that takes."""
        async with self._database.transaction(self._door.workspace_id) as connection:
            due = await deliveries.due(connection, at.id)
        if due is None:
            return False
        try:
            if due.state == "posted":
                await self._correct(at, due)
            else:
                await self._post(at, due)
        except DeclinedError as error:
            _log.warning("post_declined", thread_id=at.id, post_id=due.id, reason=error.reason)
            await self._note(deliveries.ended, due.id, "failed", error.reason)
        return True

    async def _correct(self, at: Thread, due: DuePost) -> None:
        remote = due.remote or ""
        if due.withdrawn:
            await self._patiently(lambda: self._service.withdraw(at.place, remote))
            await self._note(deliveries.ended, due.id, "gone")
        else:
            await self._patiently(lambda: self._service.change(at.place, due.post()))
            await self._note(deliveries.posted, due.id, remote, revision=due.revision)

    async def _post(self, at: Thread, due: DuePost) -> None:
        if due.state == "sending":
            await asyncio.sleep(max(0.0, SETTLE_SECONDS - (due.sent_seconds or 0.0)))
            if await self._found(at, due):
                return
            if due.withdrawn:
                await self._note(deliveries.ended, due.id, "gone")
                return
        if isinstance(due.body, Attachment) and due.body.remote is None:
            due = await self._prepared(due, due.body)
        await self._send(at, due)

    async def _send(self, at: Thread, due: DuePost) -> None:
        await self._slot(at)
        await self._note(deliveries.sending, due.id)
        try:
            remote = await self._service.send(at.place, at.thread, due.post())
        except LimitedError as error:
            await self._note(deliveries.unsent, due.id)
            await self._postpone(at, error.seconds)
        except AmbiguousError as error:
            _log.info("post_ambiguous", thread_id=at.id, post_id=due.id, error=str(error))
            await asyncio.sleep(_ANSWERED_SECONDS if error.answered else SETTLE_SECONDS)
            if not await self._found(at, due):
                await self._note(deliveries.unsent, due.id)
        else:
            await self._note(deliveries.posted, due.id, remote, revision=due.revision)

    async def _found(self, at: Thread, due: DuePost) -> bool:
        """Look for a message that may have been taken; note it if it was."""
        remote = await self._patiently(lambda: self._service.find(at.place, at.thread, due.post()))
        if remote is not None:
            await self._note(deliveries.posted, due.id, remote, revision=due.revision)
        return remote is not None

    async def _prepared(self, due: DuePost, attachment: Attachment) -> DuePost:
        content = (
            attachment.text.encode() if attachment.text is not None else await self._content(attachment.file_id or "")
        )
        remote = await self._patiently(lambda: self._service.prepare(attachment, content))
        body = attachment.model_copy(update={"remote": remote})
        await self._note(deliveries.prepared, due.id, body)
        return due.model_copy(update={"body": body})

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Do something that may be done again, until the service has an answer."""
        pause = 0.5
        while True:
            try:
                return await ask()
            except LimitedError as error:
                await asyncio.sleep(error.seconds)
            except AmbiguousError:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def _slot(self, at: Thread) -> None:
        async with self._database.transaction(self._door.workspace_id) as connection:
            wait = await deliveries.reserve(
                connection, self._door, at.place, pause_seconds=self._service.place_pause_seconds
            )
        await asyncio.sleep(wait)

    async def _postpone(self, at: Thread, seconds: float) -> None:
        async with self._database.transaction(self._door.workspace_id) as connection:
            await deliveries.postpone(connection, self._door, at.place, seconds=seconds)

    async def _note(self, change: Callable[..., Awaitable[None]], *given: object, **named: object) -> None:
        async with self._database.transaction(self._door.workspace_id) as connection:
            await change(connection, *given, **named)
