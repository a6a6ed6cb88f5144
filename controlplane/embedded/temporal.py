"""The embedded Temporal: the development server of the official CLI, its state in one SQLite file."""

import asyncio
import http.client
import os
import shutil
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Sequence
from pathlib import Path

from controlplane.embedded.process import (
    bare_environment,
    guarded,
    poll_until_ready,
    put_behind,
    remembered_ports,
    stop,
)
from controlplane.errors import UnavailableError

_READY_SECONDS = 60.0  # 0.1 s on an idle machine; a large state file on a slow disk takes longer
_STOP_SECONDS = 10.0
_ANSWER_SECONDS = 2.0

# The server polls its transfer queue 20 times a second on its one shard unless told otherwise: that, not the SDK,
# is what a new activity waits for.
_TUNING = [
    "--sqlite-pragma=journal_mode=WAL",
    "--sqlite-pragma=synchronous=NORMAL",
    "--dynamic-config-value=history.transferProcessorMaxPollRPS=500",
    "--dynamic-config-value=history.timerProcessorMaxPollRPS=500",
]


def binary() -> str | None:
    """Return the path of the ``temporal`` CLI: the one installed beside this Python, else the one on PATH."""
    beside = Path(sys.executable).with_name("temporal")
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("temporal")


class EmbeddedTemporal:
    """One Temporal development server in ``folder``, listening on this machine only.

    Its ports stay the same from one start to the next while nobody else takes them.
    """

    def __init__(self, folder: Path, *, ui_port: int | None = None):
        self._folder = folder.resolve()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._ports = remembered_ports(self._folder / "ports.json", ["grpc", "http", "metrics"])
        self._ui_port = ui_port
        self.log = self._folder / "temporal.log"

    @property
    def address(self) -> str:
        """Where clients and workers connect."""
        return f"127.0.0.1:{self._ports['grpc']}"

    async def start(self, *, inherit: Sequence[int] = ()) -> Process:
        """Start the server, which inherits these descriptors; returns before it answers."""
        with self.log.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *guarded(self._command()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=bare_environment(),
                pass_fds=inherit,
                start_new_session=True,
            )
        await put_behind(process)
        return process

    async def wait_ready(self, process: Process) -> None:
        """Return when the default namespace answers; raises `UnavailableError`."""
        await poll_until_ready(process, "Temporal", log=self.log, timeout_seconds=_READY_SECONDS, ready=self._answers)

    async def stop(self, process: Process) -> None:
        """End the server; its state stays in its file."""
        await stop(process, signal.SIGTERM, grace_seconds=_STOP_SECONDS)

    def _command(self) -> list[str]:
        found = binary()
        if found is None:
            raise UnavailableError(
                "there is no `temporal` command beside this Python or on PATH",
                code="temporal_missing",
                next_step="install the Temporal CLI, 1.7 or later, or set BULKHEAD_TEMPORAL_ADDRESS",
            )
        ports = self._ports
        ui = ["--headless"] if self._ui_port is None else [f"--ui-port={self._ui_port}"]
        return [
            found, "server", "start-dev", *ui, "--ip=127.0.0.1", "--log-level=error", "--disable-config-file",
            f"--port={ports['grpc']}", f"--http-port={ports['http']}", f"--metrics-port={ports['metrics']}",
            f"--db-filename={self._folder / 'temporal.db'}", *_TUNING,
        ]  # fmt: skip

    async def _answers(self) -> bool:
        return await asyncio.to_thread(_namespace_answers, self._ports["http"])


def _namespace_answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_SECONDS)
    try:
        connection.request("GET", "/api/v1/namespaces/default")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
