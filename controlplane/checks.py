"""What holds across fields of a request, and for more than one resource."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import get_args

from controlplane.definitions import AgentToolset, CustomTool, McpServer, McpToolset, Tool
from controlplane.errors import InvalidRequestError
from controlplane.ids import shown_name
from controlplane.wire.common import MAX_METADATA_PAIRS
from controlplane.wire.tools import MAX_TOOLS, RESERVED_TOOL_NAMES, TOOLSET_NAMES
from harness_adapters.contract import HarnessName

_KNOWN_HARNESSES: tuple[HarnessName, ...] = get_args(HarnessName)


def refused(field: str, reason: str, *, code: str = "invalid_request", next_step: str | None = None) -> Exception:
    """The error for a field whose value cannot be."""
    return InvalidRequestError(f"{field}: {reason}", code=code, field=field, next_step=next_step)


def not_supported(field: str, what: str, *, next_step: str) -> Exception:
    """The error for something that the wire format has and this version does not."""
    return InvalidRequestError(
        f"{field}: {what} not supported in this version", code="not_supported", field=field, next_step=next_step
    )


def require_unarchived(kind: str, object_id: str, archived_at: datetime | None) -> None:
    """Refuse to change or use what is archived."""
    if archived_at is not None:
        raise InvalidRequestError(
            f"{kind} {object_id!r} is archived",
            code=f"{kind}_archived",
            field=kind if kind == "agent" else f"{kind}_id",
            next_step=f"use another {kind}, or make a new one",
        )


def check_harness(wanted: str | None, installed: Collection[HarnessName]) -> HarnessName:
    """Return the harness to run."""
    if wanted is None:
        return "builtin"
    name: HarnessName | None = next((each for each in _KNOWN_HARNESSES if each == wanted), None)
    if name is None:
        raise refused(
            "harness",
            f"{shown_name(wanted)!r} is unknown; known are {', '.join(_KNOWN_HARNESSES)}",
            code="unknown_harness",
            next_step="omit the field, or set it to one of these",
        )
    if name not in installed:
        raise refused(
            "harness",
            f"{name!r} is not installed; installed are {', '.join(sorted(installed))}",
            code="harness_not_installed",
            next_step=f"run `bulkhead harness install {name}` and start Bulkhead again, or take another harness",
        )
    return name


def patched_metadata(before: dict[str, str], patch: dict[str, str | None] | None) -> dict[str, str]:
    """Return metadata with the patch's keys set, and those removed that it has null for."""
    merged = {**before, **(patch or {})}
    kept = {key: value for key, value in merged.items() if value is not None}
    if len(kept) > MAX_METADATA_PAIRS:
        raise refused(
            "metadata", f"more than {MAX_METADATA_PAIRS} pairs", next_step="remove keys by setting them null"
        )
    return kept


def check_tools(tools: Sequence[Tool], servers: Sequence[McpServer]) -> None:
    """Refuse tools whose names clash, or that refer to servers that are not there."""
    toolsets = [tool for tool in tools if isinstance(tool, AgentToolset)]
    customs = [tool for tool in tools if isinstance(tool, CustomTool)]
    mcp = [tool for tool in tools if isinstance(tool, McpToolset)]
    if len(toolsets) > 1:
        raise refused("tools", "the agent toolset appears more than once")
    _check_names(customs, has_toolset=bool(toolsets))
    count = len(customs) + len(TOOLSET_NAMES) * len(toolsets) + sum(len(toolset.configs) for toolset in mcp)
    if count > MAX_TOOLS:
        raise refused("tools", f"{count} tools; at most {MAX_TOOLS} are allowed across all toolsets")
    for toolset in (*toolsets, *mcp):
        _unique("tools", "the tool setting", [config.name for config in toolset.configs])
    _check_servers([toolset.mcp_server_name for toolset in mcp], [server.name for server in servers])


def _check_names(customs: Sequence[CustomTool], *, has_toolset: bool) -> None:
    taken = RESERVED_TOOL_NAMES | (set(TOOLSET_NAMES) if has_toolset else set[str]())
    for tool in customs:
        if tool.name in taken:
            raise refused(
                "tools",
                f"the name {tool.name!r} belongs to a built-in tool",
                code="tool_name_conflict",
                next_step="give the custom tool another name",
            )
    _unique("tools", "the custom tool", [tool.name for tool in customs])


def _check_servers(referenced: list[str], defined: list[str]) -> None:
    _unique("mcp_servers", "the server", defined)
    _unique("tools", "the toolset of the server", referenced)
    for name in referenced:
        if name not in defined:
            raise refused(
                "tools",
                f"no MCP server {shown_name(name)!r} in mcp_servers",
                next_step="add the server, or remove the toolset",
            )
    for name in defined:
        if name not in referenced:
            raise refused(
                "mcp_servers",
                f"no mcp_toolset refers to the server {shown_name(name)!r}",
                next_step="add an mcp_toolset for it to tools, or remove the server",
            )


def _unique(field: str, what: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise refused(field, f"{what} {shown_name(name)!r} appears more than once")
