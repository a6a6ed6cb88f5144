"""One thread while something happens in it: what people say goes to its session, what the session does is posted."""

import asyncio
from contextlib import suppress
from typing import Any

import structlog

from controlplane.frontdoors.account import Account, Decided, Doing, Note, Rest, Stand
from controlplane.frontdoors.contract import (
    AmbiguousError,
    Attachment,
    Body,
    Card,
    Crossed,
    DeclinedError,
    LimitedError,
    Pressed,
    Said,
    Service,
    Text,
    Working,
)
from controlplane.frontdoors.courier import Courier
from controlplane.frontdoors.pieces import cut
from controlplane.frontdoors.plane import Plane, RefusedError
from controlplane.frontdoors.scrub import fit_to_leave
from controlplane.frontdoors.seals import seal
from controlplane.frontdoors.tasks import end
from controlplane.store import deliveries, frontdoors
from controlplane.store.deliveries import Item, Thread
from controlplane.store.frontdoors import FrontDoorRecord
from controlplane.store.pool import Connection, Database

MOST_PARTS = 6
"""Of one answer; a longer one comes as a file behind its beginning."""

_LOOK_SECONDS = 2.0
_STATUS_AFTER_SECONDS = 1.5  # a turn that is over sooner needs no message that says so
_STATUS_PAUSE_SECONDS = 3.0  # a minute has room for some fifty changes of messages, of all threads together

_log = structlog.get_logger(__name__)


class Parts:
    """What every conversation of a front door works with; ``key`` seals buttons."""

    def __init__(
        self,
        *,
        database: Database,
        service: Service,
        door: FrontDoorRecord,
        plane: Plane,
        key: bytes,
        courier: Courier,
    ):
        self.database = database
        self.service = service
        self.door = door
        self.plane = plane
        self.key = key
        self.courier = courier

    def transaction(self) -> Any:
        """Open a transaction in the front door's workspace."""
        return self.database.transaction(self.door.workspace_id)


