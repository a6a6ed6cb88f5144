"""A fork bomb, a disk that is filled and output without end beside sandboxes that go about their business."""

import asyncio
import time

import pytest

from sandbox.contract import SandboxProvider
from tests.support.neighbours import SPEC, Town, town

_SANDBOXES = {"namespace": 50, "docker": 8, "kubernetes": 6}
_SECONDS = 12.0


async def _heart(beats: list[float]) -> None:
    """Note that the worker's own loop goes on."""
    while True:
        beats.append(time.monotonic())
        await asyncio.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_hostile_neighbours_spoil_nobodys_commands(provider: SandboxProvider, in_full: bool) -> None:
    sandboxes = _SANDBOXES["namespace" if in_full else provider.name]
    beats: list[float] = []
    async with town(provider, sandboxes) as people:
        beating = asyncio.create_task(_heart(beats))
        async with people.under_attack():
            results = [result for _, result in await people.business(_SECONDS, pause=1.0)]
        beating.cancel()
        assert len(results) >= 2 * len(people.others)
        assert {(result.status, result.exit_code, result.survivors) for result in results} == {("exited", 0, 0)}
        assert {result.stdout.strip() for result in results} == set(people.others)
        assert len(beats) > 10
        assert {name: {each.status for each in done} for name, done in people.attacks.items()} == {
            "fork bomb": {"timeout"},
            "full disk": {"timeout"},
            "endless output": {"output_limit"},
        }
        await _has_kept_the_limits(people)


async def _has_kept_the_limits(people: Town) -> None:
    bomb, disk, output = people.attackers
    assert all(len(each.stdout) < 100_000 for each in people.attacks["endless output"])
    assert all("No space left" in each.stderr for each in people.attacks["full disk"])
    left = await people.run(bomb, "sleep 0.5; ls -d /proc/[0-9]* | wc -l")
    assert int(left.stdout) < 10
    size = await people.run(disk, "rm -f fill; df -m /workspace | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2")
    assert int(size.stdout) <= SPEC.workspace_mb
    assert (await people.run(output, "echo calm")).stdout == "calm\n"
