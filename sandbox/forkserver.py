"""The worker's side of the launcher: started once, as an interpreter takes longer to start than a sandbox."""

import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

READY_SECONDS = 15.0
"""A sandbox is up in a twentieth of a second, unless many are started at once on a busy machine."""
_END_SECONDS = 5.0
_PROGRAM = Path(__file__).with_name("launcher.py")


class ForkServer:
    """Has one launcher, and another when that one has died; may be used from any thread."""

    def __init__(self, environment: Mapping[str, str]):
        self._environment = environment
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: socket.socket | None = None

    def launch(self, order: dict[str, Any], *, listener: int, log: int) -> bool:
        """Start a sandbox and wait until it listens; False if it never will, and then its log may say why."""
        ready, ready_end = os.pipe()
        try:
            try:
                self._send(json.dumps(order).encode(), [listener, log, ready_end])
            finally:
                os.close(ready_end)
            poll = select.poll()
            poll.register(ready, select.POLLIN)
            return bool(poll.poll(READY_SECONDS * 1000)) and os.read(ready, 1) != b""
        finally:
            os.close(ready)

    def _send(self, message: bytes, descriptors: list[int]) -> None:
        with self._lock:
            try:
                socket.send_fds(self._running(), [message], descriptors)
            except ConnectionError:
                self._end()
                socket.send_fds(self._running(), [message], descriptors)

    def _running(self) -> socket.socket:
        if self._orders is None:
            self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(_PROGRAM)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=self._environment,
                )
        return self._orders

    def _end(self) -> None:
        if self._orders is not None:
            self._orders.close()
            self._orders = None
        if self._process is not None:
            self._process.wait(_END_SECONDS)
            self._process = None

    def close(self) -> None:
        """End the launcher; the sandboxes stay."""
        with self._lock:
            self._end()
