"""Starts a namespace sandbox so that it belongs to nobody: run as a program of its own, it ends when process 1 is up.

Takes its orders as JSON on standard input. What needs privileges happens here, before bubblewrap starts: cgroups are
joined, and root is given up for a user that exists nowhere else.
"""

import contextlib
import ctypes
import json
import os
import select
import sys
from typing import Any

READY_SECONDS = 10.0
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
    for folder in order["cgroups"]:
        with open(f"{folder}/cgroup.procs", "w") as file:
            file.write("0")
    if order["uid"] is None:
        return
    with contextlib.suppress(PermissionError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(_PROTECTED)
    bind(order["runtime"], order["runtime_seen_at"])
    os.setgroups([])
    os.setresgid(order["uid"], order["uid"], order["uid"])
    os.setresuid(order["uid"], order["uid"], order["uid"])


def start(order: dict[str, Any], ready: int) -> None:
    """Turn this process into bubblewrap. Never returns."""
    try:
        os.setsid()
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        options = order["options"]
        if order["oom_file"]:
            options["oom_fd"] = os.open(order["oom_file"], os.O_RDONLY)
            os.set_inheritable(options["oom_fd"], True)
        options["anchor_fd"] = os.open(order["anchor"], os.O_RDONLY)
        os.set_inheritable(options["anchor_fd"], True)
        os.set_inheritable(ready, True)
        options["ready_fd"] = ready
        give_up_root(order)
        os.dup2(null, 1)
        command = [*order["command"], json.dumps(options)]
        os.execv(command[0], command)  # noqa: S606 -- that is what it is for
    except OSError as error:
        os.write(2, f"{error}\n".encode())
    os._exit(1)


def main() -> None:
    """Start the sandbox and wait until it listens; exit code 1 if it does not."""
    order = json.load(sys.stdin)
    ready, ready_end = os.pipe()
    if os.fork() == 0:
        os.close(ready)
        start(order, ready_end)
    os.close(ready_end)
    readable, _, _ = select.select([ready], [], [], READY_SECONDS)
    os._exit(0 if readable and os.read(ready, 1) else 1)


if __name__ == "__main__":
    main()
