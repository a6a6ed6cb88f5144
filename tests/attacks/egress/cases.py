"""Addresses that no sandbox may reach, and the ways to ask for them; data for `island.py` and `test_addresses.py`."""

from dataclasses import dataclass

PORTS = (80, 443)
PUBLIC = "93.184.215.14"
ALLOWED = (f"{PUBLIC}/32",)
"""Allowed by setting, because on an island every address is the machine's own."""

FORBIDDEN = {
    "private-10": "10.0.0.1",
    "private-172": "172.16.0.1",
    "private-192": "192.168.1.1",
    "metadata": "169.254.169.254",
    "metadata-tasks": "169.254.170.2",
    "metadata-azure": "168.63.129.16",
    "metadata-alibaba": "100.100.100.200",
    "metadata-oracle": "192.0.0.192",
    "link-local": "169.254.1.1",
    "carrier-grade-nat": "100.64.0.1",
    "loopback": "127.0.0.1",
    "loopback-elsewhere": "127.8.9.10",
    "this-network": "0.0.0.0",
    "benchmark": "198.18.0.1",
    "documentation": "203.0.113.7",
    "relay-anycast": "192.88.99.1",
    "multicast": "224.0.0.1",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "own-public-address": "93.184.215.99",
    "v6-loopback": "::1",
    "v6-unspecified": "::",
    "v6-unique-local": "fc00::1",
    "v6-metadata": "fd00:ec2::254",
    "v6-link-local": "fe80::1",
    "v6-multicast": "ff02::1",
    "v6-documentation": "2001:db8::1",
    "v6-mapped": "::ffff:10.0.0.1",
    "v6-mapped-metadata": "::ffff:169.254.169.254",
    "v6-compatible": "::10.0.0.1",
    "v6-translated": "64:ff9b::a00:1",
    "v6-translated-locally": "64:ff9b:1::a00:1",
    "v6-6to4": "2002:a00:1::1",
    "v6-teredo": "2001:0:a00:1::1",
    "v6-own-global": "2a00:1450:4001::99",
}
ADDRESSES = [PUBLIC, *FORBIDDEN.values()]


@dataclass(frozen=True)
class Case:
    """One request, and what the name in it resolves to, time after time."""

    id: str
    request: str
    name: str = "-"
    answers: tuple[tuple[str, ...], ...] = ()
    times: int = 1
    allow: tuple[str, ...] = ALLOWED
    """What the installation's setting allows."""


def _plain(authority: str) -> str:
    return f"GET http://{authority}/latest/meta-data/ HTTP/1.1\r\nHost: {authority}\r\n\r\n"


def _connect(authority: str) -> str:
    return f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"


def _literal(address: str) -> str:
    return f"[{address}]" if ":" in address else address


RESOLVED = [
    Case(f"{kind}-{how}", ask, "name.test", ((address,),))
    for kind, address in FORBIDDEN.items()
    for how, ask in (("http", _plain("name.test")), ("connect", _connect("name.test:443")))
]
LITERAL = [
    Case(f"{kind}-literal-{how}", ask)
    for kind, address in FORBIDDEN.items()
    for how, ask in (("http", _plain(_literal(address))), ("connect", _connect(f"{_literal(address)}:443")))
]
MIXED = [
    Case("mixed-good-first", _plain("name.test"), "name.test", ((PUBLIC, "10.0.0.1"),)),
    Case("mixed-bad-first", _plain("name.test"), "name.test", (("10.0.0.1", PUBLIC),)),
    Case("mixed-families", _connect("name.test:443"), "name.test", ((PUBLIC, "::1"),)),
]
NOTATIONS = [
    Case(f"notation-{kind}", _plain(host))
    for kind, host in {
        "decimal": "2130706433", "octal": "0177.0.0.1", "hexadecimal": "0x7f000001", "short": "127.1", "zero": "0",
        "padded": "127.000.000.001", "hexadecimal-part": "127.0.0.0x1", "trailing-dot": "127.0.0.1.",
    }.items()
]  # fmt: skip
ALTHOUGH_ALLOWED = [
    Case(f"{kind}-although-allowed", _plain("name.test"), "name.test", ((address,),), allow=("0.0.0.0/0", "::/0"))
    for kind, address in FORBIDDEN.items()
    if "metadata" in kind or kind in {"v6-mapped", "v6-compatible", "v6-translated", "v6-6to4", "v6-teredo"}
]
OWN_PORT = [Case("own-port", _plain("127.0.0.1:{ear}")), Case("own-port-connect", _connect("127.0.0.1:{ear}"))]
REBOUND = Case("rebound", _plain("name.test"), "name.test", ((PUBLIC,), ("10.0.0.1",)))
REBOUND_LATER = Case("rebound-later", _plain("name.test"), "name.test", ((PUBLIC,), ("10.0.0.1",)), times=2)
CASES = [*RESOLVED, *LITERAL, *MIXED, *NOTATIONS, *ALTHOUGH_ALLOWED, *OWN_PORT, REBOUND, REBOUND_LATER]
