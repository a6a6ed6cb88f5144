"""The way from a pod's ear to the egress proxy's gate: a child of process 1 that carries bytes and nothing else.

It greets the gate with the sandbox's name and password, which no command can read: like process 1 it is non-dumpable.
A command of the same user can kill it; process 1 then starts the next, and who connects meanwhile waits at the ear.
"""

import contextlib
import errno
import os
import selectors
import signal
import socket
import time

from sandbox.supervisor.typed import NamedTuple

MAX_CONNECTIONS = 512
"""As many as the ear's backlog; further ones wait in it."""
BUFFER_BYTES = 256 * 1024
DIAL_SECONDS = 15.0
"""How long who has connected waits for a gate that is just being started again."""
DIAL_PAUSE_SECONDS = 0.25
GATE_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_SYNCNT, 2),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
"""A gate whose machine is silent is dialled again after some seven seconds, and given up after a minute."""


class Gate(NamedTuple):
    """Where the gate is, and what is said to it first."""

    address: tuple[str, int]
    preamble: bytes


class _End:
    """One socket of a pair, with what waits to be written to it."""

    def __init__(self, sock: socket.socket):
        sock.setblocking(False)
        self.sock = sock
        self.waiting = bytearray()
        self.read_all = self.told_end = False


class Relay:
    """The child's loop: accepts at the ear as long as ``control`` is open, and ends with its last connection."""

    def __init__(self, listener: socket.socket, control: int, gate: Gate):
        self._listener, self._control, self._gate = listener, control, gate
        self._selector = selectors.DefaultSelector()
        self._pairs: dict[_End, _End] = {}
        self._dialling: list[tuple[float, float, _End]] = []
        self._accepting = True
        os.set_blocking(listener.fileno(), False)
        self._selector.register(control, selectors.EVENT_READ, None)

    def run(self) -> None:
        """Carry until there is nothing more to carry."""
        while self._accepting or self._pairs or self._dialling:
            self._listen()
            pause = DIAL_PAUSE_SECONDS if self._dialling else None
            for key, events in self._selector.select(pause):
                if key.fd == self._control:
                    self._stop_accepting()
                elif key.data is None:
                    self._accept()
                elif self._is_carried(key.data):
                    self._move(key.data, events)
            self._dial_again()

    def _is_carried(self, data: object) -> bool:
        # An earlier event of the same round may have dropped its connection, and closed both sockets.
        return (data[0] if isinstance(data, tuple) else data) in self._pairs

    def _stop_accepting(self) -> None:
        self._selector.unregister(self._control)
        self._accepting = False

    def _listen(self) -> None:
        room = len(self._pairs) // 2 + len(self._dialling) < MAX_CONNECTIONS
        wanted, is_watched = self._accepting and room, self._listener in self._selector.get_map()
        if wanted and not is_watched:
            self._selector.register(self._listener, selectors.EVENT_READ, None)
        elif is_watched and not wanted:
            self._selector.unregister(self._listener)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            inner = _End(self._listener.accept()[0])
            self._dial(inner, time.monotonic() + DIAL_SECONDS)

    def _dial(self, inner: _End, until: float) -> None:
        outer = _End(socket.socket())
        for option in GATE_OPTIONS:
            with contextlib.suppress(OSError):  # some runtimes do not know them all
                outer.sock.setsockopt(*option)
        code = outer.sock.connect_ex(self._gate.address)
        if code not in {0, errno.EINPROGRESS}:
            outer.sock.close()
            self._dialling.append((time.monotonic() + DIAL_PAUSE_SECONDS, until, inner))
            return
        outer.waiting += self._gate.preamble
        self._pairs[inner], self._pairs[outer] = outer, inner
        self._selector.register(outer.sock, selectors.EVENT_WRITE, (outer, until))

    def _dial_again(self) -> None:
        now = time.monotonic()
        waiting, self._dialling = self._dialling, []
        for at, until, inner in waiting:
            if now > until:
                inner.sock.close()
            elif now >= at:
                self._dial(inner, until)
            else:
                self._dialling.append((at, until, inner))

    def _move(self, data: object, events: int) -> None:
        if isinstance(data, tuple):
            self._connected(*data)
            return
        assert isinstance(data, _End)  # noqa: S101 -- nothing else is registered
        try:
            if events & selectors.EVENT_WRITE:
                self._write(data)
            if events & selectors.EVENT_READ:
                self._read(data)
        except OSError:
            self._drop(data)
            return
        self._settle(data)

    def _connected(self, outer: _End, until: float) -> None:
        inner = self._pairs[outer]
        if outer.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._selector.unregister(outer.sock)
            outer.sock.close()
            del self._pairs[outer], self._pairs[inner]
            self._dialling.append((time.monotonic() + DIAL_PAUSE_SECONDS, until, inner))
            return
        self._selector.modify(outer.sock, selectors.EVENT_READ, outer)
        self._selector.register(inner.sock, selectors.EVENT_READ, inner)
        self._settle(outer)

    def _read(self, end: _End) -> None:
        other = self._pairs[end]
        try:
            data = end.sock.recv(BUFFER_BYTES)
        except BlockingIOError:
            return
        if data:
            other.waiting += data
        else:
            end.read_all = True
        self._write(other)

    def _write(self, end: _End) -> None:
        with contextlib.suppress(BlockingIOError):
            while end.waiting:
                del end.waiting[: end.sock.send(end.waiting)]
        if not end.waiting and self._pairs[end].read_all and not end.told_end:
            end.told_end = True
            end.sock.shutdown(socket.SHUT_WR)

    def _settle(self, end: _End) -> None:
        other = self._pairs[end]
        if end.told_end and other.told_end:
            self._drop(end)
            return
        for one, opposite in ((end, other), (other, end)):
            reads = not one.read_all and len(opposite.waiting) < BUFFER_BYTES
            events = (selectors.EVENT_READ if reads else 0) | (selectors.EVENT_WRITE if one.waiting else 0)
            is_watched = one.sock in self._selector.get_map()
            if events and is_watched:
                self._selector.modify(one.sock, events, one)
            elif events:
                self._selector.register(one.sock, events, one)
            elif is_watched:
                self._selector.unregister(one.sock)

    def _drop(self, end: _End) -> None:
        for one in (end, self._pairs[end]):
            if one.sock in self._selector.get_map():
                self._selector.unregister(one.sock)
            one.sock.close()
            del self._pairs[one]


def start(listener: socket.socket, gate: Gate) -> tuple[int, int]:
    """Fork a relay; returns its process id, and a descriptor that has it accept no more once it is closed."""
    control, held = os.pipe()
    pid = os.fork()
    if pid:
        os.close(control)
        return pid, held
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        kept = sorted({listener.fileno(), control})
        os.closerange(0, kept[0])
        os.closerange(kept[0] + 1, kept[-1])
        os.closerange(kept[-1] + 1, 65536)
        Relay(listener, control, gate).run()
    finally:
        os._exit(0)
