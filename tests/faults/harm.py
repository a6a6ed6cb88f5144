"""What is done to a running control plane from outside: its processes, their connections, its disks."""

import asyncio
import ctypes
import os
import socket
import stat
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.faults.scenario import PROGRAMS, Part
from tests.support.stack import Stack

_PIDFD_GETFD = 438
DISK_MB = {"postgres": 400, "temporal": 128, "sandboxes": 64}
"""Folders of the data directory that get a disk of their own, and its size."""
_PIECE_BYTES = 1 << 20
_NAMES: Mapping[Part, str] = {"opencode": "opencode", "claude-agent-sdk": "claude", "codex": "codex"}
_APPEARS_SECONDS = 5.0
_LOOK_SECONDS = 0.02


async def kill(stack: Stack, part: Part) -> int:
    """kill -9; return how many processes there were: of a harness's program perhaps none."""
    found = [psutil.Process(stack.parts()[part])] if part not in PROGRAMS else await _programs(stack, part)
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return len(found)


async def stall(stack: Stack, part: Part, seconds: float) -> int:
    """Stop a part, of Postgres every process, and let it go on after a while; return how many processes it had."""
    stopped = _processes(stack, part) if part not in PROGRAMS else await _programs(stack, part)
    try:
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        await asyncio.sleep(seconds)
    finally:
        for process in reversed(stopped):
            with suppress(psutil.NoSuchProcess):
                process.resume()
    return len(stopped)


def cut(stack: Stack, part: Part) -> int:
    """Break every connection that a part has, to whomever; return how many there were."""
    broken = 0
    for process in _processes(stack, part):
        with suppress(OSError, psutil.NoSuchProcess):
            broken += _cut(process.pid)
    return broken


async def fill(stack: Stack, part: Part, seconds: float) -> None:
    """Leave no free byte on a part's disk for a while."""
    disk = stack.data_dir / part
    assert disk.is_mount(), f"{disk} has no disk of its own, and the machine's is not to be filled"
    filler = disk / "filler"
    try:
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(_PIECE_BYTES))
        with filler.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(512))
        assert os.statvfs(filler).f_bavail == 0
        await asyncio.sleep(seconds)
    finally:
        filler.unlink()


@contextmanager
def small_disks(data_dir: Path) -> Iterator[None]:
    """Put folders of a data directory on disks that can be filled; raises `PermissionError` if we may not mount."""
    mounted: list[Path] = []
    try:
        for name, size in DISK_MB.items():
            folder = data_dir / name
            folder.mkdir(parents=True, mode=0o700)
            options = f"size={size}m,mode=0700"
            done = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", options, "faults", folder], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise PermissionError(f"no disk for {folder}: {done.stderr.strip()}")
            mounted.append(folder)
        yield
    finally:
        for folder in mounted:
            subprocess.run(["umount", "--lazy", folder], check=True)


def processes_of(data_dir: Path) -> list[psutil.Process]:
    """Return every process that names a data directory, or something in it, on its command line."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(data_dir) in " ".join(process.cmdline()):
                found.append(process)
    return found


async def _programs(stack: Stack, name: Part) -> list[psutil.Process]:
    """Return the processes of a harness's program, as soon as there is one."""
    for _ in range(int(_APPEARS_SECONDS / _LOOK_SECONDS)):
        with suppress(psutil.NoSuchProcess):
            below = psutil.Process(stack.parts()["brain"]).children(recursive=True)
            if found := [process for process in below if process.name() == _NAMES[name]]:
                return found
        await asyncio.sleep(_LOOK_SECONDS)
    return []


def _processes(stack: Stack, part: Part) -> list[psutil.Process]:
    process = psutil.Process(stack.parts()[part])
    return [process, *process.children()] if part == "postgres" else [process]


def _cut(pid: int) -> int:
    """Shut the sockets of another process down, through a duplicate of each."""
    libc = ctypes.CDLL(None, use_errno=True)
    process, broken = os.pidfd_open(pid), 0
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if not stat.S_ISSOCK(link.stat().st_mode):
                    continue
                descriptor = libc.syscall(_PIDFD_GETFD, process, int(link.name), 0)
                if descriptor < 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
                with socket.socket(fileno=descriptor) as copy:
                    if _is_connection(copy):
                        copy.shutdown(socket.SHUT_RDWR)
                        broken += 1
    finally:
        os.close(process)
    return broken


def _is_connection(found: socket.socket) -> bool:
    """Tell a connection from a listener, which has no peer, and from a pair within a process, which has no name."""
    return found.type == socket.SOCK_STREAM and bool(found.getpeername() or found.getsockname())
