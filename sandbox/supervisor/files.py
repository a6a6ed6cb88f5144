"""Files in and out, as seen from inside the sandbox."""

import os
import stat

from sandbox.supervisor.frames import CHUNK_BYTES, Header

MAX_ENTRIES = 10_000


class RefusedError(Exception):
    """An order that cannot be carried out; its code and sentence go back to the caller."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


Reply = tuple[Header, bytes]


class OpenFiles:
    """The files that one connection is reading or writing; what is not committed leaves no trace."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[str, str]] = {}
        self._private = private_devices()

    def obey(self, order: Header, payload: bytes) -> Reply:
        """Carry out an order; raises `RefusedError`."""
        try:
            match order["op"]:
                case "open":
                    return self._for_reading(order["path"])
                case "create":
                    return self._for_writing(order["path"], order["mode"])
                case "read":
                    return {}, os.read(self._handle(order), CHUNK_BYTES)
                case "write":
                    return self._write(self._handle(order), payload)
                case "close":
                    return self._close(self._handle(order), commit=order["commit"])
                case "list" | "stat":
                    return {"entries": entries(order["path"], itself=order["op"] == "stat")}, b""
                case unknown:
                    raise RefusedError("bad_request", f"no such order: {unknown!r}")
        except FileNotFoundError as error:
            raise RefusedError("file_not_found", f"{order.get('path')!r}: {error.strerror}") from error
        except OSError as error:
            raise RefusedError("file_refused", f"{order.get('path')!r}: {error.strerror}") from error
        except ValueError as error:
            raise RefusedError("file_refused", f"{order.get('path')!r}: {error}") from error

    def _handle(self, order: Header) -> int:
        if order["handle"] not in self._open:
            raise RefusedError("bad_request", f"no such handle: {order['handle']!r}")
        return order["handle"]

    def _for_reading(self, path: str) -> Reply:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_dev in self._private:
            os.close(fd)
            raise RefusedError("file_refused", f"{path!r}: not a regular file")
        self._open[fd] = ("", path)
        return {"handle": fd}, b""

    def _for_writing(self, path: str, mode: int) -> Reply:
        folder, _, name = path.rpartition("/")
        if name in {"", ".", ".."}:
            raise RefusedError("file_refused", f"{path!r}: names a folder, not a file")
        os.makedirs(folder or "/", exist_ok=True)
        temporary = f"{folder}/.bulkhead-{os.urandom(8).hex()}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        self._open[fd] = (temporary, path)
        os.fchmod(fd, mode)
        return {"handle": fd}, b""

    @staticmethod
    def _write(fd: int, payload: bytes) -> Reply:
        while payload:
            payload = payload[os.write(fd, payload) :]
        return {}, b""

    def _close(self, fd: int, *, commit: bool) -> Reply:
        temporary, path = self._open.pop(fd)
        os.close(fd)
        if not temporary:
            return {}, b""
        try:
            if commit:
                os.rename(temporary, path)
                temporary = ""
        finally:
            if temporary:
                remove(temporary)
        return {}, b""

    def abandon(self) -> None:
        """Close everything and remove what is unfinished."""
        for fd, (temporary, _) in self._open.items():
            os.close(fd)
            if temporary:
                remove(temporary)
        self._open.clear()


def private_devices() -> set[int]:
    """Return the devices whose files process 1 can open in /proc and the commands cannot: /proc and memory files."""
    with os.fdopen(os.memfd_create("probe")) as probe:
        return {os.stat("/proc").st_dev, os.fstat(probe.fileno()).st_dev}


def remove(path: str) -> None:
    """Remove a file that a command may have removed, or made unremovable, in the meantime."""
    try:
        os.unlink(path)
    except OSError:
        return


def entries(path: str, *, itself: bool) -> list[Header]:
    """Return a folder's entries, or the one of a file; ``itself``: also of a folder or a link."""
    found = os.stat(path, follow_symlinks=not itself)
    if itself or not stat.S_ISDIR(found.st_mode):
        return [describe(path, found)]
    listed: list[Header] = []
    with os.scandir(path) as folder:
        for entry in folder:
            if len(listed) == MAX_ENTRIES:
                raise RefusedError("file_refused", f"{path!r}: more than {MAX_ENTRIES} entries; list a part of it")
            listed.append(describe(entry.path, entry.stat(follow_symlinks=False)))
    return sorted(listed, key=lambda entry: entry["path"])


def describe(path: str, found: os.stat_result) -> Header:
    """Return a listing's entry."""
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "symlink"}
    return {
        "path": os.fsencode(path).decode(errors="replace"),
        "type": kinds.get(stat.S_IFMT(found.st_mode), "other"),
        "size_bytes": found.st_size,
        "mode": stat.S_IMODE(found.st_mode),
        "modified_at": int(found.st_mtime),
        "changed_at": found.st_ctime_ns // 1000 / 1_000_000,
    }
