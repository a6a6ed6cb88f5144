"""Following sessions: one LISTEN connection per process wakes whoever follows a session that has moved.

A notification is only a reason to look. What is recorded is read from the log, so a notification that is lost or
late costs time and nothing else; previews of text live in notifications alone and may be lost.
"""

import asyncio
import json
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from controlplane.store import deltas, events
from controlplane.store.listening import listen
from controlplane.store.pool import Database
from controlplane.tasks import end

POLL_SECONDS = 5.0
"""How late a follower is at worst when notifications are lost."""

MAX_PENDING_DELTAS = 500
"""Beyond this a client is too slow for previews; it still gets every recorded event."""


@dataclass(frozen=True)
class Moved:
    """The session has an event with this seq."""

    seq: int


@dataclass(frozen=True)
class Preview:
    """A frame that shows a part of an event which is not recorded yet."""

    event_id: str
    frame: dict[str, Any]


class Follower:
    """One client's view of what happens to a session, in the order in which it was announced."""

    def __init__(self, *, wants_previews: bool):
        self._wants_previews = wants_previews
        self._pending: deque[Moved | Preview] = deque()
        self._previews = 0
        self._abandoned: str | None = None
        self._wake = asyncio.Event()
        self.ended = False

    def moved(self, seq: int) -> None:
        """Note that the session has an event with ``seq``."""
        if self._pending and isinstance(self._pending[-1], Moved):
            self._pending.pop()
        self._pending.append(Moved(seq))
        self._wake.set()

    def preview(self, preview: Preview) -> None:
        """Note a preview; a client that is too slow loses the rest of that event's previews."""
        if not self._wants_previews or preview.event_id == self._abandoned:
            return
        if self._previews >= MAX_PENDING_DELTAS:
            self._abandoned = preview.event_id
            return
        self._previews += 1
        self._pending.append(preview)
        self._wake.set()

    def end(self) -> None:
        """Tell the client's stream to end: the process is stopping."""
        self.ended = True
        self._wake.set()

    def pop(self) -> Moved | Preview | None:
        """Return what comes next, if there is something."""
        if not self._pending:
            if not self.ended:
                self._wake.clear()
            return None
        item = self._pending.popleft()
        self._previews -= isinstance(item, Preview)
        return item

    async def wait(self, seconds: float) -> None:
        """Return when something is pending, or after ``seconds``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()


class Hub:
    """Hears the notifications of Postgres and hands them to the followers of this process."""

    def __init__(self, database: Database):
        self._url = database.url
        self._followers: dict[str, set[Follower]] = {}
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    @contextmanager
    def follow(self, session_id: str, *, wants_previews: bool) -> Generator[Follower]:
        """Yield a follower of ``session_id`` that hears everything from now on."""
        follower = Follower(wants_previews=wants_previews)
        if self._stopping:
            follower.end()
        self._followers.setdefault(session_id, set()).add(follower)
        try:
            yield follower
        finally:
            others = self._followers[session_id]
            others.discard(follower)
            if not others:
                del self._followers[session_id]

    @property
    def followers(self) -> int:
        """How many there are."""
        return sum(len(followers) for followers in self._followers.values())

    def start(self) -> None:
        """Begin to listen, in the background and for as long as it takes to get a connection."""
        channels = [events.CHANNEL, deltas.CHANNEL]
        self._task = asyncio.create_task(listen(self._url, channels, self._hand_out, connected=self._wake_all))

    def end_streams(self) -> None:
        """Let every stream end, so that the server can stop without cutting them off."""
        self._stopping = True
        for followers in self._followers.values():
            for follower in followers:
                follower.end()

    async def stop(self) -> None:
        """End every stream and stop listening."""
        self.end_streams()
        if self._task is not None:
            await end(self._task)

    def _wake_all(self) -> None:
        for followers in self._followers.values():
            for follower in followers:
                follower.moved(2**63 - 1)

    def _hand_out(self, channel: str, payload: str) -> None:
        if channel == events.CHANNEL:
            session_id, _, seq = payload.partition(" ")
            for follower in self._followers.get(session_id, ()):
                follower.moved(int(seq))
            return
        message = json.loads(payload)
        frame = message["f"]
        event_id = frame["event"]["id"] if frame["type"] == "event_start" else frame["event_id"]
        for follower in self._followers.get(message["s"], ()):
            follower.preview(Preview(event_id, frame))
