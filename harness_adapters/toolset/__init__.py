"""The tools that a model sees, whether a call of one is well-formed, and the sandbox command behind it."""

from harness_adapters.toolset.commands import Continuation, SandboxCommand, command, continuation, exec_id
from harness_adapters.toolset.definitions import EXECUTE, PROVISION, definitions
from harness_adapters.toolset.inputs import INVALID_INPUT, check, is_custom
from harness_adapters.toolset.memory import BY_NAME as MEMORY_TOOLS

__all__ = [
    "EXECUTE",
    "INVALID_INPUT",
    "MEMORY_TOOLS",
    "PROVISION",
    "Continuation",
    "SandboxCommand",
    "check",
    "command",
    "continuation",
    "definitions",
    "exec_id",
    "is_custom",
]
