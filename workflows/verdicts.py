"""Which tools an agent's definition names but this version must refuse; pure. Refusing is the safe answer."""

from collections.abc import Iterable, Mapping
from typing import Any

from harness_adapters.toolset.definitions import AGENT_TOOLS

_ASKS = "needs a person's approval ({policy}), which this version cannot ask for"
_CUSTOM = "is a custom tool, which this version cannot hand to a client"


def denials(agent_tools: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return tool name → why a call of it is refused."""
    found: dict[str, str] = {}
    for entry in agent_tools:
        if entry["type"] == "custom":
            found[entry["name"]] = _CUSTOM
            continue
        own = {config["name"]: config for config in entry.get("configs") or []}
        general = _policy(entry.get("default_config"))
        for name in {tool.name for tool in AGENT_TOOLS} | own.keys():
            policy = _policy(own.get(name)) or general
            if policy not in {None, "always_allow"}:
                found[name] = _ASKS.format(policy=policy)
    return found


def _policy(config: Mapping[str, Any] | None) -> str | None:
    return ((config or {}).get("permission_policy") or {}).get("type")
