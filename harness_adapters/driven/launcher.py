"""Turns itself into a confined harness process: a program of its own, which is told the number of a socket.

Its order comes through that socket, as JSON in a line. First it makes the process's network: loopback alone, with
one socket that listens on it and is handed to whoever gave the order. Then the cgroups are joined, root is given up
for a user of the process's own, and bubblewrap takes over.
"""

import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Any

from sandbox.launcher import bind

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
BACKLOG = 512


def enter_network(port: int) -> socket.socket:
    """Leave the host's network for one of loopback alone; return a socket that listens there."""
    user, group = os.geteuid(), os.getegid()
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET | (_CLONE_NEWUSER if user else 0)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")
    if user:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
    # Named, the protocol has its Nagle algorithm switched off by whoever serves the socket.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", port))
    listener.listen(BACKLOG)
    return listener


def become_nobody(order: dict[str, Any]) -> None:
    """Join the cgroups, and with root show the folders where anybody may see them, and become the process's user."""
    for entrance in order["cgroups"]:
        _write(entrance, "0")
    if order["uid"] is None:
        return
    for source, target in order["shown"]:
        bind(source, target)
    os.setgroups([])
    os.setresgid(order["uid"], order["uid"], order["uid"])
    os.setresuid(order["uid"], order["uid"], order["uid"])


def _write(path: str, text: str) -> None:
    Path(path).write_text(text)


def main() -> None:
    """Carry out the order. Never returns."""
    with socket.socket(fileno=int(sys.argv[1])) as handover, handover.makefile("rb") as lines:
        order = json.loads(lines.readline())
        with enter_network(order["port"]) as listener:
            socket.send_fds(handover, [b"ear"], [listener.fileno()])
    become_nobody(order)
    os.execv(order["command"][0], order["command"])  # noqa: S606 -- that is what it is for


if __name__ == "__main__":
    main()
