"""Settings about addresses."""

import ipaddress

import pytest

from sandbox.egress.addresses import AddressRules, parse_cidrs, parse_hosts


def test_pins_are_parsed() -> None:
    assert parse_hosts("git.corp=10.1.2.3:443, API.test.=[::1]:8443,") == {
        "git.corp": ("10.1.2.3", 443),
        "api.test": ("::1", 8443),
    }


@pytest.mark.parametrize(
    "text", ["git.corp", "git.corp=10.1.2.3", "git.corp=other.test:443", "=1.2.3.4:5", "a b=1.2.3.4:5"]
)
def test_a_pin_that_is_none_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is not name=address:port"):
        parse_hosts(text)


def test_ranges_are_parsed() -> None:
    assert parse_cidrs("10.0.0.0/8, fd00::/8") == (
        ipaddress.ip_network("10.0.0.0/8"),
        ipaddress.ip_network("fd00::/8"),
    )
    with pytest.raises(ValueError, match=r"10\.0\.0\.1/8"):
        parse_cidrs("10.0.0.1/8")


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "2a00:1450:4001::1"])
def test_public_addresses_are_open(address: str) -> None:
    assert not AddressRules().refuses(ipaddress.ip_address(address))


def test_an_allowed_range_is_open_except_for_metadata() -> None:
    rules = AddressRules(parse_cidrs("10.0.0.0/8,169.254.0.0/16,64:ff9b::/96"))
    refused = {text: rules.refuses(ipaddress.ip_address(text)) for text in
               ("10.1.2.3", "169.254.1.1", "192.168.1.1", "169.254.169.254", "64:ff9b::a01:203")}  # fmt: skip
    assert refused == {
        "10.1.2.3": False,
        "169.254.1.1": False,
        "192.168.1.1": True,
        "169.254.169.254": True,
        "64:ff9b::a01:203": True,
    }
