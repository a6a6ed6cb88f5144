"""What process 1 says of its confinement, compared with what was asked for."""

from typing import Any

import pytest

from sandbox.contract import SandboxSpec
from sandbox.docker import limits_in_effect
from sandbox.supervised import isolation_faults

_SPEC = SandboxSpec(memory_mb=100, workspace_mb=10, pids=20, cpus=1.5)
_SOUND = {
    "canary": {"devices": [], "routes": [], "reached": []},
    "pid": 1,
    "uid": 1000,
    "capabilities": 0,
    "no_new_privileges": True,
    "read_only_root": True,
    "workspace_bytes": 10 << 20,
}


def test_a_sound_sandbox_has_no_faults() -> None:
    assert isolation_faults(_SOUND, _SPEC) == []


@pytest.mark.parametrize(
    ("fact", "fault"),
    [
        ({"canary": {"devices": ["eth0"], "routes": [], "reached": []}}, "it reaches the network: ['eth0']"),
        ({"pid": 2}, "its supervisor is not process 1"),
        ({"uid": 0}, "its commands run as root"),
        ({"capabilities": 1}, "its processes can have privileges"),
        ({"no_new_privileges": False}, "its processes can have privileges"),
        ({"read_only_root": False}, "its root can be written"),
        ({"workspace_bytes": 11 << 20}, "its /workspace holds 11 MB instead of 10"),
    ],
)
def test_each_fault_is_named(fact: dict[str, Any], fault: str) -> None:
    assert isolation_faults({**_SOUND, **fact}, _SPEC) == [fault]


@pytest.mark.parametrize(
    "found",
    [
        {"memory": str(500 << 20), "pids": "100", "cpu": "150000"},
        {"memory": str(500 << 20), "pids": "100", "cpu": "150000 100000"},
    ],
)
def test_limits_that_the_containers_cgroup_has_are_in_effect(found: dict[str, str]) -> None:
    assert set(limits_in_effect(found, _SPEC).values()) == {True}


@pytest.mark.parametrize(
    "found",
    [
        {"memory": str(1 << 62), "pids": "max", "cpu": "-1"},
        {"memory": "max", "pids": "101", "cpu": "max 100000"},
        {"memory": "", "pids": "", "cpu": ""},
    ],
)
def test_a_limit_that_the_engine_left_out_is_named(found: dict[str, str]) -> None:
    assert all(str(each).startswith("not effective: ") for each in limits_in_effect(found, _SPEC).values())
