"""Takes secrets out of what a bound host answers, in the forms in which servers usually give them back."""

import base64
import html
import json
from collections.abc import Iterator, Sequence
from urllib.parse import quote, quote_plus

_SHORTEST_FORM = 4
"""Fewer bytes would be found by accident everywhere."""

_BROWSERS_KEEP = "!'()*"


class Scrubber:
    """Masks secrets in a stream with as many asterisks, so that lengths stay true; holds back what might become one.

    An arbitrary transformation (reversed, compressed, one byte per response) is not recognised: which methods and
    paths a credential may be used for is what really limits it.
    """

    def __init__(self, known: Sequence[bytes]):
        self._forms = known
        self._window = len(known[0]) - 1 if known else 0
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """Return what may pass, masked."""
        data = self.mask(self._held + chunk) if self._held else self.mask(chunk)
        keep = self._begun(data)
        self._held = data[len(data) - keep :] if keep else b""
        return data[: len(data) - keep] if keep else data

    def finish(self) -> bytes:
        """Return what was held back to the end."""
        held, self._held = self._held, b""
        return held

    def mask(self, data: bytes) -> bytes:
        """Mask what is whole in ``data``."""
        for form in self._forms:
            if form in data:
                data = data.replace(form, b"*" * len(form))
        return data

    def is_clean(self, data: bytes) -> bool:
        """Tell whether nothing in ``data`` would be masked."""
        for form in self._forms:  # noqa: SIM110 - a generator costs more than what it would go through
            if form in data:
                return False
        return True

    def _begun(self, data: bytes) -> int:
        tail = data[-self._window :] if self._window else b""
        longest = 0
        for form in self._forms:
            at = tail.find(form[:1])
            while at != -1 and len(tail) - at > longest:
                if form.startswith(tail[at:]):
                    longest = len(tail) - at
                    break
                at = tail.find(form[:1], at + 1)
        return longest


class KnownForms:
    """The forms of the secrets of one connection, made again only when they change."""

    def __init__(self) -> None:
        self._secrets: tuple[bytes, ...] = ()
        self._forms: tuple[bytes, ...] = ()

    def of(self, secrets: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Return every form of every secret, the longest first, as `Scrubber` wants them."""
        if secrets != self._secrets:
            found = {form for secret in secrets for form in forms(secret)}
            self._secrets, self._forms = secrets, tuple(sorted(found, key=len, reverse=True))
        return self._forms


def forms(secret: bytes) -> set[bytes]:
    """Return a secret raw, in base64 at every offset, in hex, and escaped for URLs, JSON (also twice) and HTML.

    What is in base64, as in Basic, may be in hex, base64 and escapes in turn.
    """
    urls = {quote(secret, safe=""), quote(secret, safe="/"), quote(secret, safe=_BROWSERS_KEEP), quote_plus(secret)}
    found = {secret, secret.hex().encode(), secret.hex().upper().encode()}
    found |= {url.encode() for url in urls} | {_lower_escapes(url).encode() for url in urls}
    for text in {secret.decode(errors="replace"), secret.decode("latin-1")}:  # the latter: as servers read a header
        found |= {html.escape(text).encode(), html.escape(text, quote=False).encode(), *_json_forms(text)}
    for core in _cores(secret):
        found |= {core, core.hex().encode(), core.hex().upper().encode(), *_cores(core)}
        url = quote(core, safe="")
        found |= {url.encode(), _lower_escapes(url).encode()}
        found |= {core.replace(b"/", escaped) for escaped in (b"\\/", b"\\\\/", b"\\u002f", b"\\u002F")}
    return {form for form in found if len(form) >= _SHORTEST_FORM}


def _json_forms(text: str) -> Iterator[bytes]:
    for in_ascii in (True, False):
        plain = json.dumps(text, ensure_ascii=in_ascii)[1:-1]
        for_html = plain.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
        for once in (plain, plain.replace("/", "\\/"), for_html):
            yield once.encode()
            yield json.dumps(once, ensure_ascii=in_ascii)[1:-1].encode()


def _lower_escapes(url: str) -> str:
    parts = url.split("%")
    return "%".join([parts[0], *(part[:2].lower() + part[2:] for part in parts[1:])])


def _cores(secret: bytes) -> set[bytes]:
    return {core for offset in range(3) for core in _base64_cores(secret, offset)}


def _base64_cores(secret: bytes, offset: int) -> set[bytes]:
    # The characters that depend on the secret alone, whatever stands before and after it.
    first = (0, 2, 3)[offset]
    last = (offset + len(secret)) * 8 // 6
    encoded = base64.b64encode(b"\0" * offset + secret)[first:last]
    return {encoded, encoded.replace(b"+", b"-").replace(b"/", b"_")}
