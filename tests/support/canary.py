"""A secret that exists to be looked for, and the eyes that find it in whatever form it was left."""

import base64
import json
import secrets
import string
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import quote, quote_plus

_PIECE_CHARACTERS = 24
_ALPHANUMERIC = string.ascii_letters + string.digits
_MOST_INFLATED_BYTES = 256 << 20
"""Of one place: an archive that a sandbox made to exhaust its reader is given up here."""
_WINDOW_BYTES = 1 << 20
_CLOCK_SLACK_SECONDS = 2.0
"""A file's change time comes from a coarser clock than ours."""


class Canary:
    """A random secret. Two runs of letters and digits in it, which no escaping changes, betray it also in part."""

    def __init__(self, name: str, *, special: str = '/+"&<é>%!\\~ '):
        self.name = name
        self.born_at = time.time() - _CLOCK_SLACK_SECONDS
        self._head, self._tail = (
            "".join(secrets.choice(_ALPHANUMERIC) for _ in range(_PIECE_CHARACTERS)) for _ in range(2)
        )
        self.value = f"{self._head}{special}{self._tail}"

    def __repr__(self) -> str:
        return f"<the secret of {self.name}>"

    def forms(self) -> dict[str, bytes]:
        """Return the whole secret in each form that is promised to be found, by the form's name."""
        raw = self.value.encode()
        escaped = "".join(f"\\u{ord(each):04x}" for each in self.value)
        found = {
            "raw": raw,
            "hex": raw.hex().encode(),
            "HEX": raw.hex().upper().encode(),
            "url": quote(raw, safe="").encode(),
            "url with slashes": quote(raw).encode(),
            "form": quote_plus(raw).encode(),
            "url of every byte": "".join(f"%{each:02x}" for each in raw).encode(),
            "URL of every byte": "".join(f"%{each:02X}" for each in raw).encode(),
            "json": json.dumps(self.value)[1:-1].encode(),
            "json in UTF-8": json.dumps(self.value, ensure_ascii=False)[1:-1].encode(),
            "json in HTML": _for_html(json.dumps(self.value)[1:-1]).encode(),
            "json of every character": escaped.encode(),
            "JSON of every character": escaped.upper().replace("\\U", "\\u").encode(),
            "json in json": json.dumps(json.dumps(self.value))[1:-1].encode(),
            "json of every character in json": json.dumps(escaped)[1:-1].encode(),
            "the first half": self._head.encode(),
            "the second half": self._tail.encode(),
        }
        for offset in range(3):
            whole = base64.b64encode(b"\xff" * offset + raw + b"\xff" * 3)
            found[f"base64 at {offset}"] = whole
            found[f"base64 for URLs at {offset}"] = whole.translate(bytes.maketrans(b"+/", b"-_"))
        return found

    def needles(self) -> dict[bytes, str]:
        """Return what betrays the secret, with the name of its form: every form of either run, at any alignment."""
        found: dict[bytes, str] = {}
        for piece in (self._head.encode(), self._tail.encode()):
            found[piece] = "text"
            for form, prefix in (("hex", ""), ("url", "%"), ("json", "\\u00"), ("escapes", "\\x")):
                found["".join(f"{prefix}{each:02x}" for each in piece).encode()] = form
                found["".join(f"{prefix}{each:02X}" for each in piece).encode()] = form
            for offset in range(3):
                core = _base64_core(piece, offset)
                found[core.translate(bytes.maketrans(b"+/", b"-_"))] = "base64 for URLs"
                found[core] = "base64"
        return found


def _for_html(text: str) -> str:
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e").replace("/", "\\/")


