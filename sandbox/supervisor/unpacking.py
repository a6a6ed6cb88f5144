"""A tar archive into a folder: unpacked beside what is there, and moved to its place once it is whole."""

import os
import stat
from collections.abc import Iterator

from sandbox.supervisor.folders import Path, descend, look, names, open_folder, remove
from sandbox.supervisor.frames import Header
from sandbox.supervisor.tar import FILE, FOLDER, MAX_TIME, Entry, Reader, parts, refused, shown

MAX_FOLDER_BYTES = 8 << 20
"""The names of folders, kept in process 1's memory until their modes are set."""
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_UNKNOWN_TIME = MAX_TIME + 1


class Unpacking:
    """One archive on its way; whatever happens to it, nothing in the folder changes before `install`."""

    def __init__(self, folder: int, *, max_bytes: int):
        self._target = folder
        self._name = b".bulkhead-" + os.urandom(8).hex().encode()
        os.mkdir(self._name, 0o700, dir_fd=folder)
        self._staging = descend(folder, [self._name])
        self._reader = Reader(self, max_bytes=max_bytes)
        self._folders: dict[tuple[bytes, ...], tuple[int, int]] = {}
        self._folder_bytes = 0
        self._last: tuple[tuple[bytes, ...], int] = (), descend(self._staging, [])
        self._file: tuple[int, Entry] | None = None

    @classmethod
    def into(cls, path: str, *, max_bytes: int) -> "Unpacking":
        """Open the folder, and make it if it is not there."""
        folder = open_folder(path, create=True)
        try:
            return cls(folder, max_bytes=max_bytes)
        except OSError:
            os.close(folder)
            raise

    def feed(self, data: bytes) -> None:
        """Take the next piece of the archive; raises `RefusedError`."""
        self._reader.feed(data)

    def receipt(self) -> Header:
        """Say what the archive had."""
        return {"entries": self._reader.entries, "bytes": self._reader.taken}

    def begin(self, entry: Entry) -> None:
        """Take an entry; see `tar.Taker`."""
        path = tuple(parts(entry))
        if not path:
            return
        try:
            folder = self._folder(path[:-1])
            if entry.kind == FOLDER:
                self._make(folder, path, entry)
            elif entry.kind == FILE:
                self._file = os.open(path[-1], _NEW, 0o600, dir_fd=folder), entry
            else:
                os.symlink(entry.target, path[-1], dir_fd=folder)
                _set_time(path[-1], entry.modified_at, folder=folder)
        except FileExistsError as error:
            raise refused(f"{shown(entry.name)} is in it twice") from error
        except OSError as error:
            raise refused(f"{shown(entry.name)}: {error.strerror}") from error

    def _make(self, folder: int, path: tuple[bytes, ...], entry: Entry) -> None:
        found = look(folder, path[-1])
        if found is None:
            os.mkdir(path[-1], 0o700, dir_fd=folder)
        elif not stat.S_ISDIR(found.st_mode):
            raise refused(f"{shown(entry.name)} is in it twice")
        self._note(path, entry.mode, entry.modified_at)

    def _note(self, path: tuple[bytes, ...], mode: int, modified_at: int) -> None:
        if path not in self._folders:
            self._folder_bytes += sum(map(len, path)) + 100
            if self._folder_bytes > MAX_FOLDER_BYTES:
                raise refused("it has too many folders")
        self._folders[path] = mode, modified_at

    def _folder(self, path: tuple[bytes, ...]) -> int:
        if self._last[0] != path:
            folder = descend(self._staging, [])
            for depth, name in enumerate(path, 1):
                try:
                    if look(folder, name) is None:
                        os.mkdir(name, 0o700, dir_fd=folder)
                        self._note(path[:depth], 0o755, _UNKNOWN_TIME)
                    inner = descend(folder, [name])
                finally:
                    os.close(folder)
                folder = inner
            os.close(self._last[1])
            self._last = path, folder
        return self._last[1]

    def write(self, data: bytes) -> None:
        """Take a piece of a file; see `tar.Taker`."""
        if self._file is None:
            return
        try:
            while data:
                data = data[os.write(self._file[0], data) :]
        except OSError as error:
            raise refused(f"{shown(self._file[1].name)}: {error.strerror}") from error

    def end(self) -> None:
        """Set a file's mode and time; see `tar.Taker`."""
        if self._file is None:
            return
        (fd, entry), self._file = self._file, None
        try:
            os.fchmod(fd, entry.mode)
            _set_time(fd, entry.modified_at)
        finally:
            os.close(fd)

    def install(self) -> Iterator[None]:
        """Move everything to its place, one file at a time, in small steps; raises `RefusedError`.

        Whatever is in the way is found before anything is moved.
        """
        self._reader.finish()
        yield from self._merge(move=False)
        yield from self._merge(move=True)
        for path in sorted(self._folders, reverse=True):
            mode, modified_at = self._folders[path]
            try:
                fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=(place := descend(self._target, path)))
            except OSError:
                continue
            os.close(place)
            try:
                os.fchmod(fd, mode)
                if modified_at != _UNKNOWN_TIME:
                    _set_time(fd, modified_at)
            finally:
                os.close(fd)
            yield

    def _merge(self, *, move: bool) -> Iterator[None]:
        pending: list[Path] = [()]
        while pending:
            path = pending.pop()
            source, target = self._both(path)
            try:
                for name in list(names(source)):
                    if self._is_folder_in_both(source, target, (*path, name)):
                        pending.append((*path, name))
                    elif move:
                        os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
                    yield
            except OSError as error:
                raise refused(f"{shown(b'/'.join(path))} cannot take it: {error.strerror}") from error
            finally:
                os.close(source)
                os.close(target)

    def _both(self, path: Path) -> tuple[int, int]:
        source = descend(self._staging, path)
        try:
            return source, descend(self._target, path)
        except OSError as error:
            os.close(source)
            raise refused(f"{shown(b'/'.join(path))} is no folder there: {error.strerror}") from error

    @staticmethod
    def _is_folder_in_both(source: int, target: int, path: Path) -> bool:
        ours, there = look(source, path[-1]), look(target, path[-1])
        if ours is None or there is None:
            return False
        folders = stat.S_ISDIR(ours.st_mode), stat.S_ISDIR(there.st_mode)
        if folders[0] != folders[1]:
            kinds = ("a folder", "none") if folders[0] else ("no folder", "one")
            raise refused(f"{shown(b'/'.join(path))} is {kinds[0]} in it and {kinds[1]} there")
        return folders[0]

    def close(self) -> Iterator[None]:
        """Remove what was not moved, in small steps."""
        if self._file is not None:
            os.close(self._file[0])
        os.close(self._last[1])
        os.close(self._staging)
        try:
            yield from remove(self._target, self._name)
        finally:
            os.close(self._target)


def _set_time(place: int | bytes, seconds: int, *, folder: int | None = None) -> None:
    times = (seconds * 10**9, seconds * 10**9)
    if folder is None:
        os.utime(place, ns=times)
    else:
        os.utime(place, ns=times, dir_fd=folder, follow_symlinks=False)
