"""The filter of system calls, run by a small interpreter of its own."""

import errno
import socket
import struct

import pytest

from sandbox.supervisor.confinement import call_filter

_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_MACHINES = {"x86_64": (0xC000003E, 56, 41, 272), "aarch64": (0xC00000B7, 220, 198, 97)}


def verdict(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """Run a classic BPF program on one call."""
    given = (*arguments, *[0] * (6 - len(arguments)))
    data = struct.pack("<IIQQQQQQQ", number, architecture, 0, *given)
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
        if code == 0x54:
            accumulator &= value
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


@pytest.mark.parametrize("machine", _MACHINES)
def test_of_the_internet_a_sandbox_with_a_card_may_use_tcp_over_version_4_only(machine: str) -> None:
    architecture, _, socket_call, _ = _MACHINES[machine]
    alone, networked = call_filter(machine), call_filter(machine, networked=True)
    flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    wanted = {
        (socket.AF_INET, socket.SOCK_STREAM, 0): _ALLOW,
        (socket.AF_INET, socket.SOCK_STREAM | flags, socket.IPPROTO_TCP): _ALLOW,
        (socket.AF_UNIX, socket.SOCK_DGRAM, 0): _ALLOW,
        (socket.AF_NETLINK, socket.SOCK_RAW, 0): _ALLOW,
        (socket.AF_INET, socket.SOCK_STREAM, 132): _FAIL | errno.EAFNOSUPPORT,
        (socket.AF_INET, socket.SOCK_STREAM, 262): _FAIL | errno.EAFNOSUPPORT,
        (socket.AF_INET, socket.SOCK_DGRAM | flags, 0): _FAIL | errno.EACCES,
        (socket.AF_INET, socket.SOCK_RAW, 1): _FAIL | errno.EACCES,
        (socket.AF_INET6, socket.SOCK_STREAM, 0): _FAIL | errno.EAFNOSUPPORT,
    }
    assert {call: verdict(networked, architecture, socket_call, *call) for call in wanted} == wanted
    assert verdict(alone, architecture, socket_call, socket.AF_INET6, socket.SOCK_DGRAM) == _ALLOW
