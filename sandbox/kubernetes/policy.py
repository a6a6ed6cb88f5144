"""The namespace of the sandboxes and its network policy: there before any pod, and as strict as they must be."""

import hashlib
import re
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any

from sandbox.contract import SandboxError
from sandbox.kubernetes.api import Api, ApiError
from sandbox.kubernetes.options import KubernetesOptions
from sandbox.kubernetes.pod import INSTALLATION, PART_OF, SANDBOX_ID

GATE_PORTS = 64
"""How many processes of one host may have a gate beside one another."""
ENFORCED = "pod-security.kubernetes.io/enforce"
_POLICIES = "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies"

Json = dict[str, Any]


async def make(api: Api, options: KubernetesOptions, gate: tuple[str, int]) -> None:
    """Have the namespace, and let this installation's pods reach the gate and nothing else; raises `SandboxError`."""
    try:
        await _make_namespace(api, options.namespace)
        await _put(api, options.namespace, policy(options.installation, gate))
    except ApiError as error:
        raise SandboxError(
            f"the namespace {options.namespace!r} cannot be made ready for sandboxes: {error}; let this worker make "
            "namespaces and network policies, or set BULKHEAD_KUBERNETES_GATE and make them beforehand",
            code="provision_failed",
        ) from error


def policy(installation: str, gate: tuple[str, int]) -> Json:
    """Return a policy that shuts in an installation's pods but for one address."""
    address, port = gate
    way = {
        "to": [{"ipBlock": {"cidr": f"{address}/32"}}],
        "ports": [{"protocol": "TCP", "port": port, "endPort": port + GATE_PORTS - 1}],
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": _name(installation), "labels": PART_OF},
        "spec": {
            "podSelector": {"matchLabels": {INSTALLATION: installation}},
            "policyTypes": ["Ingress", "Egress"],
            "egress": [way],
        },
    }


def _name(installation: str) -> str:
    plain = re.sub(r"[^a-z0-9-]+", "-", installation.lower())
    told_apart = "" if plain == installation else f"-{hashlib.sha256(installation.encode()).hexdigest()[:8]}"
    return f"bulkhead-{plain}{told_apart}"


async def _make_namespace(api: Api, name: str) -> None:
    wanted = {"metadata": {"name": name, "labels": {**PART_OF, ENFORCED: "restricted"}}}
    try:
        found = await api.ask("GET", f"/api/v1/namespaces/{name}")
    except ApiError as error:
        if error.status != 404:
            raise
        await _created(api, "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", **wanted})
        return
    if found["metadata"].get("labels", {}).get(ENFORCED) != "restricted":
        await api.ask("PATCH", f"/api/v1/namespaces/{name}", {"metadata": {"labels": {ENFORCED: "restricted"}}})


async def _put(api: Api, namespace: str, wanted: Json) -> None:
    folder, name = _POLICIES.format(namespace), wanted["metadata"]["name"]
    await _created(api, folder, wanted)
    found = await api.ask("GET", f"{folder}/{name}")
    if _differs(found["spec"], wanted["spec"]):
        await api.ask("PUT", f"{folder}/{name}", wanted)


def _differs(found: Json, wanted: Json) -> bool:
    return {**wanted, **found} != wanted


async def _created(api: Api, folder: str, wanted: Json) -> None:
    try:
        await api.ask("POST", folder, wanted)
    except ApiError as error:
        if error.status != 409:
            raise


async def check_namespace(api: Api, namespace: str) -> None:
    """See that whoever installed the gate has made the namespace; raises `SandboxError` with what is missing."""
    try:
        found = await api.ask("GET", f"/api/v1/namespaces/{namespace}")
    except ApiError as error:
        raise _unseen(namespace, error) from error
    if found["metadata"].get("labels", {}).get(ENFORCED) != "restricted":
        raise _unsafe(namespace, [f"it has no label {ENFORCED}=restricted"])


