"""The filter of system calls, run by a small interpreter of its own."""

import errno
import struct

import pytest

from sandbox.supervisor.confinement import call_filter

_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_MACHINES = {"x86_64": (0xC000003E, 56, 41, 272), "aarch64": (0xC00000B7, 220, 198, 97)}


def verdict(program: bytes, architecture: int, number: int, argument: int = 0) -> int:
    """Run a classic BPF program on one call."""
    data = struct.pack("<IIQQQQQQQ", number, architecture, 0, argument, 0, 0, 0, 0, 0)
    steps = list(struct.iter_unpack("HBBI", program))
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, value = steps[at]
        if code == 0x06:
            return value
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
            at += 1
            continue
        holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[code]
        at += 1 + (if_true if holds else if_false)


@pytest.mark.parametrize("machine", _MACHINES)
def test_common_calls_pass_and_dangerous_ones_fail(machine: str) -> None:
    architecture, clone, socket_call, unshare = _MACHINES[machine]
    program = call_filter(machine)
    assert verdict(program, architecture, 0) == _ALLOW
    assert verdict(program, architecture, unshare) == _FAIL | errno.EPERM
    assert verdict(program, architecture, 435) == _FAIL | errno.ENOSYS
    assert verdict(program, architecture, clone, 0x11) == _ALLOW
    assert verdict(program, architecture, clone, 0x10000011) == _FAIL | errno.EPERM
    assert verdict(program, architecture, socket_call, 1) == _ALLOW
    assert verdict(program, architecture, socket_call, 40) == _FAIL | errno.EAFNOSUPPORT


@pytest.mark.parametrize("machine", _MACHINES)
def test_calls_of_another_architecture_fail(machine: str) -> None:
    program = call_filter(machine)
    assert verdict(program, 0x40000003, 1) == _FAIL | errno.ENOSYS
    assert verdict(program, _MACHINES[machine][0], 0x40000000 + 1) == _FAIL | errno.ENOSYS


def test_an_unknown_machine_has_no_filter() -> None:
    assert call_filter("riscv64") == b""
