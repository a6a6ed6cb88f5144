"""The loop of process 1: one thread, no waiting but for all at once."""

import heapq
import os
import selectors
import signal
import socket
import struct
import time
from collections.abc import Callable

from sandbox.supervisor.confinement import controls, network_canary
from sandbox.supervisor.connection import Connection
from sandbox.supervisor.ear import Ear
from sandbox.supervisor.files import RefusedError
from sandbox.supervisor.frames import Header
from sandbox.supervisor.output import Spool
from sandbox.supervisor.processes import Processes, send_signal
from sandbox.supervisor.run import SWEEP_PAUSE_SECONDS, Answer, Run

MAX_RUNNING = 64
ROOM_TASKS = 32
"""How many processes a new command must be able to start; with a shell's profile and a pipeline it starts a dozen."""
MAKE_ROOM_SECONDS = 5.0
"""Nothing else is answered meanwhile. Sleepers are gone in a twentieth of a second; a fork bomb, which uses the same
cores as process 1, may take two."""
GREETING_SECONDS = 30.0
"""A sandbox whose maker died before greeting it ends itself."""
NOTICE = "[{} background processes of earlier commands were ended: the sandbox had no room for another]\n"
ANCHOR_SECONDS = 10.0
"""How often to see whether the host still keeps this sandbox's folder; without it nobody can ever connect again."""


