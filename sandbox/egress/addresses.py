"""Which addresses may be dialled, and where a name is dialled that the installation has pinned."""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from sandbox.egress.destination import Address, Destination, DestinationError, canonical_host
from sandbox.egress.limits import MAX_ADDRESSES, RESOLVE_SECONDS

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Endpoint = tuple[str, int]

_RESOLVER_THREADS = 32
"""Names that are looked up at once: a slow zone of one sandbox must not hold up the others."""


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


# RFC 6890 and the registries it began, plus multicast, reserved and the relay anycast of 6to4.
_CLOSED_V4 = _networks(
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
    "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
)  # fmt: skip
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
# Inside the global range: protocol assignments with Teredo and ORCHID, documentation, 6to4, SRv6.
_CLOSED_V6 = _networks("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16")
# Where clouds hand out credentials; never dialled, whatever the installation allows.
_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254", "169.254.169.253", "169.254.170.2", "169.254.170.23", "168.63.129.16", "100.100.100.200",
        "192.0.0.192", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fe80::a9fe:a9fe",
    )
)  # fmt: skip


class Resolver(Protocol):
    """Looks names up."""

    async def resolve(self, host: str) -> Sequence[Address]:
        """Return every address of a canonical name; raises `OSError` if there is none or nobody answers."""
        ...


class AddressError(Exception):
    """The destination has an address that may not be dialled; the message is for the model."""


@dataclass(frozen=True)
class AddressRules:
    """The installation's settings: ranges that are allowed although private, and names whose endpoint is pinned."""

    allow_cidrs: tuple[Network, ...] = ()
    hosts: dict[str, Endpoint] = field(default_factory=dict[str, Endpoint])

    def refuses(self, address: Address) -> bool:
        """Tell whether an address may not be dialled."""
        if address in _METADATA or _holds_another(address):
            return True
        if any(address in network for network in self.allow_cidrs):
            return False
        return _is_closed(address) or is_own(address)


def parse_cidrs(text: str) -> tuple[Network, ...]:
    """Parse ``10.0.0.0/8,fd00::/8``; raises `ValueError` that names the part."""
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


def parse_hosts(text: str) -> dict[str, Endpoint]:
    """Parse ``git.corp=10.1.2.3:443,api.test=[::1]:8443``; raises `ValueError` that names the part."""
    found: dict[str, Endpoint] = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        name, _, endpoint = part.partition("=")
        host, _, port = endpoint.rpartition(":")
        try:
            address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
            found[canonical_host(name)] = (str(address), int(port))
        except (ValueError, DestinationError) as error:
            raise ValueError(f"{part!r} is not name=address:port: {error}") from error
    return found


def is_own(address: Address) -> bool:
    """Tell whether an address is one of this machine's: connecting a datagram socket sends nothing and shows it."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return ipaddress.ip_address(probe.getsockname()[0].partition("%")[0]) == address
    except OSError:
        return False


async def endpoints(destination: Destination, rules: AddressRules, resolver: Resolver) -> list[Endpoint]:
    """Return where to dial, each vetted; raises `AddressError` if any is refused, `OSError` if there is none."""
    if pinned := rules.hosts.get(destination.host):
        return [pinned]
    literal = destination.address
    addresses = [literal] if literal else await _resolve(destination.host, resolver)
    if not addresses:
        raise OSError("the name has no address")
    if any(rules.refuses(address) for address in addresses):
        raise AddressError(f"Host {destination.host} has an address that is private, reserved or this machine's own.")
    return [(str(address), destination.port) for address in addresses[:MAX_ADDRESSES]]


async def _resolve(host: str, resolver: Resolver) -> Sequence[Address]:
    async with asyncio.timeout(RESOLVE_SECONDS):
        return await resolver.resolve(host)


class SystemResolver:
    """Asks the machine's resolver, in threads of its own, never with a search domain."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVER_THREADS, thread_name_prefix="egress-resolver")

    async def resolve(self, host: str) -> Sequence[Address]:
        """Return every address of a canonical name; raises `OSError`."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, _look_up, host + ".")
        return list(dict.fromkeys(found))

    def close(self) -> None:
        """Wait for no look-up that is under way."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str) -> list[Address]:
    answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(str(sockaddr[0]).partition("%")[0]) for *_, sockaddr in answers]


def _holds_another(address: Address) -> bool:
    """Mapped, compatible, translated and tunnelled forms of IPv4: they reach an address that nobody has vetted."""
    if isinstance(address, ipaddress.IPv4Address):
        return False
    return bool(address.ipv4_mapped or address.sixtofour or address.teredo) or any(
        address in network for network in _TRANSLATED
    )


_TRANSLATED = _networks("::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48")


def _is_closed(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return any(address in network for network in _CLOSED_V4)
    return address not in _GLOBAL_V6 or any(address in network for network in _CLOSED_V6)
