"""Brings what the ledger has to where people read it: once, whole, in order, and no faster than the service wants."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar, cast

import structlog

from controlplane.frontdoors.contract import (
    AmbiguousError,
    Attachment,
    Body,
    Card,
    Choice,
    DeclinedError,
    LimitedError,
    NotStreamedError,
    Post,
    Service,
    Text,
    Trouble,
)
from controlplane.frontdoors.failures import MOST_FAILURES, PASSES
from controlplane.frontdoors.leaving import Leaving
from controlplane.frontdoors.words import listed
from controlplane.store import front_door_posts, front_door_slots, front_door_threads, frontdoors
from controlplane.store.front_door_posts import DuePost, UnreadablePostError
from controlplane.store.front_door_threads import DoorThread
from controlplane.store.frontdoors import FrontDoorRecord
from controlplane.store.pool import Connection, Database

T = TypeVar("T")

SETTLE_SECONDS = 15.0
"""Before one who has no answer looks what became of a message: a request that its sender has given up, or died over,
may still be worked on at the other end, and after a look that comes too early it would be sent twice."""

_ANSWERED_SECONDS = 1.0  # an error that the service has answered with is the end of its work
_LONGEST_PAUSE_SECONDS = 30.0
_LOOK_BACK = timedelta(minutes=5)  # clocks differ

_INSTEAD = "instead:"
_DECLINED = "declined: "
"""Before the service's word for it in the list of what was refused."""

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
        leaving: Leaving,
    ):
        self._database = database
        self._service = service
        self._door = door
        self._content = content
        self._leaving = leaving

    async def deliver(self, at: DoorThread) -> bool:
        """Do what is due first in a thread; False if nothing is. Returns when it is done, however long that takes.

        What it raises is to be tried again, and is counted; after `MOST_FAILURES` the message is left instead.
        """
        try:
            async with self._database.transaction(self._door.workspace_id) as connection:
                at = await front_door_threads.find(connection, at.id) or at
                due = await front_door_posts.due(connection, at.id)
        except UnreadablePostError as error:
            if not await self._left(at, error.post_id, error):
                raise
            return True
        if due is None:
            return False
        try:
            if due.state == "posted":
                await self._correct(at, due)
            else:
                await self._post(at, due)
        except DeclinedError as error:
            _log.warning("post_declined", thread_id=at.id, post_id=due.id, reason=error.reason)
            await self._fail(at, due, error)
        except PASSES:
            raise
        except Exception as error:
            if not await self._left(at, due.id, error):
                raise
        return True

    async def _left(self, at: DoorThread, post_id: str, error: Exception) -> bool:
        """Count that nothing could be done about a message. After `MOST_FAILURES` it is left, and the thread told.

        Returns whether that is so.
        """
        kind = type(error).__name__
        async with self._database.transaction(self._door.workspace_id) as connection:
            await front_door_posts.hold_session(connection, post_id)
            post = await front_door_posts.stumbled(connection, post_id)
            if post is None or post.failures < MOST_FAILURES:
                return post is None
            await front_door_posts.given_up(connection, post_id)
            await frontdoors.refuse(connection, self._door, reason=f"failed: {kind}", place=at.place)
            if not post.withdrawn and not post.name.startswith(_INSTEAD):
                said = f":warning: A message could not be brought here: it failed {MOST_FAILURES} times (`{kind}`)"
                body = Text(markdown=f"{said} and is left now.")
                await self._intend(connection, at, post.session_id, f"{_INSTEAD}{post_id}", body, of=post_id)
        _log.error("post_given_up", thread_id=at.id, post_id=post_id, error=kind)
        return True

    async def _intend(
        self, connection: Connection, at: DoorThread, session_id: str | None, name: str, body: Body, *, of: str
    ) -> None:
        """Have a message come in the place of another (``of``), which was said for this session."""
        of_its_session = at.model_copy(update={"session_id": session_id})
        await front_door_posts.intend(connection, of_its_session, self._door.workspace_id, name, body, instead_of=of)

    async def _fail(self, at: DoorThread, due: DuePost, declined: DeclinedError) -> None:
        """Put on record that a message does not stand as it should, and have what it says stand in another way."""
        instead = None if due.withdrawn else _instead(due, declined)
        async with self._database.transaction(self._door.workspace_id) as connection:
            await front_door_posts.hold_session(connection, due.id)
            if not await front_door_posts.failed(connection, due):
                return
            await frontdoors.refuse(
                connection, self._door, reason=f"{_DECLINED}{declined.reason}"[:100], place=at.place
            )
            if isinstance(instead, Attachment) and at.anchor is None:
                # A file cannot be answered, so that it begins no thread.
                head = Text(markdown=f"**{at.report}**: see the file.")
                await self._intend(connection, at, due.session_id, f"{_INSTEAD}{due.id}:head", head, of=due.id)
            if instead is not None:
                await self._intend(connection, at, due.session_id, f"{_INSTEAD}{due.id}", instead, of=due.id)

    async def _fit(self, due: DuePost) -> Post:
        post = due.post()
        return post.model_copy(update={"body": await self._leaving.body(post.body)})

    async def _correct(self, at: DoorThread, due: DuePost) -> None:
        remote = due.remote or ""
        if due.withdrawn:
            await self.patiently("withdraw", lambda: self._service.withdraw(at.place, remote))
            await self._note(front_door_posts.gone, due.id)
        else:
            post = await self._fit(due)
            await self.patiently("change", lambda: self._service.change(at.place, post))
            await self._note(front_door_posts.posted, due.id, remote, revision=due.revision)

    async def _post(self, at: DoorThread, due: DuePost) -> None:
        if due.state == "sending":
            await asyncio.sleep(max(0.0, SETTLE_SECONDS - (due.sent_seconds or 0.0)))
            if await self._found(at, due):
                return
            if due.withdrawn:
                await self._note(front_door_posts.gone, due.id)
                return
        if isinstance(due.body, Attachment) and due.body.remote is None:
            due = await self._prepared(due, due.body)
        await self._send(at, due)

    async def _send(self, at: DoorThread, due: DuePost) -> None:
        await self._slot(at.place, pause_seconds=self._service.place_pause_seconds)
        async with self._database.transaction(self._door.workspace_id) as connection:
            sent = await front_door_posts.sending(connection, due)
        if sent is None:
            return
        try:
            remote = await self._service.send(at.place, at.anchor, await self._fit(sent))
        except NotStreamedError:
            await self._note(front_door_posts.put_off, sent)
        except LimitedError as error:
            await self._note(front_door_posts.unsent, sent)
            await self._postpone(at.place, error.seconds)
        except AmbiguousError as error:
            _log.info("post_ambiguous", thread_id=at.id, post_id=sent.id, error=str(error))
            await asyncio.sleep(_ANSWERED_SECONDS if error.answered else SETTLE_SECONDS)
            if not await self._found(at, sent):
                await self._note(front_door_posts.unsent, sent)
        else:
            await self._stands(at, sent, remote, revision=sent.revision)

    async def _found(self, at: DoorThread, due: DuePost) -> bool:
        """Look for a message that may have been taken; note it if it was."""
        async with self._database.transaction(self._door.workspace_id) as connection:
            others = await front_door_posts.remotes(connection, at.id)
        # Counted from when it was sent, however long the look takes.
        since = (due.sent_at or datetime.now(UTC)) - _LOOK_BACK
        remote = await self.patiently(
            "find", lambda: self._service.find(at.place, at.anchor, due.post(), others=others, since=since)
        )
        if remote is not None:
            # What was changed after it was sent may not be what stands there.
            await self._stands(at, due, remote, revision=-1 if due.revision or due.streamed else due.revision)
        return remote is not None

    async def _stands(self, at: DoorThread, due: DuePost, remote: str, *, revision: int) -> None:
        async with self._database.transaction(self._door.workspace_id) as connection:
            if at.anchor is None and not isinstance(due.body, Attachment):
                await front_door_threads.anchor(connection, at, remote)
            await front_door_posts.posted(connection, due.id, remote, revision=revision)

    async def _prepared(self, due: DuePost, attachment: Attachment) -> DuePost:
        fit = cast("Attachment", await self._leaving.body(attachment))
        if fit.text is not None:
            content = fit.text.encode()
        else:
            content = await self._content(attachment.file_id or "")
            if kinds := await self._leaving.secrets_in(content):
                raise DeclinedError(f"it has secrets in it ({', '.join(sorted(set(kinds)))})")
        remote = await self.patiently("prepare", lambda: self._service.prepare(fit, content))
        body = attachment.model_copy(update={"remote": remote})
        await self._note(front_door_posts.prepared, due.id, body)
        return due.model_copy(update={"body": body})

    async def patiently(self, kind: str, ask: Callable[[], Awaitable[T]]) -> T:
        """Do something that may be done again, until the service has an answer.

        ``kind``: what it is; once the service wants none of it for a while, no thread asks for it meanwhile.
        """
        pause = 0.5
        while True:
            await self._slot(f"of all:{kind}", pause_seconds=0.0)
            try:
                return await ask()
            except LimitedError as error:
                await self._postpone(f"of all:{kind}", error.seconds)
            except AmbiguousError:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def _slot(self, name: str, *, pause_seconds: float) -> None:
        async with self._database.transaction(self._door.workspace_id) as connection:
            wait = await front_door_slots.reserve(connection, self._door, name, pause_seconds=pause_seconds)
        await asyncio.sleep(wait)

    async def _postpone(self, name: str, seconds: float) -> None:
        async with self._database.transaction(self._door.workspace_id) as connection:
            await front_door_slots.postpone(connection, self._door, name, seconds=seconds)

    async def _note(self, change: Callable[..., Awaitable[None]], *given: object, **named: object) -> None:
        async with self._database.transaction(self._door.workspace_id) as connection:
            await change(connection, *given, **named)


