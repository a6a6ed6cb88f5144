"""Sandboxes as Docker containers: the supervisor is process 1 of any image, reached through the engine itself."""

import asyncio
import contextlib
import io
import json
import os
import socket
import struct
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sandbox import ear, runtime, storage
from sandbox.cgroups import CPU_PERIOD_US
from sandbox.channel import Channel
from sandbox.contract import ProviderName, SandboxError, SandboxInfo, SandboxLostError, SandboxSpec
from sandbox.supervised import Supervised, checked_id, isolation_faults
from sandbox.supervisor.frames import CHUNK_BYTES, Header

DEFAULT_IMAGE = "bulkhead-sandbox:latest"
ENGINE_TIMEOUT_SECONDS = 30
HELLO_TIMEOUT_SECONDS = 20.0
FILL_TIMEOUT_SECONDS = 60.0
CREATE_TIMEOUT_SECONDS = 10.0
REMOVAL_TIMEOUT_SECONDS = 15.0
POLL_SECONDS = 0.05
SUPERVISOR_MB = 64
"""What process 1 may use beside the commands' memory."""
SPOOL_BYTES = 32 << 20
SPARE_PIDS = 80
"""For process 1, the keepers of the commands and the bridges of the workers."""
OPEN_FILES = 4096
INODES_PER_MB = 128
_COMMAND_UID = 1000
_BRIDGE_UID = 0
"""No command can be root, so a connection by root comes from the engine."""
_STREAM_HEADER = struct.Struct(">BxxxI")


class EngineStream:
    """The standard streams of a process that the engine started in a container."""

    def __init__(self, sock: socket.socket):
        self._sock = sock
        self._buffer = bytearray()
        self._writing = asyncio.Lock()
        sock.setblocking(False)

    async def read(self) -> bytes:
        """Return the next bytes of standard output; none at the end. The engine frames both output streams."""
        while True:
            if len(self._buffer) >= _STREAM_HEADER.size:
                stream, size = _STREAM_HEADER.unpack_from(self._buffer)
                end = _STREAM_HEADER.size + size
                if len(self._buffer) >= end:
                    data = bytes(self._buffer[_STREAM_HEADER.size : end])
                    del self._buffer[:end]
                    if stream == 1 and data:
                        return data
                    continue
            more = await asyncio.get_running_loop().sock_recv(self._sock, CHUNK_BYTES)
            if not more:
                return b""
            self._buffer += more

    async def write(self, data: bytes) -> None:
        """Send all of it to standard input, also if the caller is cancelled: half a frame would spoil all others."""
        await asyncio.shield(self._send(data))

    async def _send(self, data: bytes) -> None:
        async with self._writing:
            await asyncio.get_running_loop().sock_sendall(self._sock, data)

    def close(self) -> None:
        """End it; the engine closes the process's standard input."""
        if self._sock.fileno() >= 0:
            self._sock.close()


