"""The proxy's ear: a listening socket on the sandbox's own loopback, where commands find their only way out."""

import socket

from sandbox.supervisor.files import RefusedError

ADDRESS = ("127.0.0.1", 3128)
BACKLOG = 512
"""As many as the proxy serves of one sandbox at once: what connects while the proxy starts again waits here."""


class Ear:
    """Kept open by process 1, whoever else serves it, so that its place is never free for a command to take."""

    def __init__(self) -> None:
        self._listener: socket.socket | None = None

    def descriptor(self) -> int:
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
        return self._listener.fileno()
