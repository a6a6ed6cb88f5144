"""Frames that only the worker and process 1 can have written, whoever carries them.

In a pod the bridge runs as the same user as the commands, which may stop it, trace it or put themselves in its place.
So each piece of a connection is numbered and has a tag of a key that no command has ever seen: process 1 takes it
from its first connection, before any command can run. Whoever is in between can break the connection, and no more.
"""

import os
import struct
from _blake2 import blake2b

KEY_BYTES = NONCE_BYTES = 32
TAG_BYTES = 16
UNCLAIMED, CLAIMED = b"\0", b"\1"
GREETING_BYTES = 1 + NONCE_BYTES
MAX_PIECE_BYTES = 33 << 20
"""A frame of the largest size, and its lengths."""
_LENGTH = struct.Struct("!I")
_COUNT = struct.Struct("!Q")
_TO_SANDBOX, _TO_WORKER = b"order", b"answer"


def derived(key: bytes, purpose: bytes) -> bytes:
    """Return a key for one purpose only; whoever has it does not have the other."""
    return blake2b(purpose, key=key, digest_size=KEY_BYTES).digest()


class Seal:
    """One direction of one connection."""

    def __init__(self, key: bytes, nonces: bytes, direction: bytes):
        self._key = derived(key, direction + nonces)
        self._count = 0
        self._buffer = bytearray()

    def _tag(self, data: bytes) -> bytes:
        made = blake2b(_COUNT.pack(self._count), key=self._key, digest_size=TAG_BYTES)
        made.update(data)
        self._count += 1
        return made.digest()

    def close(self, data: bytes) -> bytes:
        """Return a piece as it travels."""
        return _LENGTH.pack(len(data)) + self._tag(data) + data

    def open(self, data: bytes) -> bytes:
        """Return what has come whole by now; raises ValueError for what the other end has not written."""
        self._buffer += data
        found = b""
        while len(self._buffer) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._buffer)
            end = _LENGTH.size + TAG_BYTES + size
            if size > MAX_PIECE_BYTES:
                raise ValueError(f"a piece of {size} bytes")
            if len(self._buffer) < end:
                break
            piece = bytes(self._buffer[_LENGTH.size + TAG_BYTES : end])
            # Compared by their digests, so that the time it takes tells nothing of the tag itself.
            tags = bytes(self._buffer[_LENGTH.size : _LENGTH.size + TAG_BYTES]), self._tag(piece)
            if derived(self._key, tags[0]) != derived(self._key, tags[1]):
                raise ValueError("a piece that was not sealed with this sandbox's key")
            del self._buffer[:end]
            found += piece
        return found


def seals(key: bytes, nonces: bytes) -> tuple[Seal, Seal]:
    """Return the seal of what goes to the sandbox, and of what comes from it."""
    return Seal(key, nonces, _TO_SANDBOX), Seal(key, nonces, _TO_WORKER)


class Keyhole:
    """Process 1's key, once it has one."""

    def __init__(self) -> None:
        self.key: bytes | None = None


class SealedEnd:
    """Process 1's end of a connection: greets, takes the key if it has none, then opens and closes pieces."""

    def __init__(self, keyhole: Keyhole):
        self._keyhole = keyhole
        self._nonce = os.urandom(NONCE_BYTES)
        self._first = bytearray()
        self._seals: tuple[Seal, Seal] | None = None

    def greeting(self) -> bytes:
        """Return what the worker reads first: whether there is a key already, and this connection's number."""
        return (CLAIMED if self._keyhole.key else UNCLAIMED) + self._nonce

    def opened(self, data: bytes) -> bytes:
        """Return what the worker has written; raises ValueError for what anyone else has."""
        if self._seals is None:
            self._first += data
            wanted = NONCE_BYTES + (0 if self._keyhole.key else KEY_BYTES)
            if len(self._first) < wanted:
                return b""
            if self._keyhole.key is None:
                self._keyhole.key = bytes(self._first[NONCE_BYTES:wanted])
            self._seals = seals(self._keyhole.key, self._nonce + self._first[:NONCE_BYTES])
            data = bytes(self._first[wanted:])
        return self._seals[0].open(data)

    def closed(self, data: bytes) -> bytes:
        """Return an answer as it travels; raises ValueError before anybody has asked."""
        if self._seals is None:
            raise ValueError("nobody has asked")
        return self._seals[1].close(data)