class DockerProvider(Supervised):
    """Finds its containers by their labels; keeps no state of its own."""

    name: ProviderName = "docker"

    def __init__(self, *, cache_dir: Path, installation: str, default_image: str = DEFAULT_IMAGE):
        super().__init__()
        self._cache = cache_dir
        self._installation = installation
        self._default_image = default_image
        self._engine: Any = None
        self._facts: Header = {}
        self._runtime: runtime.Runtime | None = None
        self._preparing = asyncio.Lock()

    async def provision(self, sandbox_id: str, spec: SandboxSpec) -> SandboxInfo:
        """Start the container, see that it has no way out, and return it; a repeat returns the same one."""
        began = time.monotonic()
        checked_id(sandbox_id)
        try:
            await self._prepare(spec.image or self._default_image)
            await asyncio.to_thread(self._start, sandbox_id, spec)
            started = time.monotonic()
            facts, _ = await asyncio.wait_for(self._ask(sandbox_id, {"op": "hello"}), HELLO_TIMEOUT_SECONDS)
        except (SandboxError, TimeoutError, *engine_errors()) as error:
            # Somebody may have pruned the engine's volumes: the next attempt looks after the runtime again.
            self._runtime = None
            await self._discard(sandbox_id)
            raise SandboxError(f"sandbox {sandbox_id!r} did not start: {error}", code="provision_failed") from error
        if faults := isolation_faults(facts, spec):
            await self._discard(sandbox_id)
            raise SandboxError(
                f"sandbox {sandbox_id!r} is not isolated: {'; '.join(faults)}", code="provision_failed"
            )
        done = time.monotonic()
        return SandboxInfo(
            sandbox_id=sandbox_id,
            provider="docker",
            isolation_effective=self._isolation(facts) | limits_in_effect(facts["limits"], spec),
            timings_ms={
                "start": round((started - began) * 1000, 2),
                "connect": round((done - started) * 1000, 2),
                "total": round((done - began) * 1000, 2),
            },
        )

    async def image_digest(self, image: str | None) -> str:
        """Return the engine's id of the image, pulled if need be."""
        name = image or self._default_image
        try:
            await asyncio.to_thread(self._have_image, name)
            return (await asyncio.to_thread(self._client().inspect_image, name))["Id"]
        except engine_errors() as error:
            raise _away(error) from error

    async def ear(self, sandbox_id: str) -> socket.socket:
        """Return the listening socket that process 1 keeps on the container's own loopback."""
        if (obstacle := ear.entry_obstacle()) is not None:
            raise SandboxError(
                f"the container cannot get its way out: {obstacle}; {ear.NO_ENTRY_STEP}", code="provision_failed"
            )
        facts, _ = await self._ask(sandbox_id, {"op": "hello"})
        return await asyncio.to_thread(self._ear, sandbox_id, facts["network_namespace"])

    def _ear(self, sandbox_id: str, namespace: int) -> socket.socket:
        try:
            state = self._client().inspect_container(self._container(sandbox_id))["State"]
            with ear.visit(state["Pid"], namespace) as control:
                return ear.ask(control)
        except engine_errors() as error:
            raise SandboxError(f"the container cannot get its way out: {error}", code="provision_failed") from error

    async def list_ids(self) -> list[str]:
        """Return the ids of all sandboxes of this installation that the engine knows."""
        try:
            return await asyncio.to_thread(self._list)
        except engine_errors() as error:
            raise _away(error) from error

    async def destroy(self, sandbox_id: str) -> None:
        """End the sandbox and everything in it; one that is gone already is no error."""
        await self.forget(sandbox_id)
        try:
            await asyncio.to_thread(self._remove, self._container(sandbox_id))
        except engine_errors() as error:
            raise _away(error) from error

    async def _discard(self, sandbox_id: str) -> None:
        # What cannot be removed now has its deadline, and the reaper finds it by its label.
        with contextlib.suppress(SandboxError):
            await self.destroy(sandbox_id)

    async def close(self) -> None:
        """Release connections; the sandboxes stay."""
        await super().close()
        if self._engine is not None:
            self._engine.close()

    async def _open_channel(self, sandbox_id: str) -> Channel:
        from docker.errors import APIError

        try:
            return Channel(EngineStream(await asyncio.to_thread(self._bridge, sandbox_id)))
        except APIError as error:
            if not await asyncio.to_thread(self._is_running, sandbox_id):
                raise SandboxLostError(f"sandbox {sandbox_id!r} is gone: {error.explanation}") from error
            raise _away(error) from error
        except engine_errors() as error:
            raise _away(error) from error

    def _client(self) -> Any:
        if self._engine is None:
            self._engine = connect()
        return self._engine

    def _container(self, sandbox_id: str) -> str:
        return f"bulkhead-{self._installation}-{checked_id(sandbox_id)}"

    async def _prepare(self, image: str) -> None:
        async with self._preparing:
            if self._runtime is None:
                built = await asyncio.to_thread(runtime.build, self._cache)
                self._facts = await asyncio.to_thread(lambda: self._client().info())
                await asyncio.to_thread(self._have_image, image)
                await asyncio.to_thread(self._fill_volume, built, image)
                self._runtime = built
            else:
                await asyncio.to_thread(self._have_image, image)

    def _have_image(self, image: str) -> None:
        if (reason := obtain_image(self._client(), image)) is not None:
            raise SandboxError(reason, code="provision_failed")

    def _fill_volume(self, built: runtime.Runtime, image: str) -> None:
        """Put the runtime into a volume; the name of the container that does it is the lock."""
        from docker.errors import APIError, NotFound

        name = f"bulkhead-{built.path.name}"
        filler = f"{name}-fill"
        client = self._client()
        until = time.monotonic() + FILL_TIMEOUT_SECONDS
        while True:
            client.create_volume(name)
            try:
                host = client.create_host_config(
                    binds={name: {"bind": runtime.MOUNT, "mode": "rw"}}, network_mode="none"
                )
                made = client.create_container(image, ["none"], name=filler, host_config=host)
            except APIError as error:
                if error.status_code != 409:
                    raise
                if time.monotonic() > until:
                    self._remove(filler)
                time.sleep(POLL_SECONDS)
                continue
            try:
                client.get_archive(made["Id"], f"{runtime.MOUNT}/complete")[0].close()
            except NotFound:
                client.put_archive(made["Id"], runtime.MOUNT, _archive(built.path))
            finally:
                # By its id: the name may be another worker's container as soon as this one is gone.
                self._remove(made["Id"])
            return

    def _start(self, sandbox_id: str, spec: SandboxSpec) -> None:
        from docker.errors import APIError

        client, name = self._client(), self._container(sandbox_id)
        try:
            client.create_container(name=name, **self._settings(sandbox_id, spec))
        except APIError as error:
            if error.status_code != 409:
                raise
        state = self._state_of(name)
        if state not in {"created", "running"}:
            raise SandboxError(f"sandbox {sandbox_id!r} has ended; use a new id", code="provision_failed")
        client.start(name)

    def _state_of(self, name: str) -> str:
        from docker.errors import NotFound

        until = time.monotonic() + CREATE_TIMEOUT_SECONDS
        while True:
            try:
                return self._client().inspect_container(name)["State"]["Status"]
            except NotFound:
                # Another call is making it: the engine reserves the name first.
                if time.monotonic() > until:
                    raise
                time.sleep(POLL_SECONDS)

    def _settings(self, sandbox_id: str, spec: SandboxSpec) -> dict[str, Any]:
        from docker.types import LogConfig, Ulimit

        assert self._runtime is not None  # noqa: S101 -- filled before anything is started
        options: Header = {
            "peer_uid": _BRIDGE_UID,
            "lifetime_seconds": spec.lifetime_seconds,
            "spool_bytes": SPOOL_BYTES,
            "tasks": spec.pids,
        }
        memory = f"{_memory_mb(spec)}m"
        host = self._client().create_host_config(
            binds={f"bulkhead-{self._runtime.path.name}": {"bind": runtime.MOUNT, "mode": "ro"}},
            auto_remove=True, network_mode="none", dns=["127.0.0.1"], ipc_mode="private", cgroupns="private",
            cap_drop=["ALL"], security_opt=["no-new-privileges"], read_only=True,
            tmpfs={path: _tmpfs(megabytes) for path, megabytes in storage.folders(spec).items()},
            shm_size=f"{storage.SCRATCH_MB}m", mem_limit=memory, memswap_limit=memory, nano_cpus=int(spec.cpus * 1e9),
            pids_limit=spec.pids + SPARE_PIDS, log_config=LogConfig(type="none"),
            ulimits=[Ulimit(name="core", soft=0, hard=0), Ulimit(name="nofile", soft=OPEN_FILES, hard=OPEN_FILES)],
        )  # fmt: skip
        return {
            "image": spec.image or self._default_image,
            "entrypoint": self._runtime.supervisor("serve", _compact(options)),
            "command": [],
            "user": f"{_COMMAND_UID}:{_COMMAND_UID}",
            "working_dir": "/",
            "hostname": "sandbox",
            "environment": {"HOME": "/home/agent", "USER": "agent", "TERM": "dumb"},
            "labels": {"bulkhead.sandbox_id": sandbox_id, "bulkhead.installation": self._installation},
            "host_config": host,
        }

    def _bridge(self, sandbox_id: str) -> socket.socket:
        built = self._runtime or runtime.build(self._cache)
        client = self._client()
        # The sandbox may have been made with another runtime; the command is the same as long as the loader is.
        command = built.supervisor("connect")
        made = client.exec_create(
            self._container(sandbox_id), command, stdin=True, user=str(_BRIDGE_UID), workdir="/"
        )
        stream = client.exec_start(made["Id"], socket=True)
        raw = getattr(stream, "_sock", stream)
        if type(raw) is not socket.socket:
            raise SandboxError(
                "the Docker engine must be reached by unix:// or tcp:// without TLS", code="bad_request"
            )
        # Taken over, so that closing it really ends the stream, whatever the client library still holds.
        taken = socket.socket(fileno=raw.detach())
        stream.close()
        return taken

    def _is_running(self, sandbox_id: str) -> bool:
        from docker.errors import NotFound

        try:
            return self._client().inspect_container(self._container(sandbox_id))["State"]["Status"] == "running"
        except NotFound:
            return False

    def _list(self) -> list[str]:
        label = f"bulkhead.installation={self._installation}"
        found = self._client().containers(all=True, filters={"label": [label, "bulkhead.sandbox_id"]})
        return sorted(container["Labels"]["bulkhead.sandbox_id"] for container in found)

    def _remove(self, name: str) -> None:
        from docker.errors import APIError, NotFound

        until = time.monotonic() + REMOVAL_TIMEOUT_SECONDS
        while True:
            try:
                self._client().remove_container(name, force=True, v=True)
            except NotFound:
                return
            except APIError as error:
                # The engine is removing it already; it is gone when it is not found any more.
                if error.status_code != 409 or time.monotonic() > until:
                    raise SandboxError(
                        f"container {name!r} is not removed: {error}", code="provision_failed"
                    ) from error
            time.sleep(POLL_SECONDS)

    def _isolation(self, facts: Header) -> dict[str, bool | str]:
        options = " ".join(self._facts.get("SecurityOptions") or [])
        return {
            "user_namespace": facts["user_namespace"],
            "pid_namespace": facts["pid"] == 1,
            "network": "none",
            "no_capabilities": facts["capabilities"] == 0,
            "no_new_privileges": facts["no_new_privileges"],
            "seccomp": facts["seccomp"],
            "engine_seccomp": "name=seccomp" in options,
            "apparmor": "name=apparmor" in options,
            "read_only_root": facts["read_only_root"],
            "workspace_limit": True,
            "supervisor": "same user as the commands; process 1, non-dumpable, and heard only by root",
        }


