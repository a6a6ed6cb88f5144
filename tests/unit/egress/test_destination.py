"""One way to write where a request goes."""

import ipaddress
import socket
import string
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.egress.destination import Destination, DestinationError, canonical_host, parse_authority

_LABELS = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=12)
_NUMBERS = st.lists(
    st.sampled_from(["0", "1", "127", "010", "0x7f", "0X7F", "2130706433", "256", "1e1", "a", "0x", "08"]),
    min_size=1,
    max_size=5,
).map(".".join)
_SOUP = st.text(string.ascii_letters + string.digits + ".:[]@%-_/\\\0\t\n ä。①xX", max_size=40)


@pytest.mark.parametrize(
    ("written", "host", "port"),
    [
        ("api.test:443", "api.test", 443),
        ("API.Test.:443", "api.test", 443),
        ("a_b.test:1", "a_b.test", 1),
        ("10.1.2.3:443", "10.1.2.3", 443),
        ("[::1]:443", "::1", 443),
        ("[2001:DB8:0:0::1]:65535", "2001:db8::1", 65535),
        ("xn--bcher-kva.test:443", "xn--bcher-kva.test", 443),
    ],
)
def test_a_destination_is_parsed(written: str, host: str, port: int) -> None:
    assert parse_authority(written, "https") == Destination("https", host, port)


def test_an_authority_says_the_port_only_where_it_must() -> None:
    assert Destination("https", "api.test", 443).authority == "api.test"
    assert Destination("http", "api.test", 443).authority == "api.test:443"
    assert Destination("https", "::1", 8443).authority == "[::1]:8443"


@pytest.mark.parametrize("name", ["bücher.test", "BÜCHER.test.", "xn--bcher-kva.test"])
def test_international_names_become_a_labels(name: str) -> None:
    assert canonical_host(name) == "xn--bcher-kva.test"


@given(_SOUP)
def test_whatever_is_taken_is_canonical_and_stays_the_same(text: str) -> None:
    try:
        found = parse_authority(text, "https")
    except DestinationError:
        return
    assert text.isascii()
    assert not set(text) & set("@%/\\\0\t\n ")
    assert found.host == found.host.lower()
    assert not found.host.endswith(".")
    assert 1 <= found.port <= 65535
    again = parse_authority(
        f"[{found.host}]:{found.port}" if ":" in found.host else f"{found.host}:{found.port}", "https"
    )
    assert again == found


@given(_SOUP)
def test_canonical_hosts_are_stable(text: str) -> None:
    try:
        host = canonical_host(text)
    except DestinationError:
        return
    assert canonical_host(f"[{host}]" if ":" in host else host) == host


@given(st.one_of(_SOUP, _NUMBERS))
def test_no_name_is_an_address_to_the_systems_resolver(text: str) -> None:
    """The C library takes many notations for addresses; each of these is one here too, or refused."""
    try:
        host = canonical_host(text)
    except DestinationError:
        return
    with suppress(OSError):
        assert socket.inet_ntoa(socket.inet_aton(host)) == host
        assert Destination("https", host, 443).address == ipaddress.ip_address(host)


@given(_SOUP)
def test_others_read_the_same_host_and_port(text: str) -> None:
    try:
        found = parse_authority(text, "https")
    except DestinationError:
        return
    theirs = urlsplit(f"https://{text}/")
    assert theirs.hostname is not None
    assert canonical_host(f"[{theirs.hostname}]" if ":" in theirs.hostname else theirs.hostname) == found.host
    assert theirs.port == found.port


@given(st.lists(_LABELS, min_size=1, max_size=4), st.integers(1, 65535))
def test_case_and_a_final_dot_make_no_difference(labels: list[str], port: int) -> None:
    name = ".".join(labels)
    try:
        found = parse_authority(f"{name}:{port}", "https")
    except DestinationError:
        return
    assert parse_authority(f"{name.upper()}.:{port}", "https") == found


@given(st.integers(0, 2**32 - 1))
def test_an_address_has_one_notation(number: int) -> None:
    address = ipaddress.IPv4Address(number)
    parts = [int(each) for each in str(address).split(".")]
    assert canonical_host(str(address)) == str(address)
    for other in (str(number), hex(number), ".".join(oct(each).replace("0o", "0") for each in parts)):
        if other != str(address):
            with pytest.raises(DestinationError):
                canonical_host(other)
