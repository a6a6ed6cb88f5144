"""A Temporal development server whose workflows are told to continue as new after a few events."""

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from temporalio.client import Client

from controlplane.embedded.process import bare_environment, free_ports, guarded, stop
from controlplane.embedded.temporal import binary

_READY_SECONDS = 30
_LOOK_SECONDS = 0.1
_STOP_SECONDS = 10


@asynccontextmanager
async def short_histories(folder: Path, *, events: int) -> AsyncGenerator[str]:
    """Run the server, its state in a file in ``folder``, and yield its address."""
    ports = free_ports(3)
    address = f"127.0.0.1:{ports[0]}"
    command = [
        binary() or "temporal", "server", "start-dev", "--headless", "--ip=127.0.0.1", "--log-level=error",
        "--disable-config-file", f"--port={ports[0]}", f"--http-port={ports[1]}", f"--metrics-port={ports[2]}",
        f"--db-filename={folder / 'temporal.db'}", "--sqlite-pragma=journal_mode=WAL",
        "--dynamic-config-value=history.transferProcessorMaxPollRPS=500",
        "--dynamic-config-value=history.timerProcessorMaxPollRPS=500",
        f"--dynamic-config-value=limit.historyCount.suggestContinueAsNew={events}",
    ]  # fmt: skip
    with (folder / "temporal.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *guarded(command), stdout=log, stderr=log, env=bare_environment(), start_new_session=True
        )
    try:
        await _until_it_answers(address)
        yield address
    finally:
        await stop(process, signal.SIGTERM, grace_seconds=_STOP_SECONDS)


async def _until_it_answers(address: str) -> None:
    async with asyncio.timeout(_READY_SECONDS):
        while True:
            try:
                await Client.connect(address)
            except RuntimeError:
                await asyncio.sleep(_LOOK_SECONDS)
            else:
                return
