"""The processes of a sandbox: who descends from whom, and how a command is started."""

import contextlib
import ctypes
import os
import resource
import signal
import struct
from collections.abc import Generator, Iterator

from sandbox.supervisor.frames import Header

OOM_SCORE = "500"
"""Commands are the kernel's first choice when memory runs out, process 1 its last."""
_HIGHEST_SCORE, _LOWEST_SCORE = "1000", "0"
"""A pod starts with a score of nearly a thousand, unless all of its memory is its own; anyone may raise it."""
_SCORED = f'echo {_HIGHEST_SCORE} > /proc/self/oom_score_adj; exec "$@"'
CANNOT_START = 126
STATUS = struct.Struct("!iB")
"""A number and what it is: the main process's wait status, with or without others left, or first its process id."""
ALONE, WITH_OTHERS, STARTED = 0, 1, 2
_THREADS = 17
"""Where /proc/PID/stat has the number of threads, after the name."""
PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36


def prctl(option: int, value: int, pointer: int = 0) -> None:
    """Call prctl(2); raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(pointer), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _pids() -> Iterator[str]:
    return filter(str.isdigit, os.listdir("/proc"))


def become_last_choice() -> None:
    """Have the kernel end this process last when memory runs out, as far as it may choose that itself."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(_LOWEST_SCORE)


def parent_of(pid: int) -> int:
    """Return a process's parent: 0 for one that was started from outside, -1 for one that is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return -1


def has_room(tasks: int) -> bool:
    """Whether there are no more tasks than that; a crowd, which leaves process 1 little time, is seen at once."""
    return sum(1 for _ in _pids()) <= tasks and Processes().tasks <= tasks


class Processes:
    """A look at who is whose parent in this sandbox."""

    def __init__(self) -> None:
        self.parents: dict[int, int] = {}
        self.tasks = 0
        """What the kernel counts against a limit of processes: threads, and the dead that nobody has waited for."""
        for name in _pids():
            self._look_at(name)

    def _look_at(self, pid: str) -> None:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            return
        self.tasks += max(int(fields[_THREADS]), 1)
        if fields[0] not in {b"Z", b"X"}:
            self.parents[int(pid)] = int(fields[1])

    def below(self, root: int) -> set[int]:
        """Return every living descendant of a process."""
        found: set[int] = set()
        ring = {root}
        while ring:
            ring = {pid for pid, parent in self.parents.items() if parent in ring} - found
            found |= ring
        return found


def send_signal(pids: set[int], number: int) -> None:
    """Signal each process; those that are gone don't matter."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


@contextlib.contextmanager
def stillness() -> Generator[None]:
    """Stop everything in the sandbox but process 1 for a moment: nothing forks or takes its time from it.

    One call of kill(2) reaches all, those too that are being forked. What had stopped itself goes on afterwards,
    and some calls of the others end with EINTR, so this is for what cannot be done otherwise.
    """
    send_signal({-1}, signal.SIGSTOP)
    try:
        yield
    finally:
        send_signal({-1}, signal.SIGCONT)


def find_shell() -> list[str]:
    """Return the arguments before the command: bash as a login shell where there is one, else sh."""
    folders = os.environ.get("PATH", "/usr/local/bin:/usr/bin:/bin").split(":")
    for name, flag in (("bash", "-lc"), ("sh", "-c")):
        for folder in folders:
            if os.access(f"{folder}/{name}", os.X_OK):
                return [f"{folder}/{name}", flag]
    return []


def become_command(
    order: Header, fds: tuple[int, int, int], status_fd: int, limits: Header, *, shielded: bool
) -> None:
    """Turn this forked child into the command; says on its standard error why if it cannot. Never returns.

    ``shielded``: this process has a key of process 1 in its memory, so no other may look into it before it is another
    program. The shell then makes itself the kernel's first choice.
    """
    doing = "start"
    try:
        os.setsid()
        os.write(status_fd, STATUS.pack(os.getpid(), STARTED))
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
        os.closerange(3, 65536)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)  # also what a worker ignores that was started with nohup
        if not shielded:
            # Only a dumpable process may write its own file in /proc; by now only its standard streams are open.
            prctl(PR_SET_DUMPABLE, 1)
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write(OOM_SCORE)
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, name), (value, value))
        doing = f"use cwd {order['cwd']!r}"
        os.chdir(order["cwd"])
        doing = "run a shell (bash or sh) in this image"
        shell = find_shell() or ["/bin/sh", "-c"]
        arguments = [*shell, order["command"]]
        if shielded:
            arguments = [shell[0], "-c", _SCORED, "bulkhead", *arguments]
        os.execve(shell[0], arguments, {**os.environ, **order["env"]})  # noqa: S606 -- no shell but this
    except (OSError, ValueError) as error:
        os.write(2, f"bulkhead: cannot {doing}: {getattr(error, 'strerror', None) or error}\n".encode())
    os._exit(CANNOT_START)


def run_command(order: Header, fds: tuple[int, int, int], status_fd: int, limits: Header, *, shielded: bool) -> None:
    """Be the command's keeper: its orphans become children of this process, so that none gets away. Never returns."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    main = os.fork()
    if main == 0:
        become_command(order, fds, status_fd, limits, shielded=shielded)
    os.dup2(status_fd, 3)
    os.closerange(4, 65536)
    os.closerange(0, 3)
    options, status = 0, None
    while True:
        try:
            pid, code = os.waitpid(-1, options)
        except ChildProcessError:
            pid, code = -1, 0
        if pid == main:
            status, options = code, os.WNOHANG
        elif status is not None and pid <= 0:
            os.write(3, STATUS.pack(status, WITH_OTHERS if pid == 0 else ALONE))
            status, options = None, 0
        if pid == -1:
            os._exit(0)
