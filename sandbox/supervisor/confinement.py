"""What confines this sandbox: a filter of system calls, and proof that the rest took effect."""

import ctypes
import errno
import os
import socket
import struct

from sandbox.supervisor.frames import Header
from sandbox.supervisor.processes import prctl

_UNREACHABLE = {
    errno.ENETUNREACH,
    errno.EADDRNOTAVAIL,
    errno.EAFNOSUPPORT,
    errno.EHOSTUNREACH,
    errno.EPERM,
    errno.EACCES,
}


_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN, _AND = 0x20, 0x15, 0x35, 0x45, 0x06, 0x54
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _SECOND_ARGUMENT, _THIRD_ARGUMENT = 0, 4, 16, 24, 32
_CLONE_NEW_ANY = 0x7E020000
_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
"""Others leave the network namespace (a virtual machine's vsock) or open rarely used parts of the kernel."""
_SOCKET_KIND = 0xF
"""The rest of the second argument of socket(2) are flags."""

_NEW_CALLS = (*range(425, 434), 435, 442)
"""io_uring, the mount calls that take descriptors, clone3 (its flags cannot be read here), mount_setattr: the same
numbers on every architecture."""
_ARCHITECTURES: dict[str, tuple[int, int, int, tuple[int, ...]]] = {
    # architecture, clone, socket; then: unshare setns mount umount2 pivot_root chroot keyctl add_key request_key bpf
    # perf_event_open userfaultfd open_by_handle_at kexec_load kexec_file_load init_module finit_module delete_module
    # swapon swapoff reboot acct quotactl syslog fanotify_init settimeofday clock_settime lookup_dcookie (iopl ioperm)
    "x86_64": (0xC000003E, 56, 41, (
        272, 308, 165, 166, 155, 161, 250, 248, 249, 321, 298, 323, 304, 246, 320, 175, 313, 176,
        167, 168, 169, 163, 179, 103, 300, 164, 227, 212, 172, 173,
    )),
    "aarch64": (0xC00000B7, 220, 198, (
        97, 268, 40, 39, 41, 51, 219, 217, 218, 280, 241, 282, 265, 104, 294, 105, 273, 106,
        224, 225, 142, 89, 60, 116, 262, 170, 112, 18,
    )),
}  # fmt: skip


_LIMIT_FILES = {
    "memory": ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max"),
    "pids": ("/sys/fs/cgroup/pids/pids.max", "/sys/fs/cgroup/pids.max"),
    "cpu": ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu.max"),
}
"""Where either version of cgroups tells a container its own limits."""


