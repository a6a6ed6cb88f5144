"""Knowing a vault's secrets again in a text without having them: by keyed hashes of their head and whole."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from controlplane.vault.values import SHORTEST_SECRET

_HEAD_BYTES = 8
_WHOLE_BYTES = 32


@dataclass(frozen=True)
class Mark:
    """A secret's hashes under its workspace's key. ``length``: of the secret, in characters."""

    head: bytes
    whole: bytes
    length: int


def mark_of(key: bytes, secret: str) -> Mark:
    """Return what a secret is known by."""
    return Mark(_hash(key, secret[:SHORTEST_SECRET], _HEAD_BYTES), _hash(key, secret, _WHOLE_BYTES), len(secret))


def found(key: bytes, marks: Sequence[Mark], text: str) -> Iterator[tuple[int, int]]:
    """Yield where in a text a marked secret begins and ends."""
    by_head: dict[bytes, list[Mark]] = {}
    for mark in marks:
        by_head.setdefault(mark.head, []).append(mark)
    if not by_head:
        return
    for start in range(len(text) - SHORTEST_SECRET + 1):
        for mark in by_head.get(_hash(key, text[start : start + SHORTEST_SECRET], _HEAD_BYTES), ()):
            candidate = text[start : start + mark.length]
            if len(candidate) == mark.length and _hash(key, candidate, _WHOLE_BYTES) == mark.whole:
                yield start, start + mark.length


def _hash(key: bytes, text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), key=key[:64], digest_size=size).digest()
