"""Starts namespace sandboxes so that they belong to nobody: a program of its own, which forks once per order.

An order is one packet on standard input: JSON, the socket that the sandbox listens on, its log, and a pipe that gets
a byte when process 1 is up and is closed without one if it never will be. What needs privileges happens here, before
bubblewrap starts: cgroups are joined, and root is given up for a user that exists nowhere else.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
from typing import Any

MAX_ORDER_BYTES = 128 * 1024
"""An order has about 6 KB; the kernel refuses packets of more than 200 KB."""
_CLONE_NEWNS, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x20000, 0x1000, 0x4000, 0x40000
_PROTECTED = "-900"
"""When memory runs out the kernel is to choose a command (see `sandbox/supervisor/processes.py`), not process 1."""


def bind(source: str, target: str) -> None:
    """Show a folder at another place, for this process and its children only; raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    steps = (
        lambda: libc.unshare(_CLONE_NEWNS),
        lambda: libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None),
        lambda: libc.mount(source.encode(), target.encode(), None, ctypes.c_ulong(_MS_BIND | _MS_REC), None),
    )
    for step in steps:
        if step() != 0:
            raise OSError(ctypes.get_errno(), f"cannot show {source!r} at {target!r}")


def give_up_root(order: dict[str, Any]) -> None:
    """Join the cgroups, then become the sandbox's own user."""
    for entrance in order["cgroups"]:
        with open(entrance, "w") as file:
            file.write("0")
    if order["uid"] is None:
        return
    with contextlib.suppress(PermissionError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(_PROTECTED)
    bind(order["runtime"], order["runtime_seen_at"])
    os.setgroups([])
    os.setresgid(order["uid"], order["uid"], order["uid"])
    os.setresuid(order["uid"], order["uid"], order["uid"])


def start(order: dict[str, Any], listener: int, log: int, ready: int) -> None:
    """Turn this process into bubblewrap. Never returns."""
    try:
        os.setsid()
        for number in (signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(log, 2)
        os.close(log)
        options = {**order["options"], "listen_fd": listener, "ready_fd": ready}
        options["anchor_fd"] = os.open(order["anchor"], os.O_RDONLY)
        if order["oom_file"]:
            options["oom_fd"] = os.open(order["oom_file"], os.O_RDONLY)
        for name, descriptor in options.items():
            if name.endswith("_fd"):
                os.set_inheritable(descriptor, True)
        give_up_root(order)
        os.dup2(null, 1)
        command = [*order["command"], json.dumps(options)]
        os.execv(command[0], command)  # noqa: S606 -- that is what it is for
    except OSError as error:
        os.write(2, f"{error}\n".encode())
    finally:
        os._exit(1)


def main() -> None:
    """Carry out orders until whoever gives them is gone."""
    # Who forks a sandbox does not wait for it, and a Ctrl-C is for the worker, whose end is the end here.
    for number in (signal.SIGCHLD, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    orders = socket.socket(fileno=0)
    while True:
        message, descriptors, _, _ = socket.recv_fds(orders, MAX_ORDER_BYTES, 3)
        if not message:
            return
        try:
            if os.fork() == 0:
                start(json.loads(message), *descriptors)
        except OSError as error:
            os.write(descriptors[1], f"{error}\n".encode())
        for descriptor in descriptors:
            os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
