"""One command, from its order to the end of its last process."""

import contextlib
import os
import selectors
import signal
import time
from collections.abc import Callable, Sequence

from sandbox.supervisor.files import RefusedError
from sandbox.supervisor.frames import CHUNK_BYTES, Header
from sandbox.supervisor.output import WHOLE, Capture, Verdict, Window, excerpt
from sandbox.supervisor.processes import (
    CANNOT_START,
    STARTED,
    STATUS,
    WITH_OTHERS,
    Processes,
    run_command,
    send_signal,
    stillness,
)
from sandbox.supervisor.stdin import STDIN_BYTES, Stdin
from sandbox.supervisor.typed import NamedTuple, Protocol

OUTPUT_LIMIT_BYTES = 64 << 20
"""A command that prints more than this is out of control and is ended."""
GRACE_SECONDS = 2.0
"""Between TERM and KILL; enough for a shell's trap or a server's shutdown."""
DRAIN_SECONDS = 0.05
"""How long the output of a command is still read that has ended and left processes behind, such as `> >(tee log)`."""
SWEEP_PAUSE_SECONDS = 0.02
SWEEP_SECONDS = 5.0
"""What is left then cannot be ended from inside."""
MESSAGES = 2
"""What a keeper's pipe holds at most: who the main process is, and how it ended."""


Answer = Callable[[Header, bytes], None]


class Waiter(NamedTuple):
    """Somebody who wants to hear of a run, and from where on; ``eager``: as soon as it has printed more."""

    answer: Answer
    offsets: tuple[int, ...] = (0, 0)
    limit: int = WHOLE
    eager: bool = False

    def tell(self, verdict: Verdict, windows: Sequence[Window], *, ended: bool = True) -> None:
        """Say what became of the run and what it printed."""
        header, content = excerpt(windows, self.offsets, self.limit, ended=ended)
        self.answer({**verdict._asdict(), **header}, content)


class Box(Protocol):
    """What a run needs of the supervisor around it."""

    selector: selectors.BaseSelector
    limits: Header
    shielded: bool
    runs: "dict[int, Run]"

    def later(self, delay: float, callback: Callable[[], None]) -> None:
        """Call something after so many seconds."""
        ...

    def oom_kills(self) -> int:
        """Return how many processes of this sandbox the kernel has killed for want of memory."""
        ...

    def kill_strays(self) -> None:
        """Kill processes whose keeper was killed."""
        ...


Settle = Callable[["Run", Verdict, list[Window]], None]


