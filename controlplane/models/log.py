"""The verbatim log: what was asked and answered, byte for byte, written behind the requests' backs."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from datetime import timedelta

import psycopg
import structlog
import zstandard

from controlplane.store import model_requests
from controlplane.store.model_requests import KeptExchange
from controlplane.store.pool import ALL_WORKSPACES, Database
from controlplane.tasks import end

QUEUE_BYTES = 128 * 1024 * 1024
"""Of bodies in memory that are not written yet: two of the largest, or hundreds of usual ones."""

PRUNE_SECONDS = 600
"""Between two looks for what has been kept long enough; days matter, not minutes."""

PRUNED_AT_ONCE = 200
"""Rows of up to some megabytes in one transaction, which nobody waits for."""

DRAIN_SECONDS = 2
"""As long as the gateway waits for streams that are still open when it ends."""

_LEVEL = 3  # zstd's own default: a tenth of the size at hundreds of megabytes a second

_log = structlog.get_logger(__name__)

Mask = Callable[[bytes], bytes]


class ModelLog:
    """Keeps exchanges for ``days``, or none at all; what finds no room while it waits is dropped, and counted."""

    def __init__(self, database: Database, *, days: int, queue_bytes: int = QUEUE_BYTES):
        self._database = database
        self._days = days
        self._room = queue_bytes
        self._queue: asyncio.Queue[Entry] = asyncio.Queue()
        self._dropped = 0

    def entry(self, request_id: str) -> "Entry":
        """Begin an entry."""
        return Entry(self, request_id)

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncGenerator[None]:
        """Write for as long as the context lasts, and a moment longer."""
        tasks = [asyncio.create_task(each) for each in (self._write_all(), self._prune_all())]
        try:
            yield
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._queue.join(), DRAIN_SECONDS)
        finally:
            await end(*tasks)

    async def prune(self) -> None:
        """Remove what has been kept long enough, some at a time."""
        removed = PRUNED_AT_ONCE
        while removed == PRUNED_AT_ONCE:
            async with self._database.transaction(ALL_WORKSPACES) as connection:
                removed = await model_requests.prune(
                    connection, older_than=timedelta(days=self._days), limit=PRUNED_AT_ONCE
                )

    def take(self, size: int) -> bool:
        """Take room for so many bytes, if there is some."""
        if not self._days or size > self._room:
            return False
        self._room -= size
        return True

    def give(self, size: int) -> None:
        """Give room back."""
        self._room += size

    def put(self, entry: "Entry") -> None:
        """Have an entry written when there is time."""
        self._queue.put_nowait(entry)

    def drop(self, request_id: str, cause: str) -> None:
        """Count an entry that is not kept."""
        if self._days:
            self._dropped += 1
            _log.warning("model_log_dropped", request_id=request_id, cause=cause, dropped=self._dropped)

    async def _write_all(self) -> None:
        while True:
            entry = await self._queue.get()
            try:
                kept = await asyncio.to_thread(entry.packed)
                async with self._database.transaction(ALL_WORKSPACES) as connection:
                    await model_requests.keep(connection, kept)
            except (psycopg.Error, TimeoutError) as error:
                self.drop(entry.request_id, type(error).__name__)
            finally:
                entry.release()
                self._queue.task_done()

    async def _prune_all(self) -> None:
        while True:
            try:
                await self.prune()
            except (psycopg.Error, TimeoutError) as error:
                _log.warning("model_log_not_pruned", cause=type(error).__name__)
            await asyncio.sleep(PRUNE_SECONDS)


class Entry:
    """One exchange as it goes on; what it holds counts against the log's room from the beginning."""

    def __init__(self, log: ModelLog, request_id: str):
        self.request_id = request_id
        self._log = log
        self._held = 0
        self._is_dropped = False
        self._request = b""
        self._mask: Mask = bytes
        self._response: list[bytes] = []
        self._response_type = ""

    def asks(self, body: bytes, mask: Mask) -> None:
        """Keep what is sent, in place of what was sent before; ``mask`` takes the provider's key out of it."""
        self.release()
        self._request, self._mask = (body, mask) if self._takes(body) else (b"", bytes)

    def answers(self, content_type: str) -> None:
        """Keep of which kind the answer is."""
        self._response_type = content_type

    def add(self, chunk: bytes) -> None:
        """Keep more of the answer."""
        if self._takes(chunk):
            self._response.append(chunk)

    def finish(self) -> None:
        """Have what there is written."""
        if self._request:
            self._log.put(self)

    def release(self) -> None:
        """Let go of what is held."""
        self._log.give(self._held)
        self._held, self._request, self._response = 0, b"", []

    def packed(self) -> KeptExchange:
        """Return the exchange as it is kept."""
        pack = zstandard.ZstdCompressor(level=_LEVEL).compress
        request, response = self._mask(self._request), b"".join(self._response)
        return KeptExchange(self.request_id, pack(request), pack(response), self._response_type)

    def _takes(self, piece: bytes) -> bool:
        if self._is_dropped:
            return False
        if self._log.take(len(piece)):
            self._held += len(piece)
            return True
        self._is_dropped = True
        self.release()
        self._log.drop(self.request_id, "the queue is full")
        return False
