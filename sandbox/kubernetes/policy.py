"""The namespace of the sandboxes and its network policy: there before any pod, and as strict as they must be."""

import re
from typing import Any

from sandbox.contract import SandboxError
from sandbox.kubernetes.api import Api, ApiError
from sandbox.kubernetes.options import KubernetesOptions
from sandbox.kubernetes.pod import INSTALLATION, PART_OF

GATE_PORTS = 64
"""How many processes of one host may have a gate beside one another."""
ENFORCED = "pod-security.kubernetes.io/enforce"
_POLICIES = "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies"
_EVERYTHING = {"0.0.0.0/0", "::/0"}

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
        "metadata": {"name": f"bulkhead-{re.sub(r'[^a-z0-9-]+', '-', installation.lower())}", "labels": PART_OF},
        "spec": {
            "podSelector": {"matchLabels": {INSTALLATION: installation}},
            "policyTypes": ["Ingress", "Egress"],
            "egress": [way],
        },
    }


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
    if {**wanted["spec"], **found["spec"]} != wanted["spec"]:
        await api.ask("PUT", f"{folder}/{name}", wanted)


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


async def check_policies(api: Api, options: KubernetesOptions) -> None:
    """See that nobody lets sandboxes out or others in: policies add up. One request; raises `SandboxError`."""
    try:
        policies: list[Json] = (await api.ask("GET", _POLICIES.format(options.namespace)))["items"]
    except ApiError as error:
        raise _unseen(options.namespace, error) from error
    if options.gate is None:
        found = additions(policies, options.installation)
    else:
        found = faults([each["spec"] for each in policies])
    if found:
        raise _unsafe(options.namespace, found)


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
    others = [each for each in policies if each["metadata"]["name"] != own]
    return [
        f"the network policy {each['metadata']['name']!r} lets {what}"
        for each in others
        for direction, what in (("ingress", "something in"), ("egress", "pods out"))
        if each["spec"].get(direction) and _may_select(each["spec"].get("podSelector", {}), installation)
    ]


def _may_select(selector: Json, installation: str) -> bool:
    # What is asked of other labels than these may hold for some sandbox.
    known = {**PART_OF, INSTALLATION: installation}
    return all(known.get(label, value) == value for label, value in selector.get("matchLabels", {}).items())


def faults(policies: list[Json]) -> list[str]:
    """Return what is wrong with the policies of a namespace in which sandboxes are to run."""
    found: list[str] = []
    if not any(
        not each.get("podSelector") and {"Ingress", "Egress"} <= set(each.get("policyTypes", [])) for each in policies
    ):
        found.append("no network policy shuts in all of its pods in both directions")
    if any(each.get("ingress") for each in policies):
        found.append("a network policy lets something in")
    rules = [rule for each in policies for rule in each.get("egress", [])]
    if any(not rule.get("to") or not rule.get("ports") for rule in rules):
        found.append("a network policy lets pods out without naming both where to and by which port")
    if any(peer.get("ipBlock", {}).get("cidr") in _EVERYTHING for rule in rules for peer in rule.get("to", [])):
        found.append("a network policy lets pods out to everywhere")
    if any(rule != rules[0] for rule in rules) or len(rules[0].get("to", []) if rules else []) > 1:
        found.append("network policies let pods out to more than the gate")
    return found
