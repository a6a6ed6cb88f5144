"""What commands print: bounded while they run, kept when they have ended, read from any offset."""

import os
import sys
from collections.abc import Iterator, Sequence

from sandbox.supervisor.frames import CHUNK_BYTES, Header
from sandbox.supervisor.typed import NamedTuple

MARK_BYTES = 48
"""Room for the sentence that the worker's side puts where output was dropped."""
WHOLE = sys.maxsize
MAX_COMMANDS = 20_000
"""Verdicts are never forgotten, or a command could run twice; this many take some 10 MB of process 1's memory."""


class Page(NamedTuple):
    """A piece of a stream, the gap in it, and where the next piece begins."""

    before: bytes
    dropped: int
    after: bytes
    cursor: int
    unread: int


class Window(NamedTuple):
    """What is kept of a stream: its first bytes and its last ones; what came between is dropped."""

    head: bytes
    tail: bytes
    total: int

    def page(self, offset: int, limit: int, *, ended: bool) -> Page:
        """Return what was printed from the offset on, at most ``limit`` bytes with the mark of a gap among them.

        A character that is still incomplete waits for its rest.
        """
        reached = min(max(offset, 0), self.total)
        before, after, dropped = self.head[reached : reached + limit], b"", 0
        reached += len(before)
        rest = self.total - len(self.tail)
        room = limit - len(before) - (MARK_BYTES if rest > reached else 0)
        if reached >= len(self.head) and (room >= 0 or not before):
            dropped = max(rest - reached, 0)
            reached += dropped
            after = self.tail[reached - rest :][: max(room, 0)]
            reached += len(after)
        if cut := 0 if ended and reached == self.total else _unfinished(after or before):
            before, after = (before, after[:-cut]) if after else (before[:-cut], after)
            reached -= cut
        return Page(before, dropped, after, reached, self.total - reached)


def _unfinished(data: bytes) -> int:
    """Return how many bytes at the end are a UTF-8 character's beginning without its end."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte >= 0xC0:
            size = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if back < size else 0
        if byte < 0x80:
            return 0
    return 0


class Capture:
    """One output stream while its command runs."""

    def __init__(self, limit: int):
        room = max(limit - MARK_BYTES, 0)
        self._head_room, self._tail_room = room - room // 2, room // 2
        self._head, self._tail = bytearray(), bytearray()
        self.total = 0

    def feed(self, data: bytes) -> None:
        """Take what was printed."""
        self.total += len(data)
        taken = self._head_room - len(self._head)
        if taken > 0:
            self._head += data[:taken]
            data = data[taken:]
        self._tail += data
        if len(self._tail) > 2 * self._tail_room + CHUNK_BYTES:
            self._trim()

    def _trim(self) -> None:
        del self._tail[: max(len(self._tail) - self._tail_room, 0)]

    def window(self) -> Window:
        """Return what is kept."""
        self._trim()
        return Window(bytes(self._head), bytes(self._tail), self.total)


def excerpt(windows: Sequence[Window], offsets: Sequence[int], limit: int, *, ended: bool) -> tuple[Header, bytes]:
    """Return what both streams have from their offsets on, as the fields and the content of an answer."""
    pages = [window.page(offset, limit, ended=ended) for window, offset in zip(windows, offsets, strict=True)]
    header = {
        "pages": [(len(page.before), page.dropped, len(page.after)) for page in pages],
        "cursor": [page.cursor for page in pages],
        "dropped_bytes": sum(page.dropped for page in pages),
        "unread_bytes": sum(page.unread for page in pages),
    }
    return header, b"".join(page.before + page.after for page in pages)


class Verdict(NamedTuple):
    """How a command ended."""

    status: str
    exit_code: int | None
    duration_ms: float
    survivors: int


class _Place(NamedTuple):
    turn: int
    offset: int
    sizes: tuple[int, ...]


class Spool:
    """Finished results: all verdicts, and the newest outputs in two unnamed memory files used in turn."""

    def __init__(self, limit: int):
        self._half = max(limit // 2, 1)
        self._results: dict[str, tuple[Verdict, _Place]] = {}
        self._turn = 0
        self._files: dict[int, int] = {0: os.memfd_create("spool")}

    @property
    def full(self) -> bool:
        """Whether no further command can be remembered."""
        return len(self._results) >= MAX_COMMANDS

    def put(self, exec_id: str, verdict: Verdict, windows: Sequence[Window]) -> None:
        """Keep a result."""
        payload = b"".join(window.head + window.tail for window in windows)
        offset = os.fstat(self._files[self._turn]).st_size
        if offset and offset + len(payload) > self._half:
            self._turn, offset = self._turn + 1, 0
            self._files[self._turn] = os.memfd_create("spool")
            if self._turn - 2 in self._files:
                os.close(self._files.pop(self._turn - 2))
        os.pwrite(self._files[self._turn], payload, offset)
        sizes = tuple(size for window in windows for size in (len(window.head), len(window.tail), window.total))
        self._results[exec_id] = verdict, _Place(self._turn, offset, sizes)

    def get(self, exec_id: str) -> tuple[Verdict, list[Window]] | None:
        """Return a result; its output is dropped whole if newer outputs have taken its place."""
        if exec_id not in self._results:
            return None
        verdict, (turn, offset, sizes) = self._results[exec_id]
        windows: list[Window] = []
        for head, tail, total in (sizes[at : at + 3] for at in range(0, len(sizes), 3)):
            kept = os.pread(self._files[turn], head + tail, offset) if turn in self._files else b""
            windows.append(Window(kept[:head], kept[head:], total))
            offset += head + tail
        return verdict, windows

    def verdicts(self) -> Iterator[tuple[str, Verdict, int]]:
        """Yield every result, the newest first, with the number of bytes that it printed."""
        for exec_id, (verdict, place) in reversed(self._results.items()):
            yield exec_id, verdict, sum(place.sizes[2::3])
