"""The proxy's ear: a listening socket on the sandbox's own loopback, where commands find their only way out."""

import os
import socket

from sandbox.supervisor import relay
from sandbox.supervisor.files import RefusedError
from sandbox.supervisor.relay import Gate

ADDRESS = ("127.0.0.1", 3128)
BACKLOG = 512
"""As many as the proxy serves of one sandbox at once: what connects while the proxy starts again waits here."""


class Ear:
    """Kept open by process 1, whoever else serves it, so that its place is never free for a command to take."""

    def __init__(self) -> None:
        self._listener: socket.socket | None = None
        self._gate: Gate | None = None
        self._relay = self._control = -1

    def descriptor(self) -> int:
        """Return the descriptor of the listening socket."""
        return self.listener().fileno()

    def listener(self) -> socket.socket:
        """Return the listening socket, made at the first call; raises `RefusedError`."""
        if self._listener is None:
            # No option that lets the place be shared: a command of the same user could bind it as well then.
            listener = socket.socket()
            try:
                listener.bind(ADDRESS)
                listener.listen(BACKLOG)
            except OSError as error:
                listener.close()
                place = "{}:{}".format(*ADDRESS)
                raise RefusedError(
                    "bad_request", f"the proxy's ear cannot be at {place}: {error.strerror}"
                ) from error
            self._listener = listener
        return self._listener

    def lead_to(self, gate: Gate) -> None:
        """Have what connects from now on carried to a gate; what is being carried already goes on."""
        listener = self.listener()
        if gate == self._gate and self._relay > 0:
            return
        try:
            self._start_relay(listener, gate)
        except OSError as error:
            raise RefusedError("bad_request", f"the way out has no relay: {error.strerror}") from error

    def _start_relay(self, listener: socket.socket, gate: Gate) -> None:
        started = relay.start(listener, gate)
        if self._control >= 0:
            os.close(self._control)
        self._gate, (self._relay, self._control) = gate, started

    def renew_relay(self) -> None:
        """Start the next relay in place of one that a command has killed; raises `OSError` where none can be had."""
        if self._listener is not None and self._gate is not None:
            self._start_relay(self._listener, self._gate)

    @property
    def relay(self) -> int:
        """The process id of the relay; -1 where there is none."""
        return self._relay
