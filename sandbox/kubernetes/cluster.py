"""What a provider learns of the cluster before it makes its first pod."""

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from typing import Any

from sandbox.contract import SandboxError
from sandbox.kubernetes.api import Api, ApiError
from sandbox.kubernetes.gate import FIRST_PORT, address_towards
from sandbox.kubernetes.options import KubernetesOptions
from sandbox.supervisor.canary import Target

_NAME_SERVICE = "/api/v1/namespaces/kube-system/services/kube-dns"
"""So named in every distribution, for the sake of old tools."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Cluster:
    """What there is beside the pods: what they must not reach, and what their nodes can do."""

    targets: list[Target]
    own_users: bool
    gate: tuple[str, int] | None
    """Where this host's gate is to be, if it is to have one."""

    @classmethod
    async def look(cls, api: Api, options: KubernetesOptions) -> "Cluster":
        """Find out; what this worker may not read is left out. Raises `SandboxError` (``engine_away``)."""
        nodes: list[Json] = (await _readable(api, "/api/v1/nodes")).get("items", [])
        service = await _readable(api, _NAME_SERVICE)
        targets = [target] if (target := await _resolved(*await api.server())) else []
        if address := service.get("spec", {}).get("clusterIP"):
            targets.append((address, 53))
        gate = None
        if options.gate is None:
            gate = options.gate_listen or (_own_address(nodes, targets), FIRST_PORT)
        own_users = options.user_namespaces
        if own_users is None:
            own_users = _have_own_users(nodes, await _handler(api, options.runtime_class))
        return cls(targets=targets, own_users=own_users, gate=gate)


async def _readable(api: Api, path: str) -> Json:
    try:
        return await api.ask("GET", path)
    except ApiError:
        return {}


async def _handler(api: Api, runtime_class: str | None) -> str | None:
    """Return what nodes call the runtime of a class: the empty name without one, None if this worker may not ask."""
    if runtime_class is None:
        return ""
    return (await _readable(api, f"/apis/node.k8s.io/v1/runtimeclasses/{runtime_class}")).get("handler")


async def _resolved(host: str, port: int) -> Target | None:
    """Return an address that a pod could try, without a name server; a loopback is its own."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, family=socket.AF_INET)
    except OSError:
        return None
    address = str(found[0][4][0])
    return None if ipaddress.ip_address(address).is_loopback else (address, port)


def _own_address(nodes: list[Json], targets: list[Target]) -> str:
    if (towards := _address_of(nodes) or next((host for host, _ in targets), None)) is None:
        raise SandboxError(
            "this host does not know by which of its addresses pods reach it, for it may not read the cluster's "
            "nodes; set BULKHEAD_KUBERNETES_GATE_LISTEN to ADDRESS:PORT",
            code="provision_failed",
        )
    return address_towards(towards)


def _address_of(nodes: list[Json]) -> str | None:
    found = [
        each["address"] for node in nodes for each in node["status"]["addresses"] if each["type"] == "InternalIP"
    ]
    return next((address for address in found if ":" not in address), None)


def _have_own_users(nodes: list[Json], handler: str | None) -> bool:
    """Whether every node says of its runtime that it can give a pod a user namespace; unread nodes say nothing."""
    return bool(nodes) and all(
        any(
            each.get("name", "") == handler and (each.get("features") or {}).get("userNamespaces")
            for each in node["status"].get("runtimeHandlers") or []
        )
        for node in nodes
    )