def _instead(due: DuePost, declined: DeclinedError) -> Body | None:
    """Return what is to stand in a thread in the place of a message that the service declined, or declined to change.

    None: nothing more can be done about it.
    """
    match due.body:
        case Attachment() as file:
            return Text(markdown=f":paperclip: `{file.name}` could not be sent: {declined.reason}.")
        case _ if declined.about == "place":
            return None
        case Text(live_for=None) as text if not due.name.startswith(_INSTEAD):
            whole = text.markdown if text.footer is None else f"{text.markdown}\n\n{text.footer}"
            return text if declined.about == "change" else Attachment(name="answer.md", text=whole)
        case Card() | Trouble() | Choice() as body if (due.state == "posted") == _is_decided(body):
            return Text(markdown=_in_words(body, declined.reason))
        case _:
            return None


def _is_decided(body: Body) -> bool:
    return isinstance(body, Card) and body.outcome is not None


def _in_words(body: Card | Trouble | Choice, reason: str) -> str:
    match body:
        case Card(outcome=None):
            said = f":raised_hand: `{body.tool}` waits for approval, and its card could not be shown: {reason}."
            return f"{said} Decide with `bulkhead approvals`."
        case Card():
            return f":raised_hand: `{body.tool}`: {body.outcome}."
        case Trouble():
            return f":x: The turn failed. {body.message}\n\nSay `resume` to try it again."
        case Choice():
            return f"Which agent is to answer? Say `use NAME`:\n{listed([*body.agents.values()])}"
