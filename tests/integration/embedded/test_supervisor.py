"""The supervisor on small real processes: it restarts what dies, whatever the reason, and stops for good."""

import asyncio
import json
import signal
from asyncio.subprocess import Process
from pathlib import Path

import pytest

from controlplane.embedded.process import guarded, stop
from controlplane.embedded.supervisor import Part, Supervisor
from controlplane.errors import UnavailableError


class Shown:
    """What the supervisor showed, by part."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.changed = asyncio.Event()

    def __call__(self, part: str, line: str) -> None:
        self.lines.append((part, line))
        self.changed.set()

    async def until(self, line: str, *, times: int = 1) -> None:
        async with asyncio.timeout(30):
            while [shown for _, shown in self.lines].count(line) < times:
                self.changed.clear()
                await self.changed.wait()


def shell(command: str) -> Part:
    async def start(output: int) -> Process:
        return await asyncio.create_subprocess_exec(
            *guarded(["sh", "-c", command]), stdout=output, start_new_session=True
        )

    async def end(process: Process) -> None:
        await stop(process, signal.SIGTERM, grace_seconds=0.5)

    return Part("shell", start=start, stop=end)


@pytest.fixture
def shown() -> Shown:
    return Shown()


async def test_a_part_that_ends_is_started_again_and_the_record_says_so(tmp_path: Path, shown: Shown):
    record = tmp_path / "parts.json"
    supervisor = Supervisor(record, shown)
    first = await supervisor.start(shell("echo begun; read forever"))
    await shown.until("begun", times=3)
    part = json.loads(record.read_text())["shell"]
    assert part["restarts"] >= 2
    assert part["pid"] != first.pid
    await supervisor.stop()
    assert not record.exists()


async def test_a_grandchild_that_keeps_the_pipe_does_not_hold_up_the_restart(tmp_path: Path, shown: Shown):
    supervisor = Supervisor(tmp_path / "parts.json", shown)
    await supervisor.start(shell("echo begun; sleep 4 & exit 1"))
    await shown.until("begun", times=2)
    await supervisor.stop()


async def test_a_part_that_ignores_the_request_to_end_is_killed(tmp_path: Path, shown: Shown):
    supervisor = Supervisor(tmp_path / "parts.json", shown)
    process = await supervisor.start(shell("trap '' TERM; echo deaf; while :; do sleep 0.1; done"))
    await shown.until("deaf")
    await supervisor.stop()
    assert process.returncode == -signal.SIGKILL


async def test_a_part_that_cannot_be_started_is_tried_again(tmp_path: Path, shown: Shown):
    started: list[int] = []
    good = shell("echo begun; exit 1")

    async def start(output: int) -> Process:
        started.append(len(started))
        if len(started) == 2:
            raise UnavailableError("its port is taken", code="part_failed")
        return await good.start(output)

    supervisor = Supervisor(tmp_path / "parts.json", shown)
    await supervisor.start(Part("shell", start=start, stop=good.stop))
    await shown.until("begun", times=2)
    assert len(started) >= 3
    await supervisor.stop()


async def test_parts_end_in_the_reverse_of_their_order(tmp_path: Path, shown: Shown):
    ended: list[str] = []

    def part(name: str) -> Part:
        inner = shell("echo begun; sleep 60")

        async def end(process: Process) -> None:
            await inner.stop(process)
            ended.append(name)

        return Part(name, start=inner.start, stop=end)

    supervisor = Supervisor(tmp_path / "parts.json", shown)
    for name in ("first", "second", "third"):
        await supervisor.start(part(name))
    await shown.until("begun", times=3)
    await supervisor.stop()
    assert ended == ["third", "second", "first"]
