"""What commands print: bounded while they run, and kept when they have ended."""

import os

from sandbox.supervisor.frames import CHUNK_BYTES, Header

_MARK_BYTES = 48


class Capture:
    """One output stream: its head and its tail, and how much fell out between them."""

    def __init__(self, limit: int):
        room = max(limit - _MARK_BYTES, 0)
        self._head_room, self._tail_room = room - room // 2, room // 2
        self._head, self._tail = bytearray(), bytearray()
        self.total = 0

    def feed(self, data: bytes) -> None:
        """Take what was printed."""
        self.total += len(data)
        taken = self._head_room - len(self._head)
        if taken > 0:
            self._head += data[:taken]
            data = data[taken:]
        self._tail += data
        if len(self._tail) > 2 * self._tail_room + CHUNK_BYTES:
            self._trim()

    def _trim(self) -> None:
        del self._tail[: max(len(self._tail) - self._tail_room, 0)]

    def content(self) -> tuple[bytes, int]:
        """Return what is kept, with a mark at the gap, and the number of bytes that are not."""
        self._trim()
        dropped = self.total - len(self._head) - len(self._tail)
        mark = b"\n[... %d bytes dropped ...]\n" % dropped if dropped else b""
        return bytes(self._head) + mark + bytes(self._tail), dropped


class Spool:
    """Finished results: all verdicts, and the newest outputs in two unnamed memory files used in turn."""

    def __init__(self, limit: int):
        self._half = max(limit // 2, 1)
        self._results: dict[str, tuple[Header, int, int]] = {}
        self._turn = 0
        self._files: dict[int, int] = {0: os.memfd_create("spool")}

    def put(self, exec_id: str, header: Header, payload: bytes) -> None:
        """Keep a result."""
        offset = os.fstat(self._files[self._turn]).st_size
        if offset and offset + len(payload) > self._half:
            self._turn, offset = self._turn + 1, 0
            self._files[self._turn] = os.memfd_create("spool")
            if self._turn - 2 in self._files:
                os.close(self._files.pop(self._turn - 2))
        os.pwrite(self._files[self._turn], payload, offset)
        self._results[exec_id] = (header, self._turn, offset)

    def get(self, exec_id: str) -> tuple[Header, bytes] | None:
        """Return a result, without its output if newer outputs have taken its place."""
        if exec_id not in self._results:
            return None
        header, turn, offset = self._results[exec_id]
        size = header["stdout_bytes"] + header["stderr_bytes"]
        if turn in self._files:
            return header, os.pread(self._files[turn], size, offset)
        return {**header, "stdout_bytes": 0, "stderr_bytes": 0, "dropped_bytes": header["dropped_bytes"] + size}, b""