def _memory_mb(spec: SandboxSpec) -> int:
    return spec.memory_mb + storage.megabytes(spec) + SUPERVISOR_MB


def limits_in_effect(found: Mapping[str, str], spec: SandboxSpec) -> dict[str, bool | str]:
    """Compare what a container's cgroup says with what was asked for: an engine may leave a limit out in silence."""
    wanted = {
        "memory": (_memory_mb(spec) << 20, 1.0),
        "pids": (spec.pids + SPARE_PIDS, 1.0),
        "cpu": (spec.cpus, CPU_PERIOD_US),
    }
    return {f"{name}_limit": _in_effect(found[name], *asked) for name, asked in wanted.items()}


def _in_effect(said: str, wanted: float, unit: float) -> bool | str:
    value = said.split(maxsplit=1)[0] if said else ""
    if value.isdigit() and int(value) / unit <= wanted:
        return True
    return f"not effective: the container's cgroup says {said!r}" if said else "not effective: no cgroup to be seen"


def connect() -> Any:
    """Return a client of the engine that the environment names; raises docker's errors."""
    import docker

    address = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if address.startswith("unix://"):
        # The client library leaks a socket for each attempt that nobody answers.
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(address.removeprefix("unix://"))
    return docker.APIClient(
        base_url=address,
        version="auto",
        timeout=ENGINE_TIMEOUT_SECONDS,
    )


