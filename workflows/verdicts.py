"""Who decides about a tool call: nobody any more, a person, or the client that runs the tool itself; pure."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from harness_adapters.toolset import EXECUTE, PROVISION

Verdict = Literal["allow", "ask", "client", "deny"]
"""``ask``: it waits for a person's decision. ``client``: it waits for the client's result."""

WAITING: frozenset[Verdict] = frozenset({"ask", "client"})


def verdict(agent_tools: Iterable[Mapping[str, Any]], name: str) -> Verdict:
    """Return the verdict on calls of a tool under an agent's ``tools``; a tool's own setting precedes the general.

    `sandbox_execute` can do what `bash` can, so it goes by the setting of that. ``auto`` leaves it to rules; where
    none says otherwise, a person is asked.
    """
    entries = list(agent_tools)
    if name == PROVISION:
        return "allow"
    if name != EXECUTE and any(entry["type"] == "custom" and entry["name"] == name for entry in entries):
        return "client"
    wanted = "bash" if name == EXECUTE else name
    policies = [_policy(entry, wanted) for entry in entries if entry["type"] != "custom"]
    return "allow" if all(policy in {None, "always_allow"} for policy in policies) else "ask"


def _policy(toolset: Mapping[str, Any], name: str) -> str | None:
    own = next((config for config in toolset.get("configs") or [] if config["name"] == name), {})
    settings = (own, toolset.get("default_config") or {})
    return next(filter(None, ((each.get("permission_policy") or {}).get("type") for each in settings)), None)
