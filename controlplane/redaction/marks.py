"""Knowing a vault's secrets again in a text without having them: by keyed hashes of their head and whole."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from controlplane.vault.values import SHORTEST_SECRET

_HEAD_BYTES = 8
_WHOLE_BYTES = 32
_ESCAPED = re.compile(
    r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|(.))", re.DOTALL
)
_SIGNS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_MOST_ESCAPED = 3
"""JSON in a string of JSON in a string of JSON."""


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
    """Yield where in a text a marked secret begins and ends, also one that is escaped as in JSON, or in a program."""
    by_head: dict[bytes, list[Mark]] = {}
    for mark in marks:
        by_head.setdefault(mark.head, []).append(mark)
    if not by_head:
        return
    places = range(len(text) + 1)
    yield from _found(key, by_head, text)
    for _ in range(_MOST_ESCAPED):
        if "\\" not in text:
            return
        text, inner = _unescaped(text)
        places = [places[each] for each in inner]
        yield from ((places[start], places[end]) for start, end in _found(key, by_head, text))


def _unescaped(text: str) -> tuple[str, list[int]]:
    """Return a text without one level of escapes, and where each of its characters, and its end, was."""
    pieces: list[str] = []
    places: list[int] = []
    last = 0
    for match in _ESCAPED.finditer(text):
        high, low, single, sign = match.groups()
        if sign is None:
            units = bytes.fromhex(f"{high}{low}" if single is None else single)
            meant = units.decode("utf-16-be", errors="surrogatepass")
        else:
            meant = _SIGNS.get(sign, sign)
        pieces += [text[last : match.start()], meant]
        places += [*range(last, match.start()), match.start()]
        last = match.end()
    places += range(last, len(text) + 1)
    return "".join([*pieces, text[last:]]), places


def _found(key: bytes, by_head: Mapping[bytes, list[Mark]], text: str) -> Iterator[tuple[int, int]]:
    for start in range(len(text) - SHORTEST_SECRET + 1):
        for mark in by_head.get(_hash(key, text[start : start + SHORTEST_SECRET], _HEAD_BYTES), ()):
            candidate = text[start : start + mark.length]
            if len(candidate) == mark.length and _hash(key, candidate, _WHOLE_BYTES) == mark.whole:
                yield start, start + mark.length


def _hash(key: bytes, text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), key=key[:64], digest_size=size).digest()
