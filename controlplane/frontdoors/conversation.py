"""One thread while something happens in it: what people say goes to its session, what the session does is posted."""

import asyncio
from contextlib import AsyncExitStack, suppress

import structlog

from controlplane.frontdoors.account import ENDS, Account, Decided, Doing, Lost, Note, Rest, Stand
from controlplane.frontdoors.clerk import Clerk
from controlplane.frontdoors.contract import Attachment, Body, Card, Crossed, Pressed, Said, Text, Working
from controlplane.frontdoors.failures import MOST_FAILURES, PASSES, NotToldError
from controlplane.frontdoors.live import Live
from controlplane.frontdoors.parts import Parts
from controlplane.frontdoors.pieces import cut
from controlplane.frontdoors.plane import SHUT, Json, RefusedError
from controlplane.frontdoors.seals import seal
from controlplane.frontdoors.status import Status
from controlplane.store import front_door_inbox, front_door_posts, front_door_threads, frontdoors
from controlplane.store.front_door_inbox import Item, UnreadableItemError
from controlplane.store.front_door_threads import DoorThread
from controlplane.store.pool import Connection
from controlplane.tasks import end

MOST_PARTS = 6
"""Of one answer; a longer one comes as a file behind its beginning."""

_ASKS = "asks:"
"""Before the name of the message that says, for as long as a card is open, that nothing goes on without it."""

_LOOK_SECONDS = 2.0
_REFUSED_SECONDS = 30.0  # until a session is asked for again that the API did not let us see

_log = structlog.get_logger(__name__)