class Run:
    """A command, its keeper, its output and its verdict."""

    def __init__(self, box: Box, order: Header, stdin: bytes, settle: Settle, *, notice: str = ""):
        self.box, self.exec_id, self._settle = box, order["exec_id"], settle
        self.started = time.monotonic()
        self.streams = [Capture(order["max_output_bytes"]), Capture(order["max_output_bytes"])]
        self.streams[1].feed(notice.encode())
        self.pipes: dict[int, Capture] = {}
        self.stdin: Stdin | None = None
        self.main = 0
        self._held: list[int] = []
        self.waiters: list[Waiter] = []
        self.enders: list[Answer] = []
        self.verdict: str | None = None
        self.finished = False
        self.status: int | None = None
        self.survivors = 0
        self.sweep_until = 0.0
        self.ooms = box.oom_kills()
        self.runner, self.status_fd = self._fork(order, stdin)

    def _fork(self, order: Header, stdin: bytes) -> tuple[int, int]:
        source, feed = self._source(stdin, keep_open=order["keep_stdin_open"])
        (out, out_end), (err, err_end), (status, status_end) = os.pipe(), os.pipe(), os.pipe()
        try:
            pid = os.fork()
            if pid == 0:
                try:
                    fds = source, out_end, err_end
                    run_command(order, fds, status_end, self.box.limits, shielded=self.box.shielded)
                finally:
                    os._exit(CANNOT_START)
        except OSError:
            for fd in (out, err, status):
                os.close(fd)
            if feed is not None:
                feed.close()
            raise
        finally:
            for fd in (source, out_end, err_end, status_end):
                os.close(fd)
        for fd, capture in zip((out, err), self.streams, strict=True):
            self.pipes[fd] = capture
            self._watch(fd, self.read_output)
        self._watch(status, self.read_status)
        self.stdin = feed
        return pid, status

    def _source(self, stdin: bytes, *, keep_open: bool) -> tuple[int, Stdin | None]:
        """Return what the command reads from, and what feeds it."""
        if keep_open:
            if len(stdin) > STDIN_BYTES:
                raise RefusedError("stdin_full", f"the first input of a command may have {STDIN_BYTES} bytes")
            source, end = os.pipe()
            feed = Stdin(self.box.selector, end)
            feed.write(stdin, close=False)
            return source, feed
        source = os.memfd_create("stdin") if stdin else os.open("/dev/null", os.O_RDONLY)
        for start in range(0, len(stdin), CHUNK_BYTES):
            os.write(source, stdin[start : start + CHUNK_BYTES])
        if stdin:
            os.lseek(source, 0, os.SEEK_SET)
        return source, None

    def _watch(self, fd: int, callback: Callable[[int], None]) -> None:
        os.set_blocking(fd, False)
        self.box.selector.register(fd, selectors.EVENT_READ, callback)

    def _close(self, fd: int) -> None:
        self.box.selector.unregister(fd)
        os.close(fd)
        self.pipes.pop(fd, None)

    def read_output(self, fd: int) -> None:
        """Take what one stream has to give; after the command's end, background processes print into the void."""
        try:
            data = os.read(fd, CHUNK_BYTES)
        except BlockingIOError:
            return
        self.pipes[fd].feed(data)
        over = self.printed > OUTPUT_LIMIT_BYTES
        if over and not self.finished:
            self.end("output_limit", grace=0)
        if not data or (over and self.finished):
            self._close(fd)
        if data and not self.finished:
            self._tell_eager()

    def _tell_eager(self) -> None:
        for waiter in [waiter for waiter in self.waiters if waiter.eager]:
            if excerpt(self.windows(), waiter.offsets, waiter.limit, ended=False)[0]["cursor"] != list(
                waiter.offsets
            ):
                self.release(waiter)

    def read_status(self, fd: int) -> None:
        """Learn who the main process is, and from the keeper that it has ended."""
        try:
            message = os.read(fd, STATUS.size)
        except BlockingIOError:
            return
        number, kind = STATUS.unpack(message) if message else (0, None)
        if kind == STARTED:
            self._start_signalling(number)
            return
        self._close(fd)
        self.status_fd = -1
        if kind is not None:
            self.status = number
        if kind is not None and self.verdict is None:
            self.box.later(DRAIN_SECONDS if kind == WITH_OTHERS else 0, self.conclude)

    def _start_signalling(self, main: int) -> None:
        self.main = main
        for number in self._held:
            self.signal(number)

    def signal(self, number: int) -> None:
        """Signal the command's process group, as soon as it has one."""
        if not self.main:
            self._held.append(number)
        elif self.status is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.main, number)

    def wait(self, waiter: Waiter, seconds: float | None) -> None:
        """Tell the waiter at the end, or after so many seconds what there is."""
        self.waiters.append(waiter)
        if waiter.eager:
            self._tell_eager()
        if seconds is not None and seconds <= 0:
            self.release(waiter)
        elif seconds is not None:
            self.box.later(seconds, lambda: self.release(waiter))

    def release(self, waiter: Waiter) -> None:
        """Tell a waiter what there is by now, if nobody has told it anything."""
        if waiter in self.waiters:
            self.waiters.remove(waiter)
            waiter.tell(self.verdict_now(), self.windows(), ended=False)

    def windows(self) -> list[Window]:
        """Return what is kept of both streams."""
        return [stream.window() for stream in self.streams]

    @property
    def printed(self) -> int:
        """How many bytes both streams have printed."""
        return sum(stream.total for stream in self.streams)

    def verdict_now(self) -> Verdict:
        """Say that it runs, and for how long it has."""
        return Verdict("running", None, self._age_ms(), 0)

    def _age_ms(self) -> float:
        return round((time.monotonic() - self.started) * 1000, 3)

    def conclude(self) -> None:
        """The main process is done and its last output read; what it left behind goes on."""
        if self.verdict is None and self.runner in self.box.runs:
            self.survivors = len(Processes().below(self.runner))
        if self.verdict is None:
            self.finish()

    def end(self, verdict: str, grace: float = GRACE_SECONDS) -> None:
        """Begin to end the whole tree; the first verdict stands, and what is finished stays as it is."""
        if self.verdict is not None and not self.finished:
            return
        self.verdict, self.sweep_until = verdict, 0.0
        if grace:
            send_signal(Processes().below(self.runner), signal.SIGTERM)
        self.box.later(grace, self.sweep)

    def sweep(self) -> None:
        """Kill what is left of the tree, until nothing is or until it is plain that this won't do."""
        if self.runner not in self.box.runs:
            return
        # A tree that forks faster than it is read replaces what is killed, unless it stands still.
        with stillness() if self.sweep_until else contextlib.nullcontext():
            left = Processes().below(self.runner)
            send_signal(left or {self.runner}, signal.SIGKILL)
        self.sweep_until = self.sweep_until or time.monotonic() + SWEEP_SECONDS
        if time.monotonic() > self.sweep_until:
            self.survivors = len(left)
            self.finish()
            self._answer_enders()
            return
        self.box.later(SWEEP_PAUSE_SECONDS, self.sweep)

    def end_leftovers(self, until: float) -> int:
        """Kill at once what this finished command has left running; returns how many processes that were."""
        with stillness():
            ended = Processes().below(self.runner)
            send_signal(ended, signal.SIGKILL)
        # The keeper goes when nothing is left for it to wait for, so then the kernel has stopped counting them.
        while self.runner in Processes().parents and time.monotonic() < until:
            time.sleep(SWEEP_PAUSE_SECONDS)
        return len(ended)

    def keeper_gone(self, status: int) -> None:
        """The keeper has no children left, or was killed from inside and what it kept now belongs to process 1."""
        for _ in range(MESSAGES):
            if self.status_fd >= 0:
                self.read_status(self.status_fd)
        if status != 0:
            self.box.kill_strays()
        if not self.finished:
            self.verdict = self.verdict or ("killed" if self.status is None else None)
            self.finish()
        for fd in list(self.pipes):
            self._close(fd)
        self._answer_enders()

    def _answer_enders(self) -> None:
        for answer in self.enders:
            answer({}, b"")
        self.enders.clear()

    def finish(self) -> None:
        """Settle the result and tell who waits for it."""
        if self.finished:
            return
        for fd in list(self.pipes):
            self.read_output(fd)
        self.finished = True
        if self.stdin is not None:
            self.stdin.close()
        code = None if self.status is None else os.waitstatus_to_exitcode(self.status)
        status = self.verdict or ("oom" if self._was_oom(code) else "exited")
        shown = (code if code is None or code >= 0 else 128 - code) if status == "exited" else None
        verdict, windows = Verdict(status, shown, self._age_ms(), self.survivors), self.windows()
        self._settle(self, verdict, windows)
        for waiter in self.waiters:
            waiter.tell(verdict, windows)
        self.waiters.clear()
        self.streams = [Capture(0)] * 2
        self.pipes = dict.fromkeys(self.pipes, self.streams[0])

    def _was_oom(self, code: int | None) -> bool:
        return code in {-signal.SIGKILL, 128 + signal.SIGKILL} and self.box.oom_kills() > self.ooms
