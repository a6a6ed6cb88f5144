"""The standard input of a running command: a pipe that is fed piece by piece and never waited for."""

import os
import selectors

from sandbox.supervisor.files import RefusedError

STDIN_BYTES = 1 << 20
"""What may wait for a command to read it; a writer who has more comes back."""


class Stdin:
    """The pipe's writing end, and what waits to be read from the other one."""

    def __init__(self, selector: selectors.BaseSelector, fd: int):
        self._selector, self._fd = selector, fd
        self._buffer = bytearray()
        self._closing = self._watched = False
        os.set_blocking(fd, False)

    def write(self, data: bytes, *, close: bool) -> None:
        """Take all of it, or raise `RefusedError`; ``close``: nothing comes after it."""
        if self._fd < 0 or self._closing:
            raise RefusedError("stdin_closed", "the command's standard input is closed")
        if len(self._buffer) + len(data) > STDIN_BYTES:
            raise RefusedError(
                "stdin_full",
                f"{len(self._buffer)} bytes wait for the command to read them and {len(data)} more are over the limit"
                f" of {STDIN_BYTES}; none were taken, write them when it has read, or in smaller pieces",
            )
        self._buffer += data
        self._closing = close
        self._feed(self._fd)
        if self._fd < 0 and not self._closing:
            raise RefusedError("stdin_closed", "the command has closed its standard input")

    def _feed(self, _fd: int) -> None:
        try:
            while self._buffer:
                del self._buffer[: os.write(self._fd, self._buffer)]
        except BlockingIOError:
            self._watch()
            return
        except OSError:
            self._closing = False
            self.close()
            return
        if self._closing:
            self.close()
        elif self._watched:
            self._selector.unregister(self._fd)
            self._watched = False

    def _watch(self) -> None:
        if not self._watched:
            self._selector.register(self._fd, selectors.EVENT_WRITE, self._feed)
            self._watched = True

    def close(self) -> None:
        """The command reads its end; what it has not read by now it never will."""
        if self._fd < 0:
            return
        if self._watched:
            self._selector.unregister(self._fd)
        os.close(self._fd)
        self._fd = -1
        self._buffer.clear()
