"""A folder as a tar archive, read in bounded steps while commands may change it."""

import os
import stat
from collections.abc import Generator, Iterator

from sandbox.supervisor.folders import descend, look, names, open_folder
from sandbox.supervisor.frames import Header
from sandbox.supervisor.tar import (
    END,
    FILE,
    FOLDER,
    LINK,
    MAX_DEPTH,
    MAX_ENTRIES,
    MAX_PATH_BYTES,
    Entry,
    encode,
    padding,
)

MAX_SKIPPED_SHOWN = 20
MAX_FOLDER_BYTES = 8 << 20
"""The names of folders that are still to be visited, in process 1's memory."""
_READ_BYTES = 64 << 10


class Packing:
    """The archive of one folder; what could not be put in is said in `receipt`."""

    def __init__(self, folder: int, *, max_bytes: int):
        self._root, self._device = folder, os.fstat(folder).st_dev
        self._left = max_bytes - len(END)
        self._seen = self._entries = self._skipped_count = self._bytes = self._folder_bytes = 0
        self._skipped: list[str] = []

    @classmethod
    def of(cls, path: str, *, max_bytes: int) -> "Packing":
        """Open the folder."""
        return cls(open_folder(path), max_bytes=max_bytes)

    def pieces(self) -> Generator[bytes, None, None]:
        """Yield the archive; empty pieces mean that time has passed without any."""
        pending: list[tuple[bytes, ...]] = [()]
        while pending:
            path = pending.pop()
            self._folder_bytes -= sum(map(len, path))
            try:
                folder = descend(self._root, path)
            except OSError as error:
                self._skip(path, error.strerror or "unreadable")
                continue
            try:
                yield from self._folder(folder, path, pending)
            finally:
                os.close(folder)
        self._bytes += len(END)
        yield END

    def receipt(self) -> Header:
        """Say what is in the archive and what is not."""
        return {
            "entries": self._entries,
            "bytes": self._bytes,
            "skipped": self._skipped,
            "skipped_count": self._skipped_count,
        }

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._root)

    def _skip(self, path: tuple[bytes, ...], reason: str) -> None:
        self._skipped_count += 1
        if len(self._skipped) < MAX_SKIPPED_SHOWN:
            self._skipped.append(f"{b'/'.join(path).decode(errors='replace')[:500]}: {reason}")

    def _folder(self, folder: int, path: tuple[bytes, ...], pending: list[tuple[bytes, ...]]) -> Iterator[bytes]:
        listed: list[bytes] = []
        try:
            for name in names(folder):
                self._seen += 1
                if self._seen > MAX_ENTRIES:
                    self._skip(path, f"more than {MAX_ENTRIES} entries; the rest of this folder is left out")
                    break
                listed.append(name)
        except OSError as error:
            self._skip(path, error.strerror or "unreadable")
        inner: list[tuple[bytes, ...]] = []
        for name in sorted(listed):
            place = (*path, name)
            try:
                found = look(folder, name)
                if found is not None:
                    yield from self._entry(folder, place, found)
                    if stat.S_ISDIR(found.st_mode) and found.st_dev == self._device and self._has_room_for(place):
                        inner.append(place)
            except OSError as error:
                self._skip(place, error.strerror or "unreadable")
            yield b""
        pending += reversed(inner)

    def _has_room_for(self, path: tuple[bytes, ...]) -> bool:
        size = sum(map(len, path))
        if len(path) >= MAX_DEPTH:
            self._skip(path, "too deep; its content is left out")
            return False
        if self._folder_bytes + size > MAX_FOLDER_BYTES:
            self._skip(path, "too many folders; its content is left out")
            return False
        self._folder_bytes += size
        return True

    def _entry(self, folder: int, path: tuple[bytes, ...], found: os.stat_result) -> Iterator[bytes]:
        name, mode, modified_at = b"/".join(path), stat.S_IMODE(found.st_mode), found.st_mtime_ns // 10**9
        if len(name) >= MAX_PATH_BYTES:
            self._skip(path, "its path is too long")
        elif found.st_dev != self._device:
            self._skip(path, "on another file system")
        elif stat.S_ISDIR(found.st_mode):
            yield self._header(path, Entry(name + b"/", FOLDER, mode, 0, modified_at))
        elif stat.S_ISLNK(found.st_mode):
            target = os.readlink(path[-1], dir_fd=folder)
            yield self._header(path, Entry(name, LINK, mode, 0, modified_at, target))
        elif stat.S_ISREG(found.st_mode):
            yield from self._file(folder, path)
        else:
            self._skip(path, "a socket, pipe or device")

    def _header(self, path: tuple[bytes, ...], entry: Entry) -> bytes:
        header = encode(entry)
        size = len(header) + entry.size + padding(entry.size)
        if size > self._left:
            self._skip(path, f"its {entry.size} bytes are over the limit of the archive")
            return b""
        self._left -= size
        self._bytes += size
        self._entries += 1
        return header

    def _file(self, folder: int, path: tuple[bytes, ...]) -> Iterator[bytes]:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        fd = os.open(path[-1], flags, dir_fd=folder)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_dev != self._device:
                self._skip(path, "changed while it was read")
                return
            mode, modified_at = stat.S_IMODE(found.st_mode), found.st_mtime_ns // 10**9
            entry = Entry(b"/".join(path), FILE, mode, found.st_size, modified_at)
            if header := self._header(path, entry):
                yield header
                yield from self._content(fd, path, found)
        finally:
            os.close(fd)

    def _content(self, fd: int, path: tuple[bytes, ...], found: os.stat_result) -> Iterator[bytes]:
        left = found.st_size
        while left and (data := _read(fd, min(left, _READ_BYTES))):
            left -= len(data)
            yield data
        now = os.fstat(fd)
        if left or (now.st_size, now.st_mtime_ns) != (found.st_size, found.st_mtime_ns):
            self._skip(path, "changed while it was read")
        while left:
            size = min(left, _READ_BYTES)
            left -= size
            yield bytes(size)
        yield bytes(padding(found.st_size))


def _read(fd: int, size: int) -> bytes:
    try:
        return os.read(fd, size)
    except OSError:
        return b""
