"""The body of an HTTP/1.1 message, taken out of the bytes that come; pure, and the same however they are split."""

import re

from sandbox.egress.heads import MessageError, head_end, read_fields
from sandbox.egress.limits import MAX_CHUNK_LINE_BYTES, MAX_TRAILER_BYTES

_SIZE = rb"[0-9A-Fa-f]{1,15}"
_EXTENSION = rb";[\t\x20-\x7e\x80-\xff]*"
_CHUNK = re.compile(rb"(" + _SIZE + rb")(?:" + _EXTENSION + rb")?\r\n")
_CHUNK_BEGUN = re.compile(rb"(?:" + _SIZE + rb"(?:" + _EXTENSION + rb")?\r?)?")


class SizedBody:
    """A body of a known length."""

    def __init__(self, length: int):
        self._left = length
        self.is_ended = length == 0
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return what of ``data`` is body; what comes after its end is ``rest``."""
        left = self._left = self._left - len(data)
        if left > 0:
            return data
        self.is_ended = True
        if left < 0:
            self.rest = data[left:]
            return data[:left]
        return data

    def end(self) -> None:
        """Say that nothing more comes; raises `MessageError` if something is missing."""
        if not self.is_ended:
            raise MessageError("it was cut short")


class OpenBody:
    """A body that ends with the connection."""

    def __init__(self) -> None:
        self.is_ended = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return what of ``data`` is body."""
        return data

    def end(self) -> None:
        """Say that nothing more comes."""
        self.is_ended = True


class ChunkedBody:
    """A body in chunks; what extensions and trailers say is not passed on."""

    def __init__(self) -> None:
        self.is_ended = False
        self.rest = b""
        self._held = b""
        self._left = 0
        self._is_inside = False
        self._trailers: bytes | None = None

    def feed(self, data: bytes) -> bytes:
        """Return what of ``data`` is body; raises `MessageError` for a broken chunk."""
        if self._trailers is not None:
            self._feed_trailers(data)
            return b""
        data, parts, at = self._held + data, list[bytes](), 0
        while True:
            if self._left:
                parts.append(data[at : at + self._left])
                at += len(parts[-1])
                self._left -= len(parts[-1])
            if self._left or not (after := self._next_chunk(data, at)):
                break
            at = after
            if not self._left:
                # The line that says so ends with the line end that an empty trailer section consists of.
                self._trailers = b""
                self._feed_trailers(data[at - 2 :])
                break
        self._held = data[at:]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def end(self) -> None:
        """Say that nothing more comes; raises `MessageError` if something is missing."""
        if not self.is_ended:
            raise MessageError("it was cut short")

    def _next_chunk(self, data: bytes, at: int) -> int:
        """Return where the next chunk's bytes begin, 0 if that cannot be told yet."""
        if self._is_inside:
            if not b"\r\n".startswith(data[at : at + 2]):
                raise MessageError("a chunk does not end where it says")
            if len(data) < at + 2:
                return 0
            at += 2
        line = _CHUNK.match(data, at, at + MAX_CHUNK_LINE_BYTES)
        if line is None:
            if len(data) - at >= MAX_CHUNK_LINE_BYTES or not _CHUNK_BEGUN.fullmatch(data, at):
                raise MessageError("a chunk does not say its size")
            return 0
        self._left = int(line[1], 16)
        self._is_inside = True
        return line.end()

    def _feed_trailers(self, data: bytes) -> None:
        seen = len(self._trailers or b"")
        trailers = self._trailers = (self._trailers or b"") + data
        end = head_end(trailers, seen, limit=MAX_TRAILER_BYTES)
        if end:
            read_fields(trailers, 2, end)
            self.is_ended, self.rest = True, trailers[end:]


Body = SizedBody | OpenBody | ChunkedBody
