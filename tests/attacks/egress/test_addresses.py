"""Names and numbers that lead to private, metadata or own addresses, where a packet that gets through is seen."""

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from tests.attacks.egress.cases import (
    ALTHOUGH_ALLOWED,
    FORBIDDEN,
    LITERAL,
    MIXED,
    NOTATIONS,
    OWN_PORT,
    PUBLIC,
    RESOLVED,
    Case,
)


@pytest.fixture(scope="module")
def island() -> dict[str, Any]:
    """What happened to every case on a machine of its own."""
    unshare = ["unshare", "--net"] if os.getuid() == 0 else ["unshare", "--map-root-user", "--net"]
    if not shutil.which("ip") or subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs `ip` and the right to make a network namespace")
    command = [*unshare, sys.executable, "-m", "tests.attacks.egress.island"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_island_would_show_a_packet_that_gets_through(island: dict[str, Any]) -> None:
    unreachable = {"this-network", "multicast", "reserved", "broadcast", "v6-unspecified", "v6-link-local",
                   "v6-multicast", "v6-compatible"}  # fmt: skip
    wanted = {address for kind, address in FORBIDDEN.items() if kind not in unreachable}
    assert wanted - set(island["reachable"]) == set()


@pytest.mark.parametrize("case", [*RESOLVED, *MIXED, *ALTHOUGH_ALLOWED], ids=lambda case: case.id)
def test_a_name_with_a_forbidden_address_is_refused(island: dict[str, Any], case: Case) -> None:
    got = island[case.id]
    assert [got["answers"][0][0], got["answers"][0][1]] == [403, "address_not_allowed"]
    assert "Host name.test has an address that is private" in got["answers"][0][2]
    assert (got["verdict"], got["reason"]) == ("denied", "address_not_allowed")
    assert got["reached"] == []


@pytest.mark.parametrize("case", LITERAL, ids=lambda case: case.id)
def test_a_forbidden_address_is_refused(island: dict[str, Any], case: Case) -> None:
    got = island[case.id]
    assert [got["answers"][0][0], got["answers"][0][1]] == [403, "address_not_allowed"]
    assert (got["verdict"], got["asked"], got["reached"]) == ("denied", [], [])


@pytest.mark.parametrize("case", NOTATIONS, ids=lambda case: case.id)
def test_an_unusual_notation_is_no_way_around(island: dict[str, Any], case: Case) -> None:
    got = island[case.id]
    assert got["answers"][0][1] in {"bad_destination", "address_not_allowed"}
    assert (got["verdict"], got["asked"], got["reached"]) == ("denied", [], [])


@pytest.mark.parametrize("case", OWN_PORT, ids=lambda case: case.id)
def test_the_proxy_does_not_call_itself(island: dict[str, Any], case: Case) -> None:
    got = island[case.id]
    assert (got["answers"][0][0], got["answers"][0][1]) == (403, "port_not_allowed")
    assert (got["verdict"], got["reached"]) == ("denied", [])


def test_the_address_that_was_checked_is_dialled(island: dict[str, Any]) -> None:
    got = island["rebound"]
    assert (got["answers"][0][0], got["verdict"]) == (200, "allowed")
    assert (got["reached"], got["asked"]) == ([PUBLIC], ["name.test"])


def test_a_name_that_changes_is_checked_again(island: dict[str, Any]) -> None:
    got = island["rebound-later"]
    assert [each[0] for each in got["answers"]] == [200, 403]
    assert (got["reached"], got["reason"]) == ([PUBLIC], "address_not_allowed")
