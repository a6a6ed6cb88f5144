"""Where a request goes, written in exactly one way."""

import ipaddress
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import idna

Scheme = Literal["http", "https"]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

DEFAULT_PORTS: dict[str, int] = {"http": 80, "https": 443}
_MAX_NAME = 253
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")
_PORT = re.compile(r"[1-9][0-9]{0,4}\Z")
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_ALLOWED = re.compile(r"[\x21-\x7e]+\Z")


class DestinationError(ValueError):
    """The text does not name one host and one port; the message says why."""


@dataclass(frozen=True)
class Destination:
    """The one thing that a request is judged, dialled and verified by. ``host`` is canonical."""

    scheme: Scheme
    host: str
    port: int

    @cached_property
    def authority(self) -> str:
        """What belongs in the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def address(self) -> Address | None:
        """The address, if the host is one and not a name."""
        return _address(self.host)

    def is_named_by(self, authority: str) -> bool:
        """Tell whether an authority, such as a Host header's, means this; a missing port is the scheme's own."""
        if authority == self.authority:
            return True
        try:
            return parse_authority(authority, self.scheme, default_port=DEFAULT_PORTS[self.scheme]) == self
        except DestinationError:
            return False


def parse_authority(text: str, scheme: Scheme, *, default_port: int | None = None) -> Destination:
    """Parse ``host:port``; raises `DestinationError`. Without ``default_port`` the port must be there."""
    if not _ALLOWED.match(text):
        raise DestinationError("the host holds a space, a control character or one outside ASCII")
    if "@" in text:
        raise DestinationError("the host holds user information, which a proxy must not be told")
    host, port = _split(text)
    if port is None:
        if default_port is None:
            raise DestinationError("the port is missing")
        return Destination(scheme, canonical_host(host), default_port)
    return Destination(scheme, canonical_host(host), _parse_port(port))


@lru_cache(maxsize=4096)
def canonical_host(text: str) -> str:
    """Return a name in lower case, its A-labels, without the final dot, or an address as it is usually written.

    Raises `DestinationError` for what is neither, and for numbers that some resolvers take for addresses.
    """
    if text.startswith("[") or text.endswith("]"):
        return _bracketed(text)
    name = _ascii(text).removesuffix(".")
    labels = name.split(".")
    if _NUMBER.match(labels[-1]):
        return _dotted(name)
    if len(name) > _MAX_NAME or not all(_LABEL.match(label) for label in labels):
        raise DestinationError("the host is not a valid name")
    for label in labels:
        if label.startswith("xn--"):
            _check_a_label(label)
    return name


def _split(text: str) -> tuple[str, str | None]:
    if text.startswith("["):
        host, bracket, rest = text.partition("]")
        if rest and not rest.startswith(":"):
            raise DestinationError("the address is followed by something that is not a port")
        return host + bracket, rest[1:] if rest else None
    host, colon, port = text.partition(":")
    return host, port if colon else None


def _parse_port(text: str) -> int:
    if not _PORT.match(text) or int(text) > 65535:
        raise DestinationError("the port is not a number from 1 to 65535")
    return int(text)


def _ascii(text: str) -> str:
    if text.isascii():
        return text.lower()
    try:
        return idna.encode(text, uts46=True, std3_rules=True).decode()
    except (idna.IDNAError, UnicodeError) as error:
        raise DestinationError("the host is not a valid international name") from error


def _check_a_label(label: str) -> None:
    try:
        valid = idna.alabel(idna.ulabel(label)) == label.encode()
    except (idna.IDNAError, UnicodeError) as error:
        raise DestinationError("the host is not a valid international name") from error
    if not valid:
        raise DestinationError("the host is an international name that is written in another way")


def _dotted(name: str) -> str:
    # Only four decimal numbers: 127.1, 2130706433, 0x7f.1 and 0177.0.0.1 are addresses to some resolvers.
    try:
        return str(ipaddress.IPv4Address(name))
    except ValueError as error:
        raise DestinationError("the host is an address in an unusual notation; write four decimal numbers") from error


def _bracketed(text: str) -> str:
    if not (text.startswith("[") and text.endswith("]")) or "%" in text:
        raise DestinationError("the host is not a valid IPv6 address")
    try:
        return str(ipaddress.IPv6Address(text[1:-1]))
    except ValueError as error:
        raise DestinationError("the host is not a valid IPv6 address") from error


@lru_cache(maxsize=4096)
def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
