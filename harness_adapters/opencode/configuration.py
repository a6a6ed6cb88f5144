"""What OpenCode is started with, and what is told to it of a place: a model, its wire format and a set of tools."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness_adapters.contract import HarnessSpec, ToolDefinition, WireFormat
from harness_adapters.driven.confinement import ADDRESS, FILES_AT
from harness_adapters.driven.native import Native

Json = dict[str, Any]

AGENT = PROVIDER = "bulkhead"
NO_LIMIT = 1 << 40
"""For what is counted, cut and compacted outside; less than the largest whole number of JavaScript."""

PREFIX = "agent__"
"""Before the name of a tool that OpenCode would take for one of its own."""

_OWN_TOOLS = frozenset(
    [
        "apply_patch", "bash", "batch", "codesearch", "edit", "execute", "glob", "grep", "invalid", "list", "lsp",
        "list_mcp_resource_templates", "list_mcp_resources", "multiedit", "patch", "plan_exit", "question", "read",
        "read_mcp_resource", "skill", "StructuredOutput", "task", "todoread", "todowrite", "webfetch", "websearch",
        "write",
    ]
)  # fmt: skip
_OWN_AGENTS = ("build", "plan", "general", "explore", "title", "summary", "compaction")
_PACKAGES: Mapping[WireFormat, str] = {
    "anthropic": "@ai-sdk/anthropic",
    "openai": "@ai-sdk/openai-compatible",
    "openai-responses": "@ai-sdk/openai",
}
_EFFORTS = {"max": "xhigh"}
_ORIGIN = "http://{}:{}/s/none".format(*ADDRESS)
"""Stands for a session's own address: a provider is configured once for all of them."""

ENVIRONMENT = {
    "BUN_JSC_forceRAMSize": str(1 << 30),
    "BUN_INSPECT_PRELOAD": f"{FILES_AT}/bridge.js",
    "OPENCODE_CLIENT": "bulkhead",
    "OPENCODE_DB": ":memory:",
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_CLAUDE_CODE": "1",
    "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
    "OPENCODE_DISABLE_EMBEDDED_WEB_UI": "1",
    "OPENCODE_DISABLE_EXTERNAL_SKILLS": "1",
    "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
    "OPENCODE_DISABLE_PROJECT_CONFIG": "1",
    "OPENCODE_DISABLE_SHARE": "1",
    "OPENCODE_EXPERIMENTAL_DISABLE_FILEWATCHER": "1",
    "OPENCODE_MODELS_PATH": f"{FILES_AT}/models.json",
}
"""See the README for what each is there for."""

FILES = {
    "opencode.json": json.dumps(
        {
            "plugin": [f"file://{FILES_AT}/plugin.js"],
            "default_agent": AGENT,
            "agent": {
                AGENT: {"mode": "primary", "description": "The agent.", "permission": {"*": "deny"}},
                **{name: {"disable": True} for name in _OWN_AGENTS},
            },
            "permission": {"*": "deny"},
            "compaction": {"auto": False, "prune": False},
            "tool_output": {"max_lines": NO_LIMIT, "max_bytes": NO_LIMIT},
            "autoupdate": False,
            "formatter": False,
            "lsp": False,
            "share": "disabled",
            "snapshot": False,
            "enabled_providers": [PROVIDER],
        }
    ),
    "models.json": "{}",
    ".gitignore": "",
    **{name: (Path(__file__).parent / name).read_text() for name in ("bridge.js", "plugin.js")},
}
LINKS = {"/home/agent/.config/opencode": FILES_AT}
"""A folder that cannot be written: into another OpenCode would install a package, and wait until that has failed."""


@dataclass(frozen=True)
class Place:
    """A folder of OpenCode's with a configuration of its own: sessions with the same model and tools share one."""

    model: str
    wire_format: WireFormat
    tools: tuple[str, ...]

    @classmethod
    def of(cls, spec: HarnessSpec, wire_format: WireFormat) -> "Place":
        """Return a session's place."""
        return cls(spec.model, wire_format, tuple(tool.model_dump_json() for tool in spec.tools))

    @property
    def directory(self) -> str:
        """Where it is, for OpenCode."""
        return "/tmp/" + hashlib.sha256(repr(self).encode()).hexdigest()[:16]  # noqa: S108 -- the process's own

    def told(self) -> Json:
        """Return what the plugin is to know of it."""
        tools = [ToolDefinition.model_validate_json(tool) for tool in self.tools]
        return {
            "directory": self.directory,
            "origin": _ORIGIN,
            "tools": [{**tool.model_dump(), "name": named(tool.name)} for tool in tools],
            "config": {
                "provider": {PROVIDER: _provider(self.model, self.wire_format)},
                "agent": {AGENT: _agent(tools)},
            },
        }


def named(name: str) -> str:
    """Return the name by which OpenCode knows a tool of ours."""
    return PREFIX + name if name in _OWN_TOOLS else name


def session(native: Native, session_id: str, wire_format: WireFormat) -> Json:
    """Return what the plugin is to know of a session."""
    spec = native.spec
    return {
        "id": session_id,
        "base_url": native.base_url,
        "system": spec.system,
        "max_tokens": None if wire_format == "openai" else spec.max_tokens,
        "options": _options(spec, wire_format),
    }


def _agent(tools: list[ToolDefinition]) -> Json:
    allowed = {named(tool.name): "allow" for tool in tools}
    return {"permission": {"*": "deny", "doom_loop": "allow", **allowed}}


def _provider(model: str, wire_format: WireFormat) -> Json:
    limits = {"context": NO_LIMIT, "output": NO_LIMIT}
    inputs = ["text", "image"] if wire_format == "openai" else ["text", "image", "pdf"]
    return {
        "npm": _PACKAGES[wire_format],
        "name": PROVIDER,
        "options": {
            "apiKey": "none",
            "baseURL": f"{_ORIGIN}/v1",
            "timeout": False,
            "headerTimeout": False,
            "chunkTimeout": False,
        },
        "models": {
            model: {
                "name": model,
                "attachment": True,
                "reasoning": True,
                "temperature": False,
                "tool_call": True,
                "modalities": {"input": inputs, "output": ["text"]},
                "limit": limits,
            }
        },
    }


def _options(spec: HarnessSpec, wire_format: WireFormat) -> Json:
    effort = spec.effort
    if wire_format == "anthropic":
        return {"effort": effort} if effort else {}
    own: Json = {"max_completion_tokens": spec.max_tokens}
    if wire_format == "openai-responses":
        own = {"include": ["reasoning.encrypted_content"]}
    return {**own, **({"reasoningEffort": _EFFORTS.get(effort, effort)} if effort else {})}
