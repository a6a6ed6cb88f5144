"""Child processes that never outlive us, locks that only the living hold, and free ports."""

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import socket
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from controlplane.errors import UnavailableError

_POLL_SECONDS = 0.02  # short against what is waited for (a server's start), long against the cost of a look
_BEHIND = 10
"""Niceness: a tenth of the CPU that the others get while both want more than there is."""
_GROUP_TRIES = 10
_GROUP_PAUSE_SECONDS = 0.1

_KILLED_EXIT_SECONDS = 5.0  # a killed process is gone in milliseconds unless the disk hangs


def guarded(command: Sequence[str], *, death_signal: str = "KILL") -> list[str]:
    """Return ``command`` so wrapped that it gets ``death_signal`` when its parent dies, however that dies."""
    return ["setpriv", "--pdeathsig", death_signal, "--", *command]


async def put_behind(process: Process) -> None:
    """Let others go first while both want the CPU; needs a session of its own, and no privileges.

    The kernel compares niceness within a session; where it groups by session it is the group's that counts.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process.pid, os.getpriority(os.PRIO_PROCESS, 0) + _BEHIND)
    for _ in range(_GROUP_TRIES):
        if _group_is_behind(process.pid):
            return
        await asyncio.sleep(_GROUP_PAUSE_SECONDS)


def _group_is_behind(pid: int) -> bool:
    """Say whether that is so, or cannot be; the kernel takes ten such orders a second and refuses the others."""
    try:
        Path(f"/proc/{pid}/autogroup").write_text(str(_BEHIND))
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def bare_environment() -> dict[str, str]:
    """Return the environment for a program that is not ours: where programs are, and nothing that may be secret."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


async def stop(process: Process, signal_number: int, *, grace_seconds: float) -> None:
    """Ask the process to end, and kill it when it has not ended within ``grace_seconds``."""
    if process.returncode is not None:
        return
    process.send_signal(signal_number)
    try:
        await asyncio.wait_for(process.wait(), grace_seconds)
    except TimeoutError:
        process.kill()
        await asyncio.wait_for(process.wait(), _KILLED_EXIT_SECONDS)


def try_lock(path: Path) -> int | None:
    """Lock the file and return its descriptor, which holds the lock until it is closed; None if another holds it.

    A child that inherits the descriptor holds the lock too: it is free when the last of them has ended.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


async def wait_for_lock(path: Path, *, timeout_seconds: float) -> int:
    """Like `try_lock`, but wait; raises `TimeoutError`."""
    async with asyncio.timeout(timeout_seconds):
        while True:
            descriptor = try_lock(path)
            if descriptor is not None:
                return descriptor
            await asyncio.sleep(_POLL_SECONDS)


async def poll_until_ready(
    process: Process, what: str, *, log: Path, timeout_seconds: float, ready: Callable[[], Awaitable[bool]]
) -> None:
    """Await ``ready()`` until it is true; raises `UnavailableError` with the log's end if the process ends first."""
    try:
        async with asyncio.timeout(timeout_seconds):
            while not await ready():
                if process.returncode is not None:
                    raise UnavailableError(
                        f"{what} ended with status {process.returncode} before it was ready: {tail(log)}",
                        code="part_failed",
                        next_step=f"read {log}",
                    )
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError as error:
        raise UnavailableError(
            f"{what} was not ready within {timeout_seconds:.0f} s: {tail(log)}",
            code="part_failed",
            next_step=f"read {log}",
        ) from error


def tail(log: Path, *, lines: int = 5) -> str:
    """Return the last lines of a log as one line."""
    try:
        return " | ".join(log.read_text(errors="replace").splitlines()[-lines:]) or "(no output)"
    except OSError:
        return "(no output)"


_SERVER_PORTS = range(10_000, 32_768)
"""From 32768 on Linux gives ports to clients by default: one that is free now may be a connection's in a second."""


def free_ports(count: int, *, host: str = "127.0.0.1") -> list[int]:
    """Return ports that nothing listens on at this moment, and that no client is given before somebody does."""
    found: set[int] = set()
    while len(found) < count:
        port = secrets.choice(_SERVER_PORTS)
        if port_is_free(port, host=host):
            found.add(port)
    return list(found)


def listen_once(host: str, port: int) -> None:
    """Listen on an address, IPv4 or IPv6, for a moment; raises `OSError` where that cannot be."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    socket.create_server(address, family=family).close()


def port_is_free(port: int, *, host: str = "127.0.0.1") -> bool:
    """Say whether a server could listen on the port."""
    try:
        listen_once(host, port)
    except OSError:
        return False
    return True


def remembered_ports(path: Path, names: Sequence[str]) -> dict[str, int]:
    """Return a free port for each name: the one recorded at ``path`` where nobody else has taken it."""
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        known = {}
    chosen = dict(zip(names, free_ports(len(names)), strict=True))
    for name in names:
        if isinstance(known.get(name), int) and port_is_free(known[name]):
            chosen[name] = known[name]
    write_whole(path, json.dumps(chosen))
    return chosen


def write_whole(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Write a file through a temporary name, so that a reader sees the old or the new content and nothing else."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)
