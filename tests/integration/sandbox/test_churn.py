"""Many sandboxes made, used and ended: nothing of them is left, on the host or in the worker."""

import asyncio
import gc
import os
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from sandbox import docker
from sandbox.contract import ExecRequest, SandboxProvider
from sandbox.egress import Ears, EarsClient, SandboxPolicy
from sandbox.outlet import Outlets
from tests.support.egress import Stage, staged
from tests.support.sandboxes import SMALL, pieces

_MANY = {"namespace": 200, "docker": 30, "kubernetes": 16}
_AT_ONCE = 4
_SETTLED = 8
"""Sandboxes after which caches are full and pools have the size that they keep."""


class Churn:
    """Makes, uses and ends sandboxes that have a way out."""

    def __init__(self, provider: SandboxProvider, outlets: Outlets, stage: Stage):
        self._provider, self._outlets, self._stage = provider, outlets, stage

    async def run(self, first: int, count: int) -> None:
        """Take so many through their life, a few at once."""
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(number: int) -> None:
            async with turns:
                await self._life(f"sbx_{os.getpid()}_{number}")

        await asyncio.gather(*(one(first + number) for number in range(count)))

    async def _life(self, sandbox_id: str) -> None:
        self._stage.policies.policies[sandbox_id] = SandboxPolicy(
            sandbox_id=sandbox_id, session_id=f"sesn_{sandbox_id}", workspace_id="wrkspc_a",
            networking="limited", allowed_hosts=["a.test"], credentials=[],
        )  # fmt: skip
        await self._provider.provision(sandbox_id, SMALL)
        await self._outlets.prepare(sandbox_id, self._provider)
        await self._outlets.open(sandbox_id, self._provider)
        await self._provider.write_file(sandbox_id, "/workspace/in", pieces(b"x" * 100_000))
        asked = ExecRequest(exec_id="x", command="sleep 900 & cat in > out; sleep 900 & echo done")
        assert (await self._provider.execute(sandbox_id, asked)).stdout == "done\n"
        await self._provider.destroy(sandbox_id)
        await self._outlets.close(sandbox_id)


@asynccontextmanager
async def churning(provider: SandboxProvider) -> AsyncGenerator[tuple[Churn, Stage]]:
    async with staged() as stage:
        path = stage.folder / "ears.sock"
        async with Ears(path, stage.proxy):
            yield Churn(provider, Outlets(EarsClient(path)), stage), stage


def _left_on_the_host(name: str, folder: Path) -> dict[str, Any]:
    """What there is of this process's sandboxes, whose state is in ``folder``; others may come and go beside them."""
    mine = f"test{os.getpid()}"
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/bulkhead-{mine}-*")]
    sandboxes = [each.info["cmdline"] for each in psutil.process_iter(["cmdline"]) if _is_sandbox(each, mine)]
    found: dict[str, Any] = {"cgroups": groups, "processes": sandboxes}
    found["mounts"] = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(folder) in line]
    if name == "docker":
        client = docker.connect()
        found["containers"] = client.containers(all=True, filters={"label": f"bulkhead.installation={mine}"})
        unused = [volume["Name"] for volume in client.volumes(filters={"dangling": True})["Volumes"] or []]
        found["volumes"] = [each for each in unused if not each.startswith("bulkhead-runtime-")]
        client.close()
    return found


def _is_sandbox(process: psutil.Process, mine: str) -> bool:
    try:
        return f"/bulkhead-{mine}-" in Path(f"/proc/{process.pid}/cgroup").read_text()
    except OSError:
        return False


def _left_in_the_worker() -> dict[str, int]:
    gc.collect()
    return {
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
        "children": len(psutil.Process().children(recursive=True)),
        "sockets": len(psutil.Process().net_connections("all")),
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_nothing_is_left_of_many_sandboxes(provider: SandboxProvider, tmp_path: Path, in_full: bool) -> None:
    many = _MANY["namespace" if in_full else provider.name]
    async with churning(provider) as (churn, stage):
        await churn.run(0, _SETTLED)
        host, worker = _left_on_the_host(provider.name, tmp_path), _left_in_the_worker()
        await churn.run(_SETTLED, many - _SETTLED)
        assert stage.proxy.attached() == []
        assert await provider.list_ids() == []
        after = _left_in_the_worker()
        assert {name: after[name] - count for name, count in worker.items() if after[name] > count + 1} == {}
        assert _left_on_the_host(provider.name, tmp_path) == host
        assert host["cgroups"] == host["processes"] == host.get("containers", []) == []
        assert not list(tmp_path.glob("sandboxes/*"))


async def test_a_cgroup_of_which_nothing_else_is_left_is_found_and_removed(
    provider: SandboxProvider, tmp_path: Path
) -> None:
    if provider.name != "namespace":
        pytest.skip("the engine keeps the cgroups of its containers")
    await provider.provision("sbx_wiped", SMALL)
    if not _left_on_the_host("namespace", tmp_path)["cgroups"]:
        pytest.skip("this worker has no write access to cgroups")
    folder = tmp_path / "sandboxes" / "sbx_wiped"
    hidden = folder.rename(tmp_path / "hidden")
    assert await provider.list_ids() == ["sbx_wiped"]
    hidden.rename(folder)
    await provider.destroy("sbx_wiped")
    assert await provider.list_ids() == []
