"""The loop of process 1: one thread, no waiting but for all at once."""

import heapq
import os
import selectors
import signal
import socket
import struct
import time
from collections.abc import Callable

from sandbox.supervisor.canary import Canary, surroundings
from sandbox.supervisor.commands import Commands
from sandbox.supervisor.confinement import controls, network_canary
from sandbox.supervisor.connection import Connection
from sandbox.supervisor.ear import Ear
from sandbox.supervisor.files import RefusedError
from sandbox.supervisor.frames import Header
from sandbox.supervisor.processes import Processes, parent_of, send_signal
from sandbox.supervisor.relay import Gate
from sandbox.supervisor.run import SWEEP_PAUSE_SECONDS, Answer, Run
from sandbox.supervisor.seal import Keyhole, SealedEnd

GREETING_SECONDS = 30.0
"""A sandbox whose maker died before greeting it ends itself."""
END_SECONDS = 0.05
"""Between the answer that it will end and the end, for the answer to leave."""
PROOF_SECONDS = 120.0
"""A pod's life begins when its network was seen to let nothing through; one that nobody asks for that ends itself."""
TRIM_SECONDS = 1.0
LAST_WORDS_BYTES = 64 * 1024
"""A pod has a file for last words, which lies on its node's disk, everyone may write to, and no limit counts."""
RELAY_PAUSE_SECONDS = 1.0
ANCHOR_SECONDS = 10.0
"""How often to see whether the host still keeps this sandbox's folder; without it nobody can ever connect again."""


class Supervisor:
    """The loop: one thread, no waiting but for all at once."""

    def __init__(self, listener: socket.socket, options: Header, *, filtered: bool):
        self.selector: selectors.BaseSelector = selectors.DefaultSelector()
        self.limits: Header = options.get("limits", {})
        self.shielded: bool = options.get("sealed", False)
        self.facts: Header = controls(filtered=filtered)
        self.runs: dict[int, Run] = {}
        self._commands = Commands(self, spool_bytes=options["spool_bytes"], tasks=options["tasks"])
        self._ear = Ear()
        self._listener, self._peer_uid = listener, options.get("peer_uid")
        self._oom_file = open_oom_file(options.get("oom_fd"))
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._greeted = False
        self._deadline = self._next_look = float("inf")
        self._lifetime: float = options["lifetime_seconds"]
        self._anchor: int | None = options.get("anchor_fd")
        self.later(ANCHOR_SECONDS, self._check_anchor)
        self._keyhole = Keyhole() if options.get("sealed") else None
        self._awaiting: list[Answer] = []
        self._canary: Canary | None = None
        if "canary" in options:
            targets = surroundings() + [(host, port) for host, port in options["canary"]["targets"]]
            self._canary = Canary(self, targets, options["canary"]["quiet_seconds"], self._tell_facts)
            self._renew(PROOF_SECONDS)
            self.later(TRIM_SECONDS, lambda: self._trim(options["last_words"]))
            return
        self.facts["canary"] = network_canary()
        self._renew(self._lifetime)
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
            self.reap()
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
        pid, peer, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if self._peer_uid is not None and peer != self._peer_uid:
            sock.close()
            return
        if self._keyhole is None:
            Connection(self, sock)
        elif parent_of(pid) == 0:
            Connection(self, sock, SealedEnd(self._keyhole))
        else:
            sock.close()  # No child of process 1: only who was started from outside has no parent here.

    def reap(self) -> None:
        """Take note of every child that has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if run := self.runs.pop(pid, None):
                run.keeper_gone(status)
            elif pid == self._ear.relay:
                self.later(SWEEP_PAUSE_SECONDS, self._renew_relay)

    def _renew_relay(self) -> None:
        try:
            self._ear.renew_relay()
        except OSError:  # commands have taken every process or descriptor that there is
            self.later(RELAY_PAUSE_SECONDS, self._renew_relay)

    def kill_strays(self) -> None:
        """Kill processes that process 1 got because somebody inside killed their keeper."""
        processes = Processes()
        children = {pid for pid, parent in processes.parents.items() if parent == 1}
        children -= self.runs.keys() | {self._ear.relay}
        for stray in children:
            send_signal({stray} | processes.below(stray), signal.SIGKILL)
        if children:
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

    def _trim(self, path: str) -> None:
        if os.stat(path).st_size > LAST_WORDS_BYTES:
            os.truncate(path, 0)
        self.later(TRIM_SECONDS, lambda: self._trim(path))

    def _end(self) -> None:
        send_signal({-1}, signal.SIGKILL)
        os._exit(0)

    def _renew(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        if self._deadline < self._next_look:
            self._look_again()

    def _look_again(self) -> None:
        self._next_look = self._deadline
        self.later(self._deadline - time.monotonic(), self._look_at_deadline)

    def _look_at_deadline(self) -> None:
        if time.monotonic() >= self._deadline:
            self._end()
        if time.monotonic() >= self._next_look:
            self._look_again()

    def _tell_facts(self) -> None:
        """Answer who has asked what confines this sandbox, once that is known; its life begins then."""
        verdict = self._canary.verdict if self._canary is not None else None
        if "canary" not in self.facts and verdict is not None and self._awaiting:
            self.facts |= {"canary": {"reached": verdict["reached"]}, "looks": verdict}
            self._renew(self._lifetime)
        if "canary" in self.facts:
            for answer in self._awaiting:
                answer(self.facts, b"")
            self._awaiting.clear()

    def obey(self, connection: Connection, order: Header, payload: bytes) -> None:
        """Carry out one order."""
        self._greeted = True

        def answer(header: Header, content: bytes = b"") -> None:
            connection.send({**header, "id": order["id"]}, content)

        try:
            match order["op"]:
                case "hello":
                    self._awaiting.append(answer)
                    self._tell_facts()
                case "end":
                    answer({})
                    self.later(END_SECONDS, self._end)
                case _ if "canary" not in self.facts:
                    refusal = "this sandbox has not been seen to reach nothing yet"
                    answer({"error": "bad_request", "message": refusal})
                case "ear" if "gate" in order:
                    host, port = order["gate"]
                    self._ear.lead_to(Gate((host, port), order["preamble"].encode()))
                    answer({})
                case "ear":
                    connection.send_descriptor({"id": order["id"]}, self._ear.descriptor())
                case "renew":
                    self._renew(order["lifetime_seconds"])
                    answer({})
                case op if op in self._commands.orders:
                    self._commands.orders[op](order, payload, answer)
                case op if op in connection.archives.orders:
                    connection.archives.obey(order, payload, answer)
                case _:
                    answer(*connection.files.obey(order, payload))
        except RefusedError as error:
            answer({"error": error.code, "message": str(error)})


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
