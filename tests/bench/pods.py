"""Sandboxes that are pods, beside bare pods in the same run; then claimed warm, as a control plane has them."""

import asyncio
import contextlib
import itertools
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from sandbox.kubernetes import KubernetesOptions, KubernetesProvider
from sandbox.kubernetes.api import Api
from sandbox.kubernetes.pod import is_running
from sandbox.kubernetes.stream import ExecStream
from tests.bench.figures import Figure, progress
from tests.bench.plane import provisions, running
from tests.bench.sandboxes import Floors, compare, provisioned, starts
from tests.support import cluster

_REFILL_SECONDS = 8.0
_numbers = itertools.count(1)


async def measure(times: int) -> list[Figure]:
    """Measure what a cluster adds; nothing where none answers."""
    if cluster.obstacle() is not None:
        return []
    few = max(5, times // 5)
    with tempfile.TemporaryDirectory(prefix="bulkhead-bench-") as name:
        try:
            return [*await _alone(Path(name), few), *await _claimed(Path(name), few)]
        finally:
            await cluster.remove_namespace()


async def _alone(folder: Path, times: int) -> list[Figure]:
    """Measure pods of an image that has the runtime, then what others take until they are there."""
    carried = cluster.options(f"bench{os.getpid()}", canary="full")
    options = carried.model_copy(update={"image": None})
    others = {"any image": carried, "canary glance": options.model_copy(update={"canary": "glance"})}
    progress(f"sandboxes as pods of {options.default_image}, the provider alone")
    api, bare = Api(), BarePods(options)
    try:
        await provisioned(first := KubernetesProvider(options))
        await bare.start(api, "bench-bare")
        floors = Floors(
            execute=lambda: bare.execute(api, "bench-bare"),
            execute_name="bare exec API",
            execute_goal="≤ 1.3 × floor",
            start=lambda: bare.live(api),
            start_name="bare pod until running",
            start_goal="≤ floor + 300",
        )
        found = await compare(first, folder, times, floors)
        for name, told in others.items():
            provider = KubernetesProvider(told)
            starting = await starts(provider, times, floors)
            found.append(replace(starting, name=f"{starting.name}, {name}"))
            await provider.close()
        return found
    finally:
        await api.close()


async def _claimed(folder: Path, times: int) -> list[Figure]:
    """Measure pods that are claimed from the pool, with their way out; one cold one tells the pool what to make."""
    environment = {**cluster.environment(), "BULKHEAD_KUBERNETES_CANARY": "full", "BULKHEAD_WARM_SANDBOXES": "1"}
    environment["BULKHEAD_KUBERNETES_IMAGE"] = environment["BULKHEAD_KUBERNETES_RUNTIME_IMAGE"]
    progress("pods claimed warm")
    async with running(folder, environment) as bench:
        await provisions(bench, 1, "kubernetes", source="cold", goal="")
        await asyncio.sleep(_REFILL_SECONDS)
        return await provisions(
            bench, times, "kubernetes", source="warm", goal="≤ 150 p50", refill_seconds=_REFILL_SECONDS
        )


@dataclass(frozen=True)
class BarePods:
    """Pods that do nothing, of the same image in the same namespace, without a limit or a volume."""

    options: KubernetesOptions

    @property
    def folder(self) -> str:
        """The pods' place in the API."""
        return f"/api/v1/namespaces/{self.options.namespace}/pods"

    async def live(self, api: Api) -> None:
        """Start one, see it run, end it."""
        name = f"bench-bare-{next(_numbers)}"
        await self.start(api, name)
        await api.ask("DELETE", f"{self.folder}/{name}", {"kind": "DeleteOptions", "gracePeriodSeconds": 0})

    async def start(self, api: Api, name: str) -> None:
        """Start one and wait until it runs."""
        confined = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        container = {"name": "bare", "image": self.options.runtime_image, "command": ["sleep", "3600"]}
        spec = {
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{**container, "securityContext": confined}],
        }
        await api.ask("POST", self.folder, {"metadata": {"name": name}, "spec": spec})
        events = api.watch(self.folder, fieldSelector=f"metadata.name={name}")
        async with contextlib.aclosing(events):
            async for event in events:
                if is_running(event["object"]):
                    return

    async def execute(self, api: Api, name: str) -> None:
        """Do what `kubectl exec` does: run it to its end, over a stream of its own."""
        stream = ExecStream(await api.stream(f"{self.folder}/{name}/exec", "bare", ["true"]))
        while await stream.read():
            pass
        assert "Success" in stream.said, stream.said
        await stream.closed()
