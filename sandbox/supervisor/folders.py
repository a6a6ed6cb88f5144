"""Ways through folders that follow no link and leave no file system: from a descriptor, one name at a time."""

import os
import stat
from collections.abc import Generator, Iterator, Sequence

from sandbox.supervisor.files import RefusedError, private_devices

Path = Sequence[bytes]
_AS_A_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def descend(root: int, path: Path, *, create: bool = False) -> int:
    """Return a descriptor of a folder below ``root``; raises OSError where something else is on the way."""
    here = os.open(b".", _AS_A_PLACE, dir_fd=root)
    for name in path:
        try:
            if create:
                _make(here, name)
            there = os.open(name, _AS_A_PLACE, dir_fd=here)
        finally:
            os.close(here)
        here = there
    return here


def _make(folder: int, name: bytes) -> None:
    try:
        os.mkdir(name, 0o755, dir_fd=folder)
    except FileExistsError:
        return


def open_folder(path: str, *, create: bool = False) -> int:
    """Return a descriptor of a folder that no link leads to; raises OSError or `RefusedError`."""
    if "\0" in path or ".." in path.split("/"):
        raise RefusedError("file_refused", f"{path!r}: not a plain path")
    root = os.open("/", _AS_A_PLACE)
    try:
        folder = descend(
            root, [os.fsencode(name) for name in path.split("/") if name not in {"", "."}], create=create
        )
    finally:
        os.close(root)
    if os.fstat(folder).st_dev in private_devices():
        os.close(folder)
        raise RefusedError("file_refused", f"{path!r}: not a folder of files")
    return folder


def names(folder: int) -> Iterator[bytes]:
    """Yield the names in a folder."""
    readable = os.open(b".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder)
    try:
        with os.scandir(readable) as entries:
            for entry in entries:
                yield os.fsencode(entry.name)
    finally:
        os.close(readable)


def look(folder: int, name: bytes) -> os.stat_result | None:
    """Return what a name stands for, itself if it is a link."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def remove(folder: int, name: bytes) -> Iterator[None]:
    """Remove a folder with all that is in it, in small steps; what cannot be removed stays."""
    trail = [name]
    try:
        while trail:
            here = descend(folder, trail)
            try:
                inner = yield from _empty(here)
            finally:
                os.close(here)
            if inner is not None:
                trail.append(inner)
                continue
            parent = descend(folder, trail[:-1])
            try:
                os.rmdir(trail.pop(), dir_fd=parent)
            finally:
                os.close(parent)
            yield
    except OSError:
        return


def _empty(folder: int) -> Generator[None, None, bytes | None]:
    """Remove everything but folders; return one of these, if there are any."""
    for name in names(folder):
        found = look(folder, name)
        if found is not None and stat.S_ISDIR(found.st_mode):
            return name
        os.unlink(name, dir_fd=folder)
        yield
    return None
