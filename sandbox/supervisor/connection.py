"""A worker's connection: frames in, frames out, and the files that it has open."""

import selectors
import socket
from collections.abc import Callable

from sandbox.supervisor.archives import Archives
from sandbox.supervisor.files import OpenFiles
from sandbox.supervisor.frames import CHUNK_BYTES, MAX_FRAME_BYTES, Header, pack, unpack
from sandbox.supervisor.seal import SealedEnd
from sandbox.supervisor.typed import Protocol


class Server(Protocol):
    """What a connection needs of the supervisor behind it."""

    selector: selectors.BaseSelector

    def later(self, delay: float, callback: Callable[[], None]) -> None:
        """Call something after so many seconds."""
        ...

    def obey(self, connection: "Connection", order: Header, payload: bytes) -> None:
        """Carry out one order."""
        ...


class Connection:
    """A worker's connection: frames in, frames out, and the files that it has open."""

    def __init__(self, box: "Server", sock: socket.socket, seal: SealedEnd | None = None):
        self.box, self.sock, self._seal = box, sock, seal
        self.incoming, self.outgoing = bytearray(), bytearray()
        self.files, self.archives = OpenFiles(), Archives(box.later)
        sock.setblocking(False)
        box.selector.register(sock, selectors.EVENT_READ, self.ready)
        if seal is not None:
            self._queue(seal.greeting())

    def ready(self, _fd: int) -> None:
        """Read and write as far as possible without waiting."""
        try:
            self._flush()
            data = self.sock.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        try:
            self.incoming += self._seal.opened(data) if self._seal is not None else data
            while data and (frame := unpack(self.incoming)):
                self.box.obey(self, *frame)
        except (ValueError, KeyError, TypeError):
            data = b""
        if not data:
            self.close()

    def send(self, header: Header, payload: bytes = b"") -> None:
        """Queue a frame; a reader who lets too much pile up is cut off."""
        if self.sock.fileno() >= 0:
            frame = pack(header, payload)
            self._queue(self._seal.closed(frame) if self._seal is not None else frame)

    def _queue(self, data: bytes) -> None:
        self.outgoing += data
        try:
            self._flush()
        except OSError:
            self.outgoing.clear()
        if len(self.outgoing) > MAX_FRAME_BYTES:
            self.close()

    def send_descriptor(self, header: Header, descriptor: int) -> None:
        """Answer with a descriptor; the connection is one that only asks for it, so nothing is queued before."""
        try:
            socket.send_fds(self.sock, [pack(header)], [descriptor])
        except OSError:
            self.close()

    def _flush(self) -> None:
        while self.outgoing:
            try:
                del self.outgoing[: self.sock.send(self.outgoing)]
            except BlockingIOError:
                break
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.outgoing else 0)
        self.box.selector.modify(self.sock, events, self.ready)

    def close(self) -> None:
        """Forget the connection and its unfinished files; commands go on."""
        if self.sock.fileno() < 0:
            return
        self.box.selector.unregister(self.sock)
        self.sock.close()
        self.files.abandon()
        self.archives.abandon()