async def check_policies(api: Api, options: KubernetesOptions, gate: tuple[str, int] | None) -> None:
    """See that nobody lets sandboxes out or others in: policies add up. One request; raises `SandboxError`.

    ``gate``: this host's own, for which the policy is the worker's to keep; it is put back if it was changed.
    """
    try:
        policies: list[Json] = (await api.ask("GET", _POLICIES.format(options.namespace)))["items"]
        if gate is not None:
            wanted = policy(options.installation, gate)
            own = next((each for each in policies if each["metadata"]["name"] == wanted["metadata"]["name"]), None)
            if own is None or _differs(own["spec"], wanted["spec"]):
                await _put(api, options.namespace, wanted)
    except ApiError as error:
        raise _unseen(options.namespace, error) from error
    look = faults if gate is None else additions
    if found := look(policies, options.installation):
        raise _unsafe(options.namespace, found)


async def remove(api: Api, options: KubernetesOptions) -> None:
    """Take away what `make` has made for an installation that has no pods any more; raises `ApiError`."""
    name = policy(options.installation, ("", 0))["metadata"]["name"]
    await api.ask("DELETE", f"{_POLICIES.format(options.namespace)}/{name}")


def _unseen(namespace: str, error: ApiError) -> SandboxError:
    return SandboxError(
        f"the namespace {namespace!r} of the sandboxes cannot be looked at: {error}; it must be there, and this "
        "worker must be allowed to read it and its network policies",
        code="provision_failed",
    )


def _unsafe(namespace: str, found: list[str]) -> SandboxError:
    return SandboxError(
        f"the namespace {namespace!r} is not safe for sandboxes: {'; '.join(found)}", code="provision_failed"
    )


def additions(policies: list[Json], installation: str) -> list[str]:
    """Return what policies beside the installation's own allow its sandboxes."""
    own = policy(installation, ("", 0))["metadata"]["name"]
    return [
        f"the network policy {each['metadata']['name']!r} lets {what}"
        for each in policies
        for direction, what in (("ingress", "something in"), ("egress", "pods out"))
        if each["metadata"]["name"] != own and each["spec"].get(direction) and _selects(each["spec"], installation)
    ]


def _selects(spec: Json, installation: str) -> bool:
    """Say whether a policy may be about some sandbox of an installation, by the labels that `pod.manifest` gives."""
    known = {**PART_OF, INSTALLATION: installation, SANDBOX_ID: None}
    selector = spec.get("podSelector") or {}
    demands = [("In", label, [value]) for label, value in selector.get("matchLabels", {}).items()]
    demands += [(each["operator"], each["key"], each.get("values")) for each in selector.get("matchExpressions", [])]
    return all(_may_hold(known, *each) for each in demands)


def _may_hold(known: Mapping[str, str | None], operator: str, label: str, values: list[str] | None) -> bool:
    if label not in known:
        return operator in {"NotIn", "DoesNotExist"}
    if operator in {"Exists", "DoesNotExist"}:
        return operator == "Exists"
    if (value := known[label]) is None:
        return True  # each sandbox has another
    return (value in (values or [])) == (operator == "In")


def faults(policies: list[Json], installation: str) -> list[str]:
    """Return what is wrong with the policies of a namespace in which sandboxes are to run."""
    own = [each for each in policies if _selects(each["spec"], installation)]
    specs: list[Json] = [each["spec"] for each in own]
    found: list[str] = []
    if not any(
        not each.get("podSelector") and {"Ingress", "Egress"} <= set(each.get("policyTypes", [])) for each in specs
    ):
        found.append("no network policy shuts in all of its pods in both directions")
    first = next((rule for each in specs for rule in each.get("egress", [])), None)
    for each in own:
        name = f"the network policy {each['metadata']['name']!r}"
        if each["spec"].get("ingress"):
            found.append(f"{name} lets something in")
        found += [
            f"{name} lets pods out {wide}"
            for rule in each["spec"].get("egress", [])
            if (wide := _wider_than_a_gate(rule) or ("to more than the gate" if rule != first else None))
        ]
    return found


def _wider_than_a_gate(rule: Json) -> str | None:
    """Return what a rule allows beyond the pods, or the one address, of a gate, and its port."""
    if not rule.get("to") or not all("port" in port for port in rule.get("ports") or [{}]):
        return "without naming both where to and by which port"
    if len(rule["to"]) > 1:
        return "to more than the gate"
    [peer] = rule["to"]
    if "ipBlock" in peer:
        return None if ip_network(peer["ipBlock"]["cidr"], strict=False).num_addresses == 1 else "to many addresses"
    return None if peer.get("podSelector") else "to every pod of a namespace"