def call_filter(machine: str, *, networked: bool = False) -> bytes:
    """Return the filter's program (classic BPF) for a machine; empty if its call numbers are not known here.

    ``networked``: for a sandbox that has a network card and a policy in front of it. Of the internet it may use TCP
    over version 4 only, which is what policies see on every network: no datagrams (name servers, multicast), and no
    link-local version 6, by which a node listens to its pods.
    """
    if machine not in _ARCHITECTURES:
        return b""
    architecture, clone, socket_call, denied = _ARCHITECTURES[machine]
    refuse = dict.fromkeys(denied, _FAIL | errno.EPERM) | dict.fromkeys(_NEW_CALLS, _FAIL | errno.ENOSYS)
    program = [(_LOAD, 0, 0, _ARCHITECTURE), (_JUMP_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _FAIL | errno.ENOSYS)]
    program += [(_LOAD, 0, 0, _NUMBER), (_JUMP_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _FAIL | errno.ENOSYS)]
    for number, verdict in refuse.items():
        program += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, verdict)]
    program += [(_JUMP_EQUAL, 0, 4, clone), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_JUMP_ANY_BIT, 0, 1, _CLONE_NEW_ANY)]
    program += [(_RETURN, 0, 0, _FAIL | errno.EPERM), (_RETURN, 0, 0, _ALLOW)]
    program += [(_JUMP_EQUAL, 1, 0, socket_call), (_RETURN, 0, 0, _ALLOW), (_LOAD, 0, 0, _FIRST_ARGUMENT)]
    internet = (socket.AF_INET, socket.AF_INET6) if networked else ()
    for family in _FAMILIES:
        if family not in internet:
            program += [(_JUMP_EQUAL, 0, 1, family), (_RETURN, 0, 0, _ALLOW)]
    if networked:
        program += [(_JUMP_EQUAL, 1, 0, socket.AF_INET), (_RETURN, 0, 0, _FAIL | errno.EAFNOSUPPORT)]
        program += [(_LOAD, 0, 0, _SECOND_ARGUMENT), (_AND, 0, 0, _SOCKET_KIND)]
        program += [(_JUMP_EQUAL, 1, 0, socket.SOCK_STREAM), (_RETURN, 0, 0, _FAIL | errno.EACCES)]
        program += [(_LOAD, 0, 0, _THIRD_ARGUMENT)]
        for protocol in (0, socket.IPPROTO_TCP):
            program += [(_JUMP_EQUAL, 0, 1, protocol), (_RETURN, 0, 0, _ALLOW)]
    program += [(_RETURN, 0, 0, _FAIL | errno.EAFNOSUPPORT)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


def forbid_calls(*, networked: bool) -> bool:
    """Take calls that no command needs from this process and all that come from it; False if it can't be done."""
    program = call_filter(os.uname().machine, networked=networked)
    if not program:
        return False
    buffer = ctypes.create_string_buffer(program, len(program))
    description = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer)))
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    try:
        prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(description))
    except OSError:
        return False
    return True


def network_canary() -> dict[str, list[str]]:
    """Return every way out that this sandbox has; nothing, if it is as it should be."""
    with open("/proc/net/dev") as file:
        devices = [line.split(":")[0].strip() for line in file.readlines()[2:]]
    routes: list[str] = []
    for path, column in (("/proc/net/route", 0), ("/proc/net/ipv6_route", -1)):
        if os.path.exists(path):
            with open(path) as file:
                routes += [line.split()[column] for line in file if not line.startswith("Iface")]
    # Addresses of the documentation networks: nobody is there, but without a route the kernel says so at once.
    targets = [(socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")]
    reached = [address for family, address in targets for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
               if not connect_fails(family, kind, address)]  # fmt: skip
    return {
        "devices": [name for name in devices if name != "lo"],
        "routes": [name for name in routes if name != "lo"],
        "reached": reached,
    }


def connect_fails(family: int, kind: int, address: str) -> bool:
    """Say whether the kernel refuses at once to send anything there."""
    try:
        with socket.socket(family, kind) as probe:
            probe.setblocking(False)
            return probe.connect_ex((address, 53)) in _UNREACHABLE
    except OSError:
        return True


def controls(*, filtered: bool) -> Header:
    """Return what the kernel says of this process's confinement."""
    with open("/proc/self/status") as file:
        fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    return {
        "pid": os.getpid(),
        "uid": os.getuid(),
        "capabilities": int(fields["CapEff"], 16) | int(fields["CapPrm"], 16) | int(fields["CapAmb"], 16),
        "bounding_set": int(fields["CapBnd"], 16),
        "no_new_privileges": fields["NoNewPrivs"].strip() == "1",
        "seccomp": filtered,
        "user_namespace": own_users(),
        "read_only_root": bool(os.statvfs("/").f_flag & os.ST_RDONLY),
        "workspace_bytes": _size("/workspace"),
        "limits": {name: _first_content(paths) for name, paths in _LIMIT_FILES.items()},
        "network_namespace": os.stat("/proc/self/ns/net").st_ino,
    }


def own_users() -> bool:
    """Say whether user numbers here mean others than on the host."""
    with open("/proc/self/uid_map") as file:
        return file.read().split() != ["0", "0", "4294967295"]


def _first_content(paths: tuple[str, str]) -> str:
    for path in paths:
        try:
            with open(path) as file:
                return file.read().strip()
        except OSError:
            continue
    return ""


def _size(path: str) -> int:
    found = os.statvfs(path)
    return found.f_blocks * found.f_frsize
