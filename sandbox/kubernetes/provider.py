"""The provider: pods made, found, proven, reached and ended."""

import asyncio
import contextlib
import hmac
import socket
import time
from typing import Any

from sandbox.channel import Channel
from sandbox.contract import ProviderName, SandboxError, SandboxInfo, SandboxLostError, SandboxSpec
from sandbox.docker import limits_in_effect
from sandbox.kubernetes import policy
from sandbox.kubernetes.api import Api, ApiError, away
from sandbox.kubernetes.cluster import Cluster
from sandbox.kubernetes.gate import PREAMBLE, HostGate
from sandbox.kubernetes.options import KubernetesOptions
from sandbox.kubernetes.pod import (
    ALWAYS_TRIED,
    CONTAINER,
    INSTALLATION,
    PROVEN,
    failure,
    has_ended,
    is_running,
    manifest,
    obstacle,
    pod_name,
    program,
    sandbox_of,
)
from sandbox.kubernetes.stream import ExecStream, sealed
from sandbox.supervised import ORDER_SECONDS, Supervised, checked_id, isolation_faults
from sandbox.supervisor.frames import Header

START_SECONDS = 180.0
"""From the pod's creation until process 1 runs, a large image's way to a new node included."""
HELLO_SECONDS = 30.0
"""Process 1 answers when its canary has come to an end, after ten seconds at most."""
OPEN_SECONDS = 15.0
"""A pod that is said to run and cannot be entered for so long is one whose node or API server is away."""
END_SECONDS = 2.0
GONE_SECONDS = 60.0
PAUSE_SECONDS = 0.1

Json = dict[str, Any]


