"""Two sandbox hosts: a call runs where its session's sandbox is, and goes on elsewhere when that host is gone."""

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sandbox.namespace import NamespaceProvider
from tests.support.client import Client, run, script
from tests.support.stack import Stack
from tests.support.watch import Watcher

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CLOSED = {"networking": {"type": "limited", "allowed_hosts": []}, "provider": "namespace"}
"""Nothing to reach, so a second host needs no proxy of its own."""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("hosts") / "data", environment={"BULKHEAD_WARM_SANDBOXES": "0"})
    stack.start()
    stack.wait_ready()
    yield stack
    stack.end()


@pytest.fixture
async def client(own: Stack) -> AsyncGenerator[Client]:
    await own.ready_again()
    async with Client(own) as made:
        yield made


def environment_of(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_text().rstrip("\0").split("\0")
    return dict(pair.split("=", 1) for pair in pairs)


@asynccontextmanager
async def second_host(own: Stack, folder: Path) -> AsyncGenerator[subprocess.Popen[bytes]]:
    """A sandbox worker as on another machine: its own name and folder, the same Postgres and Temporal."""
    environment = environment_of(own.parts()["sandboxes"]) | {
        "BULKHEAD_DATA_DIR": str(folder),
        "BULKHEAD_WORKER_NAME": "second",
    }
    with (folder / "log").open("wb") as log:
        worker = subprocess.Popen(  # noqa: ASYNC220 - starting it takes no time
            [sys.executable, "-m", "controlplane.cli", "sandboxes"], env=environment, stdout=log, stderr=log
        )
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()
        provider = NamespaceProvider(
            state_dir=folder / "sandboxes", cache_dir=folder / "cache", installation="second"
        )
        for sandbox_id in await provider.list_ids():
            await provider.destroy(sandbox_id)


def boxes(folder: Path) -> int:
    return len(list((folder / "sandboxes").glob("sbx_*")))


async def test_calls_go_to_the_host_that_holds_the_sandbox_and_elsewhere_when_it_is_gone(
    own: Stack, client: Client, tmp_path: Path
) -> None:
    async with second_host(own, tmp_path) as worker, SessionOn(client) as session:
        # The worker of the first host is held, so that the second one takes the call that provisions.
        os.kill(own.parts()["sandboxes"], signal.SIGSTOP)
        await session.run("echo there > /workspace/file")
        os.kill(own.parts()["sandboxes"], signal.SIGCONT)
        assert boxes(tmp_path) == 1
        for _ in range(6):
            assert await session.run("cat /workspace/file") == "there"
        assert boxes(own.data_dir) == 0

        worker.kill()
        said = await session.run("cat /workspace/file || echo nothing")
        assert "the one before it was lost. Nothing of it was kept" in said
        assert "\nnothing" in said
        assert boxes(own.data_dir) == 1


class SessionOn:
    """A session that runs one command a turn."""

    def __init__(self, client: Client):
        self._client = client
        self._turns = itertools.count(1)

    async def __aenter__(self) -> "SessionOn":
        self._id = await self._client.session(config=CLOSED)
        self._watcher = Watcher(self._client.stack.url, self._client.stack.api_key, self._id)
        await self._watcher.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._watcher.__aexit__()

    async def run(self, command: str) -> str:
        """Return what the model is told."""
        await self._client.say(self._id, script(run(command), {"text": "done"}))
        await self._watcher.until_idle(times=next(self._turns), timeout_seconds=90)
        return self._watcher.of("agent.tool_result")[-1]["content"][0]["text"]