class Conversation:
    """Works on one thread for as long as there is something to do; its owner alone does."""

    def __init__(self, parts: Parts, thread: Thread):
        from controlplane.frontdoors.clerk import Clerk

        self._parts = parts
        self._thread = thread
        self._clerk = Clerk(parts)
        self._wake = asyncio.Event()
        self._mail = asyncio.Event()

    def wake(self) -> None:
        """Have it look again."""
        self._wake.set()
        self._mail.set()

    async def run(self) -> None:
        """Return when nothing is left to do."""
        follower: asyncio.Task[None] | None = None
        courier = asyncio.create_task(self._deliver())
        try:
            while True:
                self._wake.clear()
                item = await self._next()
                if item is not None:
                    await self._take(item)
                    continue
                await self._refresh()
                if follower is not None and follower.done():
                    follower.result()
                    follower = None
                if follower is None and await self._has_news():
                    follower = asyncio.create_task(self._follow())
                if courier.done():
                    courier.result()
                if follower is None and not await self._has_mail():
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await self._wake.wait()
        finally:
            await end(courier, follower)

    async def _next(self) -> Item | None:
        async with self._parts.transaction() as connection:
            return await deliveries.next_item(connection, self._thread)

    async def _refresh(self) -> None:
        async with self._parts.transaction() as connection:
            found = await deliveries.thread(connection, self._thread.id)
        if found is not None:
            self._thread = found

    async def _has_news(self) -> bool:
        if self._thread.session_id is None:
            return False
        async with self._parts.transaction() as connection:
            return await deliveries.last_seq(connection, self._thread.id) > self._thread.seen_seq

    async def _has_mail(self) -> bool:
        async with self._parts.transaction() as connection:
            return await deliveries.due(connection, self._thread.id) is not None

    async def _take(self, item: Item) -> None:
        await self._refresh()
        try:
            match item.inbound.what:
                case Said():
                    await self._clerk.said(self._thread, item, item.inbound.what)
                case Pressed():
                    await self._clerk.pressed(self._thread, item, item.inbound.what)
                case Crossed():
                    await self._clerk.stop(self._thread, item)
        except RefusedError as error:
            await self._clerk.answer(self._thread, item, f":warning: {error}", state="refused")
        self._mail.set()
        await self._refresh()

    async def _deliver(self) -> None:
        while True:
            self._mail.clear()
            while await self._parts.courier.deliver(self._thread):
                self._wake.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._mail.wait()

    async def _follow(self) -> None:
        thread, session_id = self._thread, self._thread.session_id or ""
        link = await self._link(session_id)
        session = await self._parts.plane.get(f"/v1/sessions/{session_id}")
        account = Account(session_id, session["agent"]["model"]["id"], link)
        status = _Status(self._parts, thread)
        stream = self._parts.plane.follow(session_id, after=thread.seen_seq)
        try:
            async for seq, event in stream:
                notes = account.read(event)
                if notes:
                    await self._noted(thread, notes, seq, status)
                if account.rests and await self._caught_up(thread, session_id, seq):
                    return
        finally:
            await status.end()
            await stream.aclose()
            self._wake.set()

    async def _caught_up(self, thread: Thread, session_id: str, seq: int) -> bool:
        async with self._parts.transaction() as connection:
            if await deliveries.last_seq(connection, thread.id) > seq:
                return False
            await deliveries.seen(connection, thread.id, session_id, seq)
        return True

    async def _noted(self, thread: Thread, notes: list[Note], seq: int, status: "_Status") -> None:
        """Put what an event comes to on record, all of it or nothing; a status gives way before an answer comes."""
        rests = any(isinstance(note, Rest) for note in notes)
        if rests:
            await status.end()
        async with self._parts.transaction() as connection:
            if rests:
                await deliveries.withdraw(connection, thread.id, "status:")
            for note in notes:
                match note:
                    case Stand():
                        for name, body in self._bodies(thread, note):
                            await deliveries.intend(connection, thread, self._parts.door.workspace_id, name, body)
                    case Decided():
                        await self._decided(connection, thread, note)
                    case Rest():
                        await self._rest(connection, thread, note, seq)
                    case Doing():
                        status.now(note.status)
        self._mail.set()
        if rests:
            await status.clear()

    def _bodies(self, thread: Thread, note: Stand) -> list[tuple[str, Body]]:
        body = note.body
        if isinstance(body, Card):
            sealed = seal(self._parts.key, thread.id, body.tool_use_id, body.input)
            return [(note.name, body.model_copy(update={"seal": sealed}))]
        if not isinstance(body, Text):
            return [(note.name, body)]
        markdown = fit_to_leave(body.markdown)
        pieces = cut(markdown, self._parts.service.part_characters)
        found: list[tuple[str, Body]] = []
        if len(pieces) > MOST_PARTS:
            pieces = pieces[:1]
            found.append((f"{note.name}:whole", Attachment(name="answer.md", text=markdown)))
        last = len(pieces) - 1
        texts: list[tuple[str, Body]] = [
            (f"{note.name}:{n}", Text(markdown=piece, footer=body.footer if n == last else None))
            for n, piece in enumerate(pieces)
        ]
        return texts + found

    async def _decided(self, connection: Connection, thread: Thread, note: Decided) -> None:
        name = f"card:{note.tool_use_id}"
        card = (await deliveries.bodies(connection, thread.id, name)).get(name)
        if isinstance(card, Card):
            said = card.model_copy(update={"outcome": fit_to_leave(note.outcome)})
            await deliveries.revise(connection, thread.id, name, said)

    async def _rest(self, connection: Connection, thread: Thread, note: Rest, seq: int) -> None:
        for name, card in (await deliveries.bodies(connection, thread.id, "card:")).items():
            if isinstance(card, Card) and card.outcome is None and card.tool_use_id not in note.waits_for:
                gone = card.model_copy(update={"outcome": "nobody need decide any more"})
                await deliveries.revise(connection, thread.id, name, gone)
        await deliveries.seen(connection, thread.id, thread.session_id or "", seq)

    async def _link(self, session_id: str) -> str:
        async with self._parts.transaction() as connection:
            door = await frontdoors.get(connection, self._parts.door.id)
        return (door.rules.session_url or "{session_id}").replace("{session_id}", session_id)


class _Status:
    """What the agent does, as the service can show it: its own way, or a message that is changed now and then."""

    def __init__(self, parts: Parts, thread: Thread):
        self._parts = parts
        self._thread = thread
        self._text = ""
        self._task: asyncio.Task[None] | None = None
        self._shown = False

    def now(self, text: str) -> None:
        """Show this next."""
        self._text = text
        if self._task is None:
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
                await self._parts.service.status(self._thread.place, self._thread.thread, "")

    async def _show(self) -> None:
        await asyncio.sleep(_STATUS_AFTER_SECONDS)
        shown = ""
        name = f"status:{asyncio.get_running_loop().time()}"
        while True:
            if self._text != shown:
                shown = self._text
                try:
                    said = fit_to_leave(shown)
                    self._shown = True
                    if not await self._parts.service.status(self._thread.place, self._thread.thread, said):
                        await self._message(name, Working(status=said))
                except (LimitedError, AmbiguousError, DeclinedError) as error:
                    _log.debug("status_not_shown", thread_id=self._thread.id, error=type(error).__name__)
            await asyncio.sleep(_STATUS_PAUSE_SECONDS)

    async def _message(self, name: str, body: Working) -> None:
        async with self._parts.transaction() as connection:
            await deliveries.intend(connection, self._thread, self._parts.door.workspace_id, name, body)
            await deliveries.revise(connection, self._thread.id, name, body)
            await deliveries.wake(connection)