class KubernetesProvider(Supervised):
    """Finds its pods by their names and labels; keeps no state of its own, so any worker reaches any of them."""

    name: ProviderName = "kubernetes"

    def __init__(
        self,
        options: KubernetesOptions,
        *,
        start_seconds: float = START_SECONDS,
        order_seconds: float = ORDER_SECONDS,
    ):
        super().__init__(order_seconds=order_seconds)
        self._start_seconds = start_seconds
        self._options = options
        self._api = Api()
        self._cluster: Cluster | None = None
        self._preparing = asyncio.Lock()
        self._gate = HostGate(options.installation, lambda sandbox_id: self._derived("gate", sandbox_id).hex())
        self._claimable: set[str] = set()

    @property
    def has_remote_gate(self) -> bool:
        """Whether pods find the egress proxy in the cluster (`admit`), not through this process (`ear`)."""
        return self._options.gate is not None

    def _derived(self, purpose: str, sandbox_id: str) -> bytes:
        key = self._options.key.get_secret_value().encode()
        return hmac.digest(key, f"{purpose}/{self._options.installation}/{sandbox_id}".encode(), "sha256")

    def _pod(self, sandbox_id: str) -> str:
        return f"{self._pods}/{pod_name(self._options.installation, sandbox_id)}"

    @property
    def _pods(self) -> str:
        return f"/api/v1/namespaces/{self._options.namespace}/pods"

    async def provision(self, sandbox_id: str, spec: SandboxSpec) -> SandboxInfo:
        """Start the pod, see that it reaches nothing, and return it; a repeat returns the same one."""
        began = time.monotonic()
        checked_id(sandbox_id)
        cluster = await self._prepared()
        looked = asyncio.create_task(self._look(sandbox_id))
        try:
            await policy.check_policies(self._api, self._options, cluster.gate)
            pod = await looked or await self._created(sandbox_id, spec)
        finally:
            looked.cancel()
            await asyncio.wait([looked])
        if has_ended(pod):
            raise SandboxError(f"sandbox {sandbox_id!r} has ended; use a new id", code="provision_failed")
        if record := pod["metadata"].get("annotations", {}).get(PROVEN):
            return await self._again(sandbox_id, record)
        self._claimable.add(sandbox_id)
        try:
            await self._until_running(sandbox_id)
            started = time.monotonic()
            facts, _ = await asyncio.wait_for(self._ask(sandbox_id, {"op": "hello"}), HELLO_SECONDS)
            connected = time.monotonic()
            self._refuse_faults(facts, spec)
            info = SandboxInfo(
                sandbox_id=sandbox_id,
                provider="kubernetes",
                isolation_effective=_isolation(facts) | _limits(facts, spec),
                timings_ms={
                    "start": round((started - began) * 1000, 2),
                    "connect": round((connected - started) * 1000, 2),
                    "total": round((connected - began) * 1000, 2),
                },
            )
            note = {"metadata": {"annotations": {PROVEN: info.model_dump_json()}}}
            await self._api.ask("PATCH", self._pod(sandbox_id), note)
        except (SandboxError, ApiError, TimeoutError) as error:
            await self._discard(sandbox_id)
            code = "engine_away" if getattr(error, "code", "") == "engine_away" else "provision_failed"
            reason = str(error) or f"process 1 did not answer within {HELLO_SECONDS:.0f} s"
            raise SandboxError(f"sandbox {sandbox_id!r} did not start: {reason}", code=code) from error
        finally:
            self._claimable.discard(sandbox_id)
        return info

    async def _again(self, sandbox_id: str, record: str) -> SandboxInfo:
        try:
            await asyncio.wait_for(self._ask(sandbox_id, {"op": "hello"}), HELLO_SECONDS)
        except SandboxLostError as error:
            raise SandboxError(f"sandbox {sandbox_id!r} has ended; use a new id", code="provision_failed") from error
        except TimeoutError as error:
            raise away("process 1 of a pod that runs does not answer") from error
        return SandboxInfo.model_validate_json(record)

    def _refuse_faults(self, facts: Header, spec: SandboxSpec) -> None:
        if not (faults := isolation_faults(facts, spec)):
            return
        hint = ""
        if facts["canary"]["reached"]:
            hint = (
                f"; the cluster's network does not keep to the NetworkPolicy of {self._options.namespace!r}, or "
                "there is none: install a network plugin that enforces policies (Calico, Cilium, kube-router)"
            )
        raise SandboxError(f"it is not isolated: {'; '.join(faults)}{hint}", code="provision_failed")

    async def _prepared(self) -> Cluster:
        """Have a namespace that shuts its pods in before there is any; raises `SandboxError`."""
        async with self._preparing:
            if self._cluster is None:
                cluster = await Cluster.look(self._api, self._options)
                if cluster.gate is None:
                    await policy.check_namespace(self._api, self._options.namespace)
                else:
                    await policy.make(self._api, self._options, cluster.gate)
                self._cluster = cluster
            return self._cluster

    async def _opened_gate(self) -> tuple[str, int]:
        cluster = await self._prepared()
        if cluster.gate is None:
            raise SandboxError(
                "a pod's way out leads to the gate in the cluster, not to this host", code="provision_failed"
            )
        async with self._preparing:
            return self._gate.address or await self._gate.open(*cluster.gate)

    async def _created(self, sandbox_id: str, spec: SandboxSpec) -> Json:
        cluster = await self._prepared()
        targets = [*ALWAYS_TRIED, *(cluster.targets if self._options.canary == "full" else cluster.targets[:1])]
        body = manifest(sandbox_id, spec, self._options, targets=targets, own_users=cluster.own_users)
        try:
            return await self._api.ask("POST", self._pods, body)
        except ApiError as error:
            if error.reason == "Conflict":
                raise SandboxError(
                    f"sandbox {sandbox_id!r} did not start yet: {error}", code="engine_away"
                ) from error
            if error.reason != "AlreadyExists":
                raise SandboxError(
                    f"sandbox {sandbox_id!r} did not start: the cluster refuses its pod: {error}",
                    code="provision_failed",
                ) from error
        found = await self._look(sandbox_id)
        if found is None:
            raise SandboxError(f"sandbox {sandbox_id!r} has ended; use a new id", code="provision_failed")
        return found

    async def _look(self, sandbox_id: str) -> Json | None:
        try:
            return await self._api.ask("GET", self._pod(sandbox_id))
        except ApiError as error:
            if error.status == 404:
                return None
            raise SandboxError(f"a pod cannot be looked at: {error}", code="engine_away") from error

    async def _until_running(self, sandbox_id: str) -> None:
        """Wait until process 1 has been started; raises `SandboxError` with Kubernetes' own reason if it never is."""
        name, last = pod_name(self._options.installation, sandbox_id), "it was not seen"
        try:
            async with asyncio.timeout(self._start_seconds):
                while True:
                    events = self._api.watch(self._pods, fieldSelector=f"metadata.name={name}")
                    async with contextlib.aclosing(events):
                        async for event in events:
                            pod = event["object"]
                            if event["type"] == "DELETED" or "deletionTimestamp" in pod["metadata"]:
                                raise SandboxError("its pod was deleted", code="provision_failed")
                            if (reason := failure(pod)) is not None:
                                raise SandboxError(reason, code="provision_failed")
                            if is_running(pod):
                                return
                            last = obstacle(pod)
                    await asyncio.sleep(PAUSE_SECONDS)
        except TimeoutError as error:
            happened = await self._last_warning(name)
            raise SandboxError(
                f"its pod did not run within {self._start_seconds:.0f} s: {happened or last}", code="provision_failed"
            ) from error

    async def _last_warning(self, name: str) -> str:
        """Return what the cluster has noted of a pod that does not start, which its status does not always say."""
        path = f"/api/v1/namespaces/{self._options.namespace}/events"
        with contextlib.suppress(ApiError, SandboxError):
            found = await self._api.ask("GET", path, fieldSelector=f"involvedObject.name={name},type=Warning")
            if found["items"]:
                return f"{found['items'][-1]['reason']}: {found['items'][-1]['message']}"
        return ""

    async def image_digest(self, image: str | None) -> str:
        """Return the names of what it is made of: what a name stands for is the cluster's to know."""
        return f"{image or self._options.default_image} on {self._options.runtime_image}"

    async def ear(self, sandbox_id: str) -> socket.socket:
        """Return a listening socket of this host, at which the pod's own ear is heard."""
        gate = await self._opened_gate()
        await self._lead_to(sandbox_id, gate, self._derived("gate", sandbox_id).hex())
        return self._gate.ear(sandbox_id)

    async def admit(self, sandbox_id: str, password: str) -> None:
        """Have the pod's ear lead to the remote gate, which knows the sandbox by this password from now on."""
        if self._options.gate is None:
            raise SandboxError("no gate is set (BULKHEAD_KUBERNETES_GATE)", code="provision_failed")
        host, port = self._options.gate
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, family=socket.AF_INET)
        except OSError as error:
            raise SandboxError(f"the gate {host!r} has no address: {error}", code="egress_away") from error
        await self._lead_to(sandbox_id, (str(found[0][4][0]), port), password)

    async def _lead_to(self, sandbox_id: str, gate: tuple[str, int], password: str) -> None:
        order = {"op": "ear", "gate": gate, "preamble": PREAMBLE.format(sandbox_id, password)}
        await self._ask(sandbox_id, order)

    async def list_ids(self) -> list[str]:
        """Return the ids of all sandboxes of this installation whose pods are there, running or ended."""
        if not self.has_remote_gate:
            # Pods of a worker that has died knock at the gate that its successor has.
            with contextlib.suppress(SandboxError):
                await self._opened_gate()
        label = f"{INSTALLATION}={self._options.installation}"
        try:
            pods = (await self._api.ask("GET", self._pods, labelSelector=label))["items"]
        except ApiError as error:
            if error.status == 404:
                return []
            raise SandboxError(f"the pods cannot be listed: {error}", code="engine_away") from error
        alive = [each for each in pods if "deletionTimestamp" not in each["metadata"]]
        return sorted(found for each in alive if (found := sandbox_of(each, self._options.installation)))

    async def destroy(self, sandbox_id: str) -> None:
        """End the sandbox and everything in it; one that is gone already is no error."""
        checked_id(sandbox_id)
        ended = await self._end(sandbox_id)
        await self.forget(sandbox_id)
        self._gate.forget(sandbox_id)
        # What has ended itself needs no time to end; the kubelet's own second is for what has not answered.
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0 if ended else 1}
        try:
            uid = (await self._api.ask("DELETE", self._pod(sandbox_id), options))["metadata"]["uid"]
            await self._until_gone(sandbox_id, uid)
        except ApiError as error:
            if error.status != 404:
                raise SandboxError(f"a pod cannot be deleted: {error}", code="engine_away") from error

    async def _end(self, sandbox_id: str) -> bool:
        """Have process 1 end all and itself if it can be told at once; say whether it will."""
        channel = self._channels.get(sandbox_id)
        if channel is None or channel.ended:
            return False
        with contextlib.suppress(ConnectionError, TimeoutError):
            await asyncio.wait_for(channel.request({"op": "end"}), END_SECONDS)
            return True
        return False

    async def _until_gone(self, sandbox_id: str, uid: str) -> None:
        until = time.monotonic() + GONE_SECONDS
        while (pod := await self._look(sandbox_id)) is not None and pod["metadata"]["uid"] == uid:
            if time.monotonic() > until:
                raise SandboxError(f"the pod of sandbox {sandbox_id!r} is not gone yet", code="engine_away")
            await asyncio.sleep(PAUSE_SECONDS)

    async def _discard(self, sandbox_id: str) -> None:
        # What cannot be removed now has its deadline, and the reaper finds it by its label.
        with contextlib.suppress(SandboxError):
            await self.destroy(sandbox_id)

    async def leave(self) -> None:
        """Take the network policy of an installation away that has no pods any more."""
        if not self.has_remote_gate:
            with contextlib.suppress(ApiError, SandboxError):
                await policy.remove(self._api, self._options)

    async def close(self) -> None:
        """Release connections; the sandboxes stay."""
        await super().close()
        await self._gate.close()
        await self._api.close()

    async def _open_channel(self, sandbox_id: str) -> Channel:
        until = time.monotonic() + OPEN_SECONDS
        while True:
            try:
                return await self._entered(sandbox_id)
            except (ApiError, ConnectionError, TimeoutError) as error:
                problem = error
            pod = await self._look(sandbox_id)
            if pod is None or has_ended(pod):
                raise SandboxLostError(f"sandbox {sandbox_id!r} is gone") from problem
            if time.monotonic() > until or getattr(problem, "status", 0) in {401, 403}:
                raise SandboxError(
                    f"sandbox {sandbox_id!r} cannot be entered: {problem or type(problem).__name__}",
                    code="engine_away",
                ) from problem
            await asyncio.sleep(PAUSE_SECONDS)

    async def _hung_up(self, sandbox_id: str) -> SandboxError:
        """What runs on may have heard orders, whatever keeps it from answering: nothing is lost while it is there."""
        pod = await self._look(sandbox_id)
        if pod is None or has_ended(pod):
            return SandboxLostError(f"sandbox {sandbox_id!r} is gone")
        return SandboxError(
            f"process 1 of sandbox {sandbox_id!r} hangs up on every connection although its pod runs: it has been "
            "given another BULKHEAD_KUBERNETES_KEY, or its commands end what carries answers",
            code="engine_away",
        )

    async def _entered(self, sandbox_id: str) -> Channel:
        command = program("connect")
        stream = ExecStream(await self._api.stream(f"{self._pod(sandbox_id)}/exec", CONTAINER, command))
        try:
            key = self._derived("seal", sandbox_id)
            return Channel(await sealed(stream, key, may_claim=sandbox_id in self._claimable))
        except BaseException:
            await stream.closed()
            raise


def _isolation(facts: Header) -> dict[str, bool | str]:
    looks = facts["looks"]
    held = f"seen to hold after {looks['late_ms']} ms: {looks['targets']} targets, {looks['rounds']} times"
    return {
        "user_namespace": facts["user_namespace"],
        "pid_namespace": facts["pid"] == 1,
        "network": "none",
        "network_policy": held,
        "no_capabilities": facts["capabilities"] == 0,
        "no_new_privileges": facts["no_new_privileges"],
        "seccomp": facts["seccomp"],
        "read_only_root": facts["read_only_root"],
        "workspace_limit": True,
        "host_user": f"one per sandbox ({facts['uid']})",
        "supervisor": "same user as the commands; process 1, non-dumpable, and hears only what its key has sealed",
    }


def _limits(facts: Header, spec: SandboxSpec) -> dict[str, bool | str]:
    found = limits_in_effect(facts["limits"], spec)
    if found["pids_limit"] is not True:
        found["pids_limit"] = "rlimit of the sandbox's own user"
    return found
