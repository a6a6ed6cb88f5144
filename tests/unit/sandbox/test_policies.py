"""What a namespace's network policies must say before a sandbox is made in it."""

from typing import Any

import pytest

from sandbox.kubernetes.pod import INSTALLATION, SANDBOX_ID
from sandbox.kubernetes.policy import additions, faults, policy

_GATE = {"to": [{"podSelector": {"matchLabels": {"app": "egress"}}}], "ports": [{"protocol": "TCP", "port": 3129}]}


def shut(**more: Any) -> dict[str, Any]:
    """Return a policy that lets all pods of a namespace reach the gate only, or what is said instead."""
    spec = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": [_GATE], **more}
    return {"metadata": {"name": "a-policy"}, "spec": spec}


def test_a_namespace_that_is_shut_in_but_for_the_gate_is_safe() -> None:
    assert faults([shut()], "mine") == []
    assert faults([shut(egress=[]), shut(podSelector={"matchLabels": {"a": "b"}}, egress=[{}])], "mine") == []
    assert faults([shut(), policy("anothers", ("10.0.0.1", 1))], "mine") == []


@pytest.mark.parametrize(
    ("policies", "said"),
    [
        ([], "no network policy shuts in"),
        ([shut(podSelector={"matchLabels": {"a": "b"}})], "no network policy shuts in"),
        ([shut(policyTypes=["Egress"])], "no network policy shuts in"),
        ([shut(), shut(ingress=[{}])], "lets something in"),
        ([shut(), shut(egress=[{}])], "without naming both"),
        ([shut(egress=[{"to": _GATE["to"]}])], "without naming both"),
        ([shut(egress=[{**_GATE, "to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}])], "to many addresses"),
        ([shut(egress=[{**_GATE, "to": [{"namespaceSelector": {}}]}])], "to every pod of a namespace"),
        ([shut(egress=[{**_GATE, "ports": [{"protocol": "TCP"}]}])], "without naming both"),
        ([shut(), shut(egress=[{**_GATE, "to": [{"ipBlock": {"cidr": "10.0.0.8/32"}}]}])], "more than the gate"),
        ([shut(egress=[{**_GATE, "to": [*_GATE["to"], {"namespaceSelector": {}}]}])], "more than the gate"),
    ],
)
def test_what_leaves_a_way_is_named(policies: list[dict[str, Any]], said: str) -> None:
    assert any(said in each for each in faults(policies, "mine"))


def _demand(operator: str, *values: str) -> dict[str, Any]:
    return {"key": INSTALLATION, "operator": operator} | ({"values": [*values]} if values else {})


@pytest.mark.parametrize(
    ("spec", "allowed"),
    [
        ({"podSelector": {}, "egress": [{}]}, ["lets pods out"]),
        ({"podSelector": {"matchLabels": {INSTALLATION: "mine"}}, "ingress": [{}]}, ["lets something in"]),
        ({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}, "egress": [{}]}, []),
        ({"podSelector": {"matchExpressions": [_demand("DoesNotExist")]}, "egress": [{}]}, []),
        ({"podSelector": {"matchExpressions": [_demand("NotIn", "anothers")]}, "egress": [{}]}, ["lets pods out"]),
        ({"podSelector": {"matchExpressions": [_demand("In", "anothers")]}, "egress": [{}]}, []),
        ({"podSelector": {"matchLabels": {SANDBOX_ID: "a"}}, "egress": [{}]}, ["lets pods out"]),
        ({"podSelector": {"matchLabels": {"app": "web"}}, "egress": [{}], "ingress": [{}]}, []),
        ({"podSelector": {"matchLabels": {INSTALLATION: "anothers"}}, "egress": [{}]}, []),
        ({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}, []),
    ],
)
def test_what_others_allow_an_installations_pods_is_named(spec: dict[str, Any], allowed: list[str]) -> None:
    found = additions([policy("mine", ("10.0.0.1", 1)), {"metadata": {"name": "another"}, "spec": spec}], "mine")
    assert [said in each for said, each in zip(allowed, found, strict=True)] == [True] * len(allowed)
