"""The gate of a worker that is outside the cluster: what comes in from a pod goes to that sandbox's ear on this host.

Nothing of it is state: password and place of an ear follow from the installation's key and the sandbox's id, so that
the worker that takes the place of a dead one goes on for the same pods.
"""

import asyncio
import contextlib
import hashlib
import hmac
import os
import socket
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from sandbox.contract import SandboxError
from sandbox.kubernetes.policy import GATE_PORTS

PREAMBLE = "BULKHEAD/1 {} {}\n"
FIRST_PORT = 38128
PREAMBLE_SECONDS = 5.0
MAX_PREAMBLE_BYTES = 512
EAR_PAUSE_SECONDS = 0.05
"""How often to look whether somebody listens at an ear again; who has connected waits as long as he likes."""
_CHUNK_BYTES = 1 << 16
_BACKLOG = 512


class HostGate:
    """Listens where pods reach this host, and carries what proves to be a sandbox's to a Unix socket of its own."""

    def __init__(self, installation: str, password_of: Callable[[str], str]):
        self._installation, self._password_of = installation, password_of
        self._server: asyncio.Server | None = None
        self._carrying: set[asyncio.Task[None]] = set()
        self._folder: Path | None = None
        self.address: tuple[str, int] | None = None

    async def open(self, address: str, first_port: int) -> tuple[str, int]:
        """Listen at the first port of the range that is free, and return where that is; raises `SandboxError`."""
        problem: OSError | None = None
        for port in range(first_port, first_port + GATE_PORTS):
            try:
                self._server = await asyncio.start_server(
                    self._accept, address, port, limit=MAX_PREAMBLE_BYTES, backlog=_BACKLOG
                )
            except OSError as error:
                problem = error
                continue
            self.address = address, port
            return self.address
        raise SandboxError(
            f"no port from {first_port} on can be listened at on {address} for the sandboxes' way out: {problem}; "
            "set BULKHEAD_KUBERNETES_GATE_LISTEN to an address of this host that pods reach",
            code="provision_failed",
        )

    def ear(self, sandbox_id: str) -> socket.socket:
        """Return a listening socket at which what comes from the sandbox arrives, in place of an earlier one."""
        path = self._path(sandbox_id)
        listener = socket.socket(socket.AF_UNIX)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.unlink(missing_ok=True)
        listener.bind(str(temporary))
        listener.listen(_BACKLOG)
        temporary.rename(path)
        return listener

    def forget(self, sandbox_id: str) -> None:
        """Take away an ear's place."""
        self._path(sandbox_id).unlink(missing_ok=True)

    def _path(self, sandbox_id: str) -> Path:
        if self._folder is None:
            self._folder = _private_folder(self._installation)
        return self._folder / hashlib.sha256(sandbox_id.encode()).hexdigest()[:24]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 -- asyncio runs this as a task
        self._carrying.add(task)
        try:
            if (sandbox_id := await self._sandbox_of(reader)) is not None:
                await self._carry(sandbox_id, reader, writer)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._carrying.discard(task)
            writer.close()

    async def _sandbox_of(self, reader: asyncio.StreamReader) -> str | None:
        try:
            async with asyncio.timeout(PREAMBLE_SECONDS):
                line = await reader.readuntil(b"\n")
            _, sandbox_id, _ = line.decode().split()
        except (TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return None
        expected = PREAMBLE.format(sandbox_id, self._password_of(sandbox_id)).encode()
        return sandbox_id if hmac.compare_digest(line, expected) else None

    async def _carry(self, sandbox_id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = self._path(sandbox_id)
        while not path.exists() or (inner := await _connected(path)) is None:
            if writer.is_closing() or reader.at_eof():
                return
            await asyncio.sleep(EAR_PAUSE_SECONDS)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_pump(reader, inner[1]))
                both.create_task(_pump(inner[0], writer))
        except* OSError:
            writer.transport.abort()
        finally:
            inner[1].close()

    async def close(self) -> None:
        """Hear nobody any more; ears that others hold stay."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._carrying):
            task.cancel()
        if self._carrying:
            await asyncio.wait(self._carrying)


async def _connected(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
    with contextlib.suppress(ConnectionRefusedError, FileNotFoundError):
        return await asyncio.open_unix_connection(path)
    return None


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(_CHUNK_BYTES):
        target.write(data)
        await target.drain()
    target.write_eof()


def _private_folder(installation: str) -> Path:
    """Return a folder that only this user can enter, the same for every process; raises `SandboxError`."""
    folder = Path(tempfile.gettempdir()) / f"bulkhead-ears-{os.getuid()}-{installation}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise SandboxError(f"{folder} is not this user's own folder; remove it", code="provision_failed")
    return folder


def address_towards(host: str) -> str:
    """Return this host's own address on the way to another one."""
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))
        return probe.getsockname()[0]