def obtain_image(client: Any, image: str) -> str | None:
    """Have the image at hand, pulled if need be; return why that cannot be."""
    from docker.errors import APIError, ImageNotFound

    try:
        client.inspect_image(image)
    except ImageNotFound:
        if image == DEFAULT_IMAGE:
            return f"the image {image!r} is not there; make it with `bulkhead sandbox image`"
        try:
            client.pull(image)
        except APIError as error:
            return f"the image {image!r} is neither there nor can it be pulled: {error.explanation or error}"
    return None


async def docker_available(image: str | None = None) -> str | None:
    """Return None if an engine answers and has the image or can pull it, else the reason why not."""
    return await asyncio.to_thread(_unavailable, image or DEFAULT_IMAGE)


def _unavailable(image: str) -> str | None:
    try:
        client = connect()
    except engine_errors() as error:
        return f"no Docker engine answers: {str(error).splitlines()[0]}"
    try:
        return obtain_image(client, image)
    except engine_errors() as error:
        return f"the Docker engine fails: {error}"
    finally:
        client.close()


def _away(error: Exception) -> SandboxError:
    return SandboxError(f"the Docker engine does not answer: {error}", code="engine_away")


def engine_errors() -> tuple[type[Exception], ...]:
    """Return what the client library raises; it is imported only where Docker is used."""
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    return (DockerException, RequestException, OSError)


def _tmpfs(megabytes: int) -> str:
    owner = f"uid={_COMMAND_UID},gid={_COMMAND_UID},mode=0700"
    return f"rw,exec,nosuid,nodev,size={megabytes}m,nr_inodes={max(megabytes * INODES_PER_MB, 1024)},{owner}"


def _compact(options: Header) -> str:
    return json.dumps(options, separators=(",", ":"))


def _archive(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(folder, arcname=".")
        archive.addfile(tarfile.TarInfo("complete"))
    return buffer.getvalue()
