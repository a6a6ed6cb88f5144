from typing import Any

import pytest

from workflows.rules import Rule, RuleVerdict
from workflows.verdicts import Judgement, Verdict, judge, verdict

CUSTOM = {"type": "custom", "name": "lookup", "input_schema": {}}


def toolset(default: str, **own: str) -> dict[str, Any]:
    configs = [{"name": name, "permission_policy": {"type": policy}} for name, policy in own.items()]
    return {
        "type": "agent_toolset_20260401",
        "default_config": {"permission_policy": {"type": default}},
        "configs": configs,
    }


@pytest.mark.parametrize(
    ("tools", "name", "expected"),
    [
        ([], "sandbox_execute", "allow"),
        ([toolset("always_allow", bash="always_ask")], "bash", "ask"),
        ([toolset("always_allow", bash="always_ask")], "read", "allow"),
        ([toolset("always_ask", read="always_allow")], "read", "allow"),
        ([toolset("always_ask", read="always_allow")], "write", "ask"),
        ([toolset("auto")], "grep", "ask"),
        ([CUSTOM], "lookup", "client"),
        ([toolset("always_ask"), CUSTOM], "lookup", "client"),
        # What can do all that bash can must not be a way around its setting.
        ([toolset("always_allow", bash="always_ask")], "sandbox_execute", "ask"),
        ([toolset("always_ask")], "sandbox_execute", "ask"),
        ([toolset("always_ask", bash="always_allow")], "sandbox_execute", "allow"),
        ([toolset("always_ask")], "sandbox_provision", "allow"),
        ([{**CUSTOM, "name": "sandbox_execute"}], "sandbox_execute", "allow"),
        ([], "save_memory", "allow"),
        ([{**CUSTOM, "name": "save_memory"}], "save_memory", "client"),
    ],
)
def test_who_decides(tools: list[dict[str, Any]], name: str, expected: Verdict) -> None:
    assert verdict(tools, name) == expected


def test_a_rule_precedes_the_policy_and_the_policy_holds_where_none_fits() -> None:
    rule = Rule(id="rule_1", tool="bash", arguments=[], verdict="deny", reason="no")
    found = judge([toolset("always_allow")], [rule], "bash", {})
    assert (found.verdict, found.rule_id) == ("deny", "rule_1")
    assert judge([toolset("auto")], [rule], "read", {}) == Judgement("ask")
    assert judge([toolset("always_allow")], [], "bash", {}) == Judgement("allow")


@pytest.mark.parametrize(("said", "expected"), [("allow", "client"), ("ask", "client"), ("deny", "deny")])
def test_a_rule_can_only_deny_what_a_client_runs(said: RuleVerdict, expected: Verdict) -> None:
    found = judge([CUSTOM], [Rule(id="rule_1", tool="lookup", arguments=[], verdict=said)], "lookup", {})
    assert (found.verdict, found.rule_id) == (expected, "rule_1")
