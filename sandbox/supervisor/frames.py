"""Messages between a worker and a supervisor: two lengths, a JSON header, raw bytes."""

import json
import struct

from sandbox.supervisor.typed import Any

FRAME = struct.Struct("!II")
MAX_FRAME_BYTES = 32 << 20
CHUNK_BYTES = 1 << 20
"""A file travels in pieces of this size, each one answered, so that nothing piles up."""

Header = dict[str, Any]


def pack(header: Header, payload: bytes = b"") -> bytes:
    """Return one frame."""
    text = json.dumps(header, separators=(",", ":")).encode()
    return FRAME.pack(len(text), len(payload)) + text + payload


def unpack(buffer: bytearray) -> tuple[Header, bytes] | None:
    """Take one frame off the buffer, or return None if it is not there whole; raises ValueError on nonsense."""
    if len(buffer) < FRAME.size:
        return None
    text_size, payload_size = FRAME.unpack_from(buffer)
    end = FRAME.size + text_size + payload_size
    if end > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {end} bytes")
    if len(buffer) < end:
        return None
    header = json.loads(buffer[FRAME.size : FRAME.size + text_size])
    payload = bytes(buffer[FRAME.size + text_size : end])
    del buffer[:end]
    return header, payload