class Supervisor:
    """The loop: one thread, no waiting but for all at once."""

    def __init__(self, listener: socket.socket, options: Header, *, filtered: bool):
        self.selector: selectors.BaseSelector = selectors.DefaultSelector()
        self.limits: Header = options.get("limits", {})
        self.facts = {"canary": network_canary(), **controls(filtered=filtered)}
        self.runs: dict[int, Run] = {}
        self._live: dict[str, Run] = {}
        self._spool = Spool(options["spool_bytes"])
        self._ear = Ear()
        self._tasks_limit: int = options["tasks"] - min(ROOM_TASKS, options["tasks"] // 4)
        self._listener, self._peer_uid = listener, options.get("peer_uid")
        self._oom_file = open_oom_file(options.get("oom_fd"))
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._greeted = False
        self.later(options["lifetime_seconds"], self._end)
        self._anchor: int | None = options.get("anchor_fd")
        self.later(ANCHOR_SECONDS, self._check_anchor)
        self.later(GREETING_SECONDS, lambda: None if self._greeted else self._end())

    def later(self, delay: float, callback: Callable[[], None]) -> None:
        """Call something after so many seconds."""
        self._sequence += 1
        heapq.heappush(self._timers, (time.monotonic() + delay, self._sequence, callback))

    def serve(self) -> None:
        """Do what there is to do, until the deadline."""
        wake, wake_end = socket.socketpair()
        for sock in (wake, wake_end, self._listener):
            sock.setblocking(False)
        signal.signal(signal.SIGCHLD, _wake_up)
        signal.set_wakeup_fd(wake_end.fileno(), warn_on_full_buffer=False)
        self.selector.register(wake, selectors.EVENT_READ, _drain)
        self.selector.register(self._listener, selectors.EVENT_READ, self._accept)
        while True:
            for key, _ in self.selector.select(max(self._timers[0][0] - time.monotonic(), 0)):
                if self._is_current(key):
                    key.data(key.fd)
            self._reap()
            while self._timers[0][0] <= time.monotonic():
                heapq.heappop(self._timers)[2]()

    def _is_current(self, key: selectors.SelectorKey) -> bool:
        # An earlier callback of the same round may have closed this one, or reused its number.
        try:
            return self.selector.get_key(key.fileobj).data == key.data
        except (KeyError, ValueError):
            return False

    def _accept(self, _fd: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        peer = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
        if self._peer_uid is not None and peer != self._peer_uid:
            sock.close()
            return
        Connection(self, sock)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if run := self.runs.pop(pid, None):
                run.keeper_gone(status)

    def kill_strays(self) -> None:
        """Kill processes that process 1 got because somebody inside killed their keeper."""
        processes = Processes()
        children = {pid for pid, parent in processes.parents.items() if parent == 1}
        for stray in children - self.runs.keys():
            send_signal({stray} | processes.below(stray), signal.SIGKILL)
        if children - self.runs.keys():
            self.later(SWEEP_PAUSE_SECONDS, self.kill_strays)

    def oom_kills(self) -> int:
        """Return how many processes of this sandbox the kernel has killed for want of memory."""
        if self._oom_file < 0:
            return 0
        fields = os.pread(self._oom_file, 4096, 0).split()
        return int(fields[fields.index(b"oom_kill") + 1]) if b"oom_kill" in fields else 0

    def _check_anchor(self) -> None:
        # A file, not the folder: a descriptor of a folder would be a way out for whoever gets hold of process 1.
        if self._anchor is not None and os.fstat(self._anchor).st_nlink == 0:
            self._end()
        self.later(ANCHOR_SECONDS, self._check_anchor)

    def _end(self) -> None:
        send_signal({-1}, signal.SIGKILL)
        os._exit(0)

    def settle(self, run: Run, header: Header, payload: bytes) -> None:
        """Keep a result and hand it to everyone who waits."""
        self._spool.put(run.exec_id, header, payload)
        self._live.pop(run.exec_id, None)
        for answer in run.waiters:
            answer(header, payload)

    def obey(self, connection: Connection, order: Header, payload: bytes) -> None:
        """Carry out one order."""
        self._greeted = True

        def answer(header: Header, content: bytes = b"") -> None:
            connection.send({**header, "id": order["id"]}, content)

        try:
            match order["op"]:
                case "hello":
                    answer(self.facts)
                case "exec":
                    self._execute(order, payload, answer)
                case "state":
                    self._state(order["exec_id"], answer)
                case "kill":
                    self._end_tree(order["exec_id"], answer)
                case "ear":
                    connection.send_descriptor({"id": order["id"]}, self._ear.descriptor())
                case _:
                    answer(*connection.files.obey(order, payload))
        except RefusedError as error:
            answer({"error": error.code, "message": str(error)})

    def _execute(self, order: Header, stdin: bytes, answer: Answer) -> None:
        exec_id: str = order["exec_id"]
        if result := self._spool.get(exec_id):
            answer(*result)
            return
        if exec_id not in self._live:
            self._start(exec_id, order, stdin)
        self._live[exec_id].waiters.append(answer)

    def _start(self, exec_id: str, order: Header, stdin: bytes) -> None:
        if len(self.runs) >= MAX_RUNNING:
            raise RefusedError(
                "bad_request", f"{MAX_RUNNING} commands are running here; end one or wait for one to end"
            )
        ended = self._make_room()
        try:
            run = Run(self, order, stdin, notice=NOTICE.format(ended) if ended else "")
        except OSError as error:
            raise RefusedError("bad_request", f"the sandbox cannot start a command: {error.strerror}") from error
        self.runs[run.runner] = self._live[exec_id] = run
        self.later(order["timeout_seconds"], lambda: self._expire(exec_id))

    def _make_room(self) -> int:
        """End what finished commands have left running, the most numerous first, while a new one would have no room.

        Returns how many processes that were.
        """
        ended, until = 0, time.monotonic() + MAKE_ROOM_SECONDS
        while (processes := Processes()).tasks > self._tasks_limit and time.monotonic() < until:
            left = {run: len(processes.below(run.runner)) for run in self.runs.values() if run.finished}
            if not left:
                break
            ended += max(left, key=left.__getitem__).end_leftovers(until)
            self._reap()
        return ended

    def _state(self, exec_id: str, answer: Answer) -> None:
        if result := self._spool.get(exec_id):
            answer({**result[0], "state": "finished"}, result[1])
        else:
            answer({"state": "running" if exec_id in self._live else "never_started"}, b"")

    def _end_tree(self, exec_id: str, answer: Answer) -> None:
        found = [run for run in self.runs.values() if run.exec_id == exec_id]
        for run in found:
            run.enders.append(answer)
            run.end("killed")
        if not found:
            answer({}, b"")

    def _expire(self, exec_id: str) -> None:
        if run := self._live.get(exec_id):
            run.end("timeout")


def _wake_up(_number: int, _frame: object) -> None:
    """Only the wake-up descriptor matters."""


def _drain(fd: int) -> None:
    os.read(fd, 4096)


def open_oom_file(fd: int | None) -> int:
    """Return a descriptor of the memory cgroup's counters, or -1 where there are none to see."""
    if fd is not None:
        return fd
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        if os.path.exists(path):
            return os.open(path, os.O_RDONLY)
    return -1
