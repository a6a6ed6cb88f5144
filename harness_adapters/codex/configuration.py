"""What Codex is started with: our tools, our gateway, and nothing else."""

from typing import Any

from harness_adapters.contract import HarnessSpec
from harness_adapters.driven.confinement import WORKSPACE
from harness_adapters.driven.native import Native

Json = dict[str, Any]

PROVIDER = "bulkhead"
_NO_FEATURES = (
    "api_key_model_discovery", "apps", "auth_elicitation", "browser_use", "computer_use", "daemon_auto_start",
    "enable_request_compression", "goals", "guardian_approval", "hooks", "image_generation", "in_app_browser",
    "mentions_v2", "multi_agent", "plugin_sharing", "plugins", "realtime_conversation", "remote_plugin",
    "shell_snapshot",
    "shell_tool", "skill_mcp_dependency_install", "skill_search", "tool_suggest", "unified_exec", "view_image",
    "workspace_dependencies", "worktrees",
)  # fmt: skip
CONFIG_TOML = """\
web_search = "disabled"
check_for_update_on_startup = false
project_doc_max_bytes = 0
include_permissions_instructions = false
include_environment_context = false
analytics.enabled = false
tools.experimental_request_user_input.enabled = false
skills.bundled.enabled = false
[features]
""" + "".join(f"{name} = false\n" for name in _NO_FEATURES)
"""Of the whole process; see the README for what each line is there for."""

_EFFORTS = {"max": "xhigh"}
STREAM_IDLE_MS = 3_600_000
"""Who asks the model watches it already; Codex is to wait for as long as that takes."""

TOOL_OUTPUT_TOKENS = 1_000_000
"""A tool's output has been cut to size where it was made."""


def thread(native: Native) -> Json:
    """Return the parameters of ``thread/start``; overrides do not outlive a thread, so all of them are given."""
    spec = native.spec
    return {
        "cwd": WORKSPACE,
        "approvalPolicy": "never",
        "sandbox": "read-only",
        "ephemeral": True,
        "environments": [],
        "model": spec.model,
        "modelProvider": PROVIDER,
        "baseInstructions": spec.system or "",
        "dynamicTools": [
            {"type": "function", "name": tool.name, "description": tool.description, "inputSchema": tool.input_schema}
            for tool in spec.tools
        ],
        "config": {
            "model_providers": {PROVIDER: _provider(native)},
            "model_auto_compact_token_limit": 1 << 40,
            "model_context_window": 1 << 41,
            "tool_output_token_limit": TOOL_OUTPUT_TOKENS,
            **_effort(spec),
        },
    }


def _provider(native: Native) -> Json:
    return {
        "name": PROVIDER,
        "base_url": f"{native.base_url}/v1",
        "wire_api": "responses",
        "requires_openai_auth": False,
        "supports_websockets": False,
        "request_max_retries": 0,
        "stream_max_retries": 0,
        "stream_idle_timeout_ms": STREAM_IDLE_MS,
    }


def _effort(spec: HarnessSpec) -> Json:
    return {"model_reasoning_effort": _EFFORTS.get(spec.effort, spec.effort)} if spec.effort else {}
