"""Proof that a sandbox with a network card reaches nothing: connections that must fail, for long enough."""

import contextlib
import errno
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable

from sandbox.supervisor.frames import Header
from sandbox.supervisor.typed import Protocol

ROUND_SECONDS = 0.1
LIMIT_SECONDS = 10.0
"""A network that does not keep to its policies by then does not at all."""
KUBELET_PORT = 10250
NODE_ADDRESS, API_HOST, API_PORT = "BULKHEAD_NODE_ADDRESS", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"
"""Where a pod's environment names who is there to be reached; the first is of our own making."""

Target = tuple[str, int]


class Watcher(Protocol):
    """What a canary needs of the supervisor around it."""

    selector: selectors.BaseSelector

    def later(self, delay: float, callback: Callable[[], None]) -> None:
        """Call something after so many seconds."""
        ...


def surroundings() -> list[Target]:
    """Return what a pod would reach first: its node, its gateway and its API server; and take them from commands."""
    found: list[Target] = []
    node, host, port = (os.environ.pop(name, "") for name in (NODE_ADDRESS, API_HOST, API_PORT))
    for name in [name for name in os.environ if name.startswith("KUBERNETES_")]:
        del os.environ[name]
    if node:
        found += [(node, KUBELET_PORT), (node, 22)]
    if host:
        found.append((host, int(port or 443)))
    return found + [(gateway, 53) for gateway in _gateways()]


def _gateways() -> list[str]:
    with open("/proc/net/route") as file:
        rows = [line.split() for line in file.readlines()[1:]]
    return [socket.inet_ntoa(struct.pack("<I", int(row[2], 16))) for row in rows if int(row[2], 16)]


class Canary:
    """Tries all targets again and again, until none was reached for ``quiet_seconds`` or the limit is over."""

    def __init__(self, box: Watcher, targets: list[Target], quiet_seconds: float, settle: Callable[[], None]):
        self._box, self._targets, self._quiet, self._settle = box, targets, quiet_seconds, settle
        self._open: dict[int, tuple[socket.socket, Target]] = {}
        self._began = self._reached_at = time.monotonic()
        self._reached: dict[Target, None] = {}
        self._rounds = 0
        self.verdict: Header | None = None
        box.later(0, self._round)

    def _round(self) -> None:
        now = time.monotonic()
        if now - self._reached_at >= self._quiet:
            self._end([])
        elif now - self._began >= LIMIT_SECONDS:
            self._end(["{}:{}".format(*target) for target in self._reached])
        else:
            self._rounds += 1
            for target in self._targets:
                self._try(target)
            self._box.later(ROUND_SECONDS, self._round)

    def _try(self, target: Target) -> None:
        probe = socket.socket()
        probe.setblocking(False)
        code = probe.connect_ex(target)
        if code != errno.EINPROGRESS:
            self._note(probe, target, code)
            return
        self._open[probe.fileno()] = probe, target
        self._box.selector.register(probe.fileno(), selectors.EVENT_WRITE, self._ready)

    def _ready(self, fd: int) -> None:
        probe, target = self._open.pop(fd)
        self._box.selector.unregister(fd)
        self._note(probe, target, probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _note(self, probe: socket.socket, target: Target, code: int) -> None:
        probe.close()
        # A refusal tells nothing: a network that rejects and a host without the service look the same from here.
        # The API server and the kubelet of the node are there, so one that lets through is seen.
        if code == 0:
            self._reached[target], self._reached_at = None, time.monotonic()

    def _end(self, reached: list[str]) -> None:
        for fd, (probe, _) in self._open.items():
            with contextlib.suppress(KeyError):
                self._box.selector.unregister(fd)
            probe.close()
        self._open.clear()
        late = round((self._reached_at - self._began) * 1000) if self._reached else 0
        self.verdict = {"reached": reached, "late_ms": late, "rounds": self._rounds, "targets": len(self._targets)}
        self._settle()