def _base64_core(piece: bytes, offset: int) -> bytes:
    """Return the characters that depend on ``piece`` alone, when ``offset`` bytes stand before it in a group."""
    first, last = -(-offset * 8 // 6), (offset + len(piece)) * 8 // 6
    return base64.b64encode(b"\0" * offset + piece)[first:last]


@dataclass(frozen=True)
class Sighting:
    """Where a secret was seen, and in which form; never the secret."""

    secret: str
    place: str
    form: str

    def __str__(self) -> str:
        return f"{self.secret}: {self.place} ({self.form})"


class Seeker:
    """Looks for secrets in bytes, and in what zlib makes of them; ``excused`` names places where one may be."""

    def __init__(self, *canaries: Canary, excused: Callable[[str, str], bool] = lambda _secret, _place: False):
        self._needles = {
            needle: (canary.name, form) for canary in canaries for needle, form in canary.needles().items()
        }
        self._escapes = {needle: found for needle, found in self._needles.items() if b"\\" in needle}
        self._excused = excused
        self.since = min(canary.born_at for canary in canaries)
        self.longest = max(map(len, self._needles))
        self.sightings: set[Sighting] = set()
        self.looked: dict[str, int] = {}
        self.seconds = 0.0
        self._known: set[tuple[int, ...]] = set()

    def look(self, place: str, data: bytes) -> None:
        """Look at what is whole."""
        trail = Trail(self, place)
        trail.feed(data)
        trail.finish()

    def match(self, place: str, data: bytes) -> None:
        """Look at bytes as they are, and at what they say when they were escaped more than once."""
        kind = place.partition(" ")[0]
        self.looked[kind] = self.looked.get(kind, 0) + len(data)
        self._match(place, data, self._needles)
        while b"\\\\" in data:
            data = data.replace(b"\\\\", b"\\")
            self._match(place, data, self._escapes)

    def is_known(self, identity: tuple[int, ...]) -> bool:
        """Tell whether this was asked before, of something that is expensive to look at."""
        known = identity in self._known
        self._known.add(identity)
        return known

    def summary(self) -> str:
        """Return how much was looked at, how long it took, and in how many places something was found."""
        kinds = ", ".join(f"{kind} {size / 1e6:.1f}" for kind, size in sorted(self.looked.items()))
        return f"{len(self.sightings)} sightings; MB looked at: {kinds}; {self.seconds:.1f} s"

    def verdict(self) -> None:
        """Fail, with the places and the forms, if anything was seen."""
        if self.sightings:
            shown = "\n  ".join(sorted(map(str, self.sightings)))
            raise AssertionError(f"secrets were left in {len(self.sightings)} places:\n  {shown}")

    def _match(self, place: str, data: bytes, needles: dict[bytes, tuple[str, str]]) -> None:
        if not data.strip(b"\0"):
            return
        for needle, (secret, form) in needles.items():
            if needle in data and not self._excused(secret, place):
                self.sightings.add(Sighting(secret, place, form))


class Trail:
    """One place whose bytes come in pieces: what lies across their borders is seen too, compressed or not."""

    def __init__(self, seeker: Seeker, place: str):
        self._seeker = seeker
        self._place = place
        self._waiting = bytearray()
        self._inflating: zlib._Decompress | None = None
        self._inflated: Trail | None = None
        self._budget = _MOST_INFLATED_BYTES

    def feed(self, piece: bytes) -> None:
        """Take the next piece."""
        self._waiting += piece
        if len(self._waiting) >= _WINDOW_BYTES:
            self._seeker.match(self._place, bytes(self._waiting))
            del self._waiting[: -self._seeker.longest]
        for inflated in self._inflate(piece):
            self._inflated = self._inflated or Trail(self._seeker, f"{self._place}, inflated")
            self._inflated.feed(inflated)

    def finish(self) -> None:
        """Look at what is left."""
        self._seeker.match(self._place, bytes(self._waiting))
        if self._inflated:
            self._inflated.finish()

    def _inflate(self, piece: bytes) -> Iterator[bytes]:
        while piece and self._budget > 0:
            if self._inflating is None:
                if not _is_compressed(piece):
                    return
                self._inflating = zlib.decompressobj(wbits=47)
            try:
                inflated = self._inflating.decompress(piece, _WINDOW_BYTES)
            except zlib.error:
                self._inflating = None
                return
            self._budget -= len(inflated)
            yield inflated
            piece = self._inflating.unconsumed_tail
            if self._inflating.eof:
                piece, self._inflating = self._inflating.unused_data, None


def _is_compressed(data: bytes) -> bool:
    return data[:2] == b"\x1f\x8b" or (len(data) > 2 and data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0)