class Conversation:
    """Works on one thread for as long as there is something to do; its owner alone does."""

    def __init__(self, parts: Parts, thread: DoorThread):
        self._parts = parts
        self._thread = thread
        self._clerk = Clerk(parts)
        self._wake = asyncio.Event()
        self._mail = asyncio.Event()
        self._news = asyncio.Event()
        self._follows = False

    @property
    def session_id(self) -> str | None:
        """Which session the thread is at the moment."""
        return self._thread.session_id

    def wake(self) -> None:
        """Have it look again."""
        for each in (self._wake, self._mail, self._news):
            each.set()

    async def run(self) -> None:
        """Return when nothing is left to do."""
        helpers = [asyncio.create_task(each) for each in (self._deliver(), self._listen())]
        try:
            while True:
                self._wake.clear()
                item = await self._next()
                if item is not None:
                    await self._take(item)
                    continue
                await self._refresh()
                for helper in helpers:
                    if helper.done():
                        helper.result()
                if not self._follows and await self._with_news() is None and not await self._has_mail():
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await self._wake.wait()
        finally:
            await end(*helpers)

    async def _next(self) -> Item | None:
        try:
            async with self._parts.transaction() as connection:
                return await front_door_inbox.next_item(connection, self._thread)
        except UnreadableItemError as error:
            if not await self._clerk.failed(self._thread, error.item_id, error):
                raise
            self._mail.set()
            return None

    async def _refresh(self) -> None:
        async with self._parts.transaction() as connection:
            found = await front_door_threads.find(connection, self._thread.id)
        if found is not None:
            self._thread = found

    async def _with_news(self) -> DoorThread | None:
        """Return the thread if its session has news: which session that is and from where, in one look."""
        async with self._parts.transaction() as connection:
            return await front_door_threads.with_news(connection, self._thread.id)

    async def _has_mail(self) -> bool:
        async with self._parts.transaction() as connection:
            return await front_door_posts.due(connection, self._thread.id) is not None

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
            if error.code == SHUT:
                await self._clerk.turn_away(item)
                return
            await self._clerk.answer(self._thread, item, f":warning: {error}", state="refused")
        except PASSES:
            raise
        except Exception as error:
            if not await self._clerk.failed(self._thread, item.id, error, person=item.inbound.person):
                raise
        self._mail.set()
        self._news.set()
        await self._refresh()

    async def _deliver(self) -> None:
        while True:
            self._mail.clear()
            while await self._parts.courier.deliver(self._thread):
                self._wake.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._mail.wait()

    async def _listen(self) -> None:
        """Follow the thread's session whenever it does something, one session after the other."""
        while True:
            self._news.clear()
            thread = await self._with_news()
            if thread is not None and thread.session_id is not None:
                self._thread, self._follows = thread, True
                try:
                    await self._follow(thread, thread.session_id)
                except RefusedError as error:
                    _log.warning("session_not_followed", session_id=thread.session_id, code=error.code)
                    await asyncio.sleep(_REFUSED_SECONDS)
                except (*PASSES, NotToldError):
                    raise
                except Exception as error:
                    # It is none of the events': nothing of the session can be read from there on.
                    if not await self._left_out(thread, thread.seen_seq, error, with_all=True):
                        raise
                self._follows = False
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._news.wait()

    async def _follow(self, thread: DoorThread, session_id: str) -> None:
        link = await self._link(session_id)
        session = await self._parts.plane.get(f"/v1/sessions/{session_id}")
        account = Account(session_id, session["agent"]["model"]["id"], link, heading=await self._heading(thread))
        status, live = Status(self._parts, thread, link), Live(self._parts, thread)
        stream = self._parts.plane.follow(session_id, after=thread.seen_seq, previews=self._parts.service.streams)
        async with AsyncExitStack() as at_the_end:
            at_the_end.callback(self._wake.set)
            for close in (stream.aclose, status.end, live.end):
                at_the_end.push_async_callback(close)
            async for seq, event in stream:
                if seq is None:
                    await self._hear(live, event)
                    continue
                try:
                    await self._noted(thread, account.read(event), seq, status, live)
                except PASSES:
                    raise
                except Exception as error:
                    if not await self._left_out(thread, seq, error):
                        raise NotToldError(f"event {seq} of {session_id!r}") from error
                    if event.get("type") in ENDS:
                        account.rest()
                        await self._noted(thread, [Rest(())], seq, status, live)
                if account.rests and not await self._has_more(thread, session_id, seq):
                    return

    async def _hear(self, live: Live, preview: Json) -> None:
        try:
            await live.hear(preview)
        except (LookupError, TypeError, AttributeError) as error:
            _log.warning("preview_unreadable", thread_id=self._thread.id, error=type(error).__name__)

    async def _left_out(self, thread: DoorThread, seq: int, error: Exception, *, with_all: bool = False) -> bool:
        """Count that what a session did could not be told. After `MOST_FAILURES` the thread is told that, once.

        ``with_all``: it was everything after ``seq``. Returns whether what comes next is to be told.
        """
        kind, name = type(error).__name__, f"unread:{thread.session_id}:{seq}{':on' if with_all else ''}"
        async with self._parts.transaction() as connection:
            if not await front_door_threads.hold_session(connection, thread.session_id or ""):
                return True
            if name in await front_door_posts.bodies(connection, thread.id, name):
                return True
            if await front_door_threads.stumbled(connection, thread.id, seq) < MOST_FAILURES:
                return False
            said = f":warning: Something that was done here could not be shown: it failed {MOST_FAILURES} times"
            body = Text(markdown=f"{said} (`{kind}`) and is left out.")
            await front_door_posts.intend(connection, thread, self._parts.door.workspace_id, name, body)
            if with_all:
                await self._give_way(connection, thread)
                await front_door_threads.pass_over(connection, thread.id)
            await frontdoors.refuse(connection, self._parts.door, reason=f"failed: {kind}", place=thread.place)
        _log.error("event_left_out", thread_id=thread.id, session_id=thread.session_id, seq=seq, error=kind)
        self._mail.set()
        return True

    async def _has_more(self, thread: DoorThread, session_id: str, seq: int) -> bool:
        async with self._parts.transaction() as connection:
            return await front_door_threads.seen(connection, thread.id, session_id, seq)

    async def _heading(self, thread: DoorThread) -> str | None:
        """Return what a thread begins with that is still to be begun by us."""
        async with self._parts.transaction() as connection:
            begun = thread.root is not None or await front_door_posts.has_posts(connection, thread.id)
            return None if begun else thread.report

    async def _noted(self, thread: DoorThread, notes: list[Note], seq: int, status: Status, live: Live) -> None:
        """Put what an event comes to on record, all of it or nothing; a status gives way before an answer comes."""
        if not notes:
            return
        rests = any(isinstance(note, Rest) for note in notes)
        if rests:
            await status.end()
        bodies: list[tuple[str, Body]] = []
        for note in notes:
            if isinstance(note, Stand):
                bodies += await self._bodies(thread, note)
        if bodies or rests or Lost() in notes:
            await live.end()
        async with self._parts.transaction() as connection:
            # The session before its thread and its messages, as whoever deletes it.
            if not await front_door_threads.hold_session(connection, thread.session_id or ""):
                return
            if rests:
                await self._give_way(connection, thread)
            for name, body in bodies:
                await front_door_posts.intend(connection, thread, self._parts.door.workspace_id, name, body)
                await front_door_posts.finish(connection, thread.id, name, body)
            for note in notes:
                await self._put(connection, thread, note, seq)
        for doing in (note for note in notes if isinstance(note, Doing)):
            status.now(doing.status)
        self._mail.set()
        if rests:
            await status.clear()

    async def _give_way(self, connection: Connection, thread: DoorThread) -> None:
        """Take away what is said for as long as something goes on."""
        await front_door_posts.withdraw(connection, thread.id, "status:")
        await front_door_posts.withdraw(connection, thread.id, _ASKS)

    async def _put(self, connection: Connection, thread: DoorThread, note: Note, seq: int) -> None:
        match note:
            case Lost():
                await front_door_posts.drop_live(connection, thread.id)
            case Decided():
                await self._decided(connection, thread, note)
            case Rest():
                await self._rest(connection, thread, note, seq)
            case Doing():
                if await front_door_posts.standing(connection, thread.id, _ASKS) is not None:
                    await front_door_posts.withdraw(connection, thread.id, _ASKS)
            case Stand():
                pass

    async def _bodies(self, thread: DoorThread, note: Stand) -> list[tuple[str, Body]]:
        body = note.body
        if isinstance(body, Card):
            sealed = seal(self._parts.key, thread.id, body.tool_use_id, body.input)
            return [(note.name, body.model_copy(update={"seal": sealed}))]
        if not isinstance(body, Text):
            return [(note.name, body)]
        # Before it is cut: half of a secret would not be known for one.
        markdown = await self._parts.leaving.text(body.markdown)
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

    async def _decided(self, connection: Connection, thread: DoorThread, note: Decided) -> None:
        name = f"card:{note.tool_use_id}"
        card = (await front_door_posts.bodies(connection, thread.id, name)).get(name)
        if isinstance(card, Card):
            said = card.model_copy(update={"outcome": note.outcome})
            await front_door_posts.revise(connection, thread.id, name, said)

    async def _rest(self, connection: Connection, thread: DoorThread, note: Rest, seq: int) -> None:
        for name, card in (await front_door_posts.bodies(connection, thread.id, "card:")).items():
            if isinstance(card, Card) and card.outcome is None and card.tool_use_id not in note.waits_for:
                gone = card.model_copy(update={"outcome": "nobody need decide any more"})
                await front_door_posts.revise(connection, thread.id, name, gone)
        await front_door_posts.drop_live(connection, thread.id)
        if note.waits_for:
            name, body = f"{_ASKS}{thread.session_id}:{seq}", Working(status="waiting for approval")
            await front_door_posts.intend(connection, thread, self._parts.door.workspace_id, name, body)
        await front_door_threads.seen(connection, thread.id, thread.session_id or "", seq)

    async def _link(self, session_id: str) -> str:
        async with self._parts.transaction() as connection:
            door = await frontdoors.get(connection, self._parts.door.id)
        return (door.rules.session_url or "{session_id}").replace("{session_id}", session_id)
