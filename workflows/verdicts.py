"""Who decides about a tool call: nobody any more, a person, or the client that runs the tool itself; pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness_adapters.toolset import EXECUTE, MEMORY_TOOLS, PROVISION
from workflows.rules import Examination, OnExpiry, Rule, examine

Verdict = Literal["allow", "ask", "client", "deny"]
"""``ask``: it waits for a person's decision. ``client``: it waits for the client's result."""

WAITING: frozenset[Verdict] = frozenset({"ask", "client"})


@dataclass(frozen=True)
class Judgement:
    """A verdict on a call. ``rule_id`` and ``reason``: of the rule that gave it, if it was one.

    ``expires_after_seconds``: how long the call waits for a person, then ``on_expiry`` is decided.
    """

    verdict: Verdict
    rule_id: str | None = None
    reason: str | None = None
    expires_after_seconds: int | None = None
    on_expiry: OnExpiry | None = None


def judge(
    agent_tools: Iterable[Mapping[str, Any]], rules: Iterable[Rule], name: str, value: Mapping[str, Any]
) -> Judgement:
    """Return the verdict on a call: that of the first rule that fits, else that of the tool's policy."""
    return judged(agent_tools, name, examine(rules, name, value))


def judged(agent_tools: Iterable[Mapping[str, Any]], name: str, examination: Examination) -> Judgement:
    """Return the verdict on a call whose rules have been gone through.

    A custom tool is run by its client, which is who allows it or asks; a rule can only deny it.
    """
    policy, ruling = verdict(agent_tools, name), examination.ruling
    if ruling is None:
        return Judgement(policy)
    return Judgement(
        "client" if policy == "client" and ruling.verdict != "deny" else ruling.verdict,
        rule_id=ruling.rule.id,
        reason=ruling.sentence,
        expires_after_seconds=ruling.rule.expires_after_seconds if ruling.verdict == "ask" else None,
        on_expiry=ruling.rule.on_expiry if ruling.verdict == "ask" else None,
    )


def verdict(agent_tools: Iterable[Mapping[str, Any]], name: str) -> Verdict:
    """Return the verdict on calls of a tool under an agent's ``tools``; a tool's own setting precedes the general.

    `sandbox_execute` can do what `bash` can, so it goes by the setting of that. Memory is for those whom it is
    attached to. ``auto`` leaves it to rules; where none says otherwise, a person is asked.
    """
    entries = list(agent_tools)
    if name == PROVISION:
        return "allow"
    if name != EXECUTE and any(entry["type"] == "custom" and entry["name"] == name for entry in entries):
        return "client"
    if name in MEMORY_TOOLS:
        return "allow"
    wanted = "bash" if name == EXECUTE else name
    policies = [_policy(entry, wanted) for entry in entries if entry["type"] != "custom"]
    return "allow" if all(policy in {None, "always_allow"} for policy in policies) else "ask"


def _policy(toolset: Mapping[str, Any], name: str) -> str | None:
    own = next((config for config in toolset.get("configs") or [] if config["name"] == name), {})
    settings = (own, toolset.get("default_config") or {})
    return next(filter(None, ((each.get("permission_policy") or {}).get("type") for each in settings)), None)
