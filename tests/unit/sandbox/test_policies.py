"""What a namespace's network policies must say before a sandbox is made in it."""

from typing import Any

import pytest

from sandbox.kubernetes.policy import faults

_GATE = {"to": [{"podSelector": {"matchLabels": {"app": "egress"}}}], "ports": [{"protocol": "TCP", "port": 3129}]}


def shut(**more: Any) -> dict[str, Any]:
    """Return a policy that lets all pods of a namespace reach the gate only, or what is said instead."""
    return {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": [_GATE], **more}


def test_a_namespace_that_is_shut_in_but_for_the_gate_is_safe() -> None:
    assert faults([shut()]) == []
    assert faults([shut(egress=[]), shut(podSelector={"matchLabels": {"a": "b"}})]) == []


@pytest.mark.parametrize(
    ("policies", "said"),
    [
        ([], "no network policy shuts in"),
        ([shut(podSelector={"matchLabels": {"a": "b"}})], "no network policy shuts in"),
        ([shut(policyTypes=["Egress"])], "no network policy shuts in"),
        ([shut(), shut(ingress=[{}])], "lets something in"),
        ([shut(), shut(egress=[{}])], "without naming both"),
        ([shut(egress=[{"to": _GATE["to"]}])], "without naming both"),
        ([shut(egress=[{**_GATE, "to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}])], "to everywhere"),
    ],
)
def test_what_leaves_a_way_is_named(policies: list[dict[str, Any]], said: str) -> None:
    assert any(said in each for each in faults(policies))
