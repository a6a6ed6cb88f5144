"""The two tools that every agent has, and the six that are thin forms of the second."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness_adapters.contract import ToolDefinition
from harness_adapters.toolset.memory import DEFINITIONS

PROVISION = "sandbox_provision"
EXECUTE = "sandbox_execute"

DEFAULT_TIMEOUT_SECONDS = 120
MAX_TIMEOUT_SECONDS = 3600
"""An hour: what runs longer belongs in the background, with its output in a file."""

MAX_WAIT_SECONDS = 600
"""Longer than that a model had better do something else, and come back."""
DEFAULT_WAIT_SECONDS = 10

SIGNALS = ("HUP", "INT", "QUIT", "USR1", "USR2", "TERM", "KILL", "STOP", "CONT")

MAX_PATH_CHARS = 4096
"""Linux takes no longer path."""

MAX_COMMAND_CHARS = 100_000
"""Linux takes 128 KiB for one argument; longer scripts go through a file or stdin."""

_TOOLSET = "agent_toolset_20260401"


def _text(description: str, **bounds: int) -> dict[str, Any]:
    return {"type": "string", "description": description, **bounds}


def _tool(name: str, description: str, *, required: Sequence[str], **properties: Any) -> ToolDefinition:
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }
    return ToolDefinition(name=name, description=description, input_schema=schema)


_PATH = _text("An absolute path, or one relative to /workspace.", minLength=1, maxLength=MAX_PATH_CHARS)
_FOLDER = _text("The folder to search; /workspace if left out.", minLength=1, maxLength=MAX_PATH_CHARS)

SANDBOX_TOOLS = (
    _tool(
        PROVISION,
        "Get an isolated Linux sandbox ready for a task. It holds the session's files and its folder /workspace is"
        " kept between commands. Calling it again returns the sandbox that is there. Commands get one by themselves:"
        " call this only to have it ready early, or to learn about it.",
        required=["task_description"],
        task_description=_text("What the sandbox will be used for, in a sentence.", minLength=1, maxLength=2000),
    ),
    _tool(
        EXECUTE,
        "Run a shell command in the session's sandbox and get its output and exit code. Every command starts in a"
        " fresh shell: folder changes and variables do not carry over, files do. Long output loses its middle;"
        " a command that prints more than 64 MiB is killed. With yield_after_seconds a command goes on in the"
        " background when it takes longer than that; call again with the exec_id that the result names, instead of"
        " command, to read what it has printed since, to give it input or to send it a signal.",
        required=[],
        command=_text(
            "The command, for bash where the sandbox has it, else sh.", minLength=1, maxLength=MAX_COMMAND_CHARS
        ),
        cwd=_text("The folder to run in; /workspace if left out.", minLength=1, maxLength=MAX_PATH_CHARS),
        stdin=_text("Text for the command's standard input."),
        timeout_seconds={
            "type": "number",
            "description": "The command and all it started are killed after this long, also in the background.",
            "minimum": 1,
            "maximum": MAX_TIMEOUT_SECONDS,
            "default": DEFAULT_TIMEOUT_SECONDS,
        },
        yield_after_seconds={
            "type": "number",
            "description": "Return after this long while the command goes on, its standard input open; 0: at once.",
            "minimum": 0,
            "maximum": MAX_TIMEOUT_SECONDS,
        },
        exec_id=_text("A command that was started before, instead of command.", minLength=1, maxLength=200),
        cursor=_text(
            "With exec_id: where to read on, from an earlier result; from the start if left out.", maxLength=40
        ),
        wait_seconds={
            "type": "number",
            "description": "With exec_id: how long to wait for more output or the command's end.",
            "minimum": 0,
            "maximum": MAX_WAIT_SECONDS,
            "default": DEFAULT_WAIT_SECONDS,
        },
        close_stdin={"type": "boolean", "description": "Nothing follows on standard input after this stdin, if any."},
        signal={
            "type": "string",
            "description": "With exec_id: a signal for the command; KILL ends everything it started.",
            "enum": list(SIGNALS),
        },
    ),
)

AGENT_TOOLS = (
    _tool(
        "bash",
        "Run a shell command in the session's sandbox. Every command starts in a fresh shell in /workspace.",
        required=[],
        command=_text("The command; left out only with restart.", minLength=1, maxLength=MAX_COMMAND_CHARS),
        restart={"type": "boolean", "description": "Only says that there is nothing to restart."},
        timeout_ms={
            "type": "integer",
            "description": f"Milliseconds until it is killed; 0 or left out: {DEFAULT_TIMEOUT_SECONDS * 1000}.",
            "minimum": 0,
            "maximum": MAX_TIMEOUT_SECONDS * 1000,
        },
    ),
    _tool(
        "read",
        "Read a text file in the sandbox, whole or a range of its lines.",
        required=["file_path"],
        file_path=_PATH,
        view_range={
            "type": "array",
            "description": "[first line, last line], from 1, both included; a last line of 0 or less: to the end.",
            "items": {"type": "integer"},
            "minItems": 2,
            "maxItems": 2,
        },
    ),
    _tool(
        "write",
        "Write a file in the sandbox whole, making its folders; what it held before is gone.",
        required=["file_path", "content"],
        file_path=_PATH,
        content=_text("The whole new content."),
    ),
    _tool(
        "edit",
        "Replace a piece of a text file in the sandbox. The old text must occur exactly once, unless replace_all.",
        required=["file_path", "old_string", "new_string"],
        file_path=_PATH,
        old_string=_text("The text to be replaced, exactly as it stands in the file.", minLength=1),
        new_string=_text("The text to put in its place."),
        replace_all={"type": "boolean", "description": "Replace every occurrence."},
    ),
    _tool(
        "glob",
        "List the files in the sandbox whose path fits a pattern, newest first.",
        required=["pattern"],
        pattern=_text("Such as **/*.py or src/{a,b}/*.txt.", minLength=1, maxLength=MAX_PATH_CHARS),
        path=_FOLDER,
    ),
    _tool(
        "grep",
        "Search the text files of the sandbox for a regular expression; prints path, line number and line.",
        required=["pattern"],
        pattern=_text("A POSIX extended regular expression.", minLength=1, maxLength=MAX_PATH_CHARS),
        path={**_FOLDER, "description": "The file or folder to search; /workspace if left out."},
    ),
)

BUILTIN: Mapping[str, ToolDefinition] = {tool.name: tool for tool in (*SANDBOX_TOOLS, *AGENT_TOOLS)}
"""Every tool that runs in a sandbox, by name."""


def definitions(agent_tools: Sequence[Mapping[str, Any]], *, memory: bool = False) -> list[ToolDefinition]:
    """Return what an agent with the ``tools`` of the wire format shows its model.

    Always the two sandbox tools first; with ``memory``, of a session that has some, the tools for it; then what its
    toolset enables; then its custom tools. A name means one tool: a custom one goes before one for memory, which
    its agent knows nothing of, and is left out if another has its name.
    """
    own = {entry["name"] for entry in agent_tools if entry.get("type") == "custom"}
    for_memory = [tool for tool in DEFINITIONS if memory and tool.name not in own]
    found = {tool.name: tool for tool in (*SANDBOX_TOOLS, *for_memory)}
    for entry in agent_tools:
        if entry.get("type") == _TOOLSET:
            found |= {tool.name: tool for tool in AGENT_TOOLS if _enabled(entry, tool.name)}
    for entry in agent_tools:
        if entry.get("type") == "custom":
            found.setdefault(entry["name"], _custom(entry))
    return list(found.values())


def _enabled(toolset: Mapping[str, Any], name: str) -> bool:
    own = next((config for config in toolset.get("configs") or [] if config.get("name") == name), {})
    general = toolset.get("default_config") or {}
    choice = own.get("enabled")
    return general.get("enabled", True) is not False if choice is None else bool(choice)


def _custom(entry: Mapping[str, Any]) -> ToolDefinition:
    schema = dict(entry.get("input_schema") or {"type": "object"})
    return ToolDefinition(name=entry["name"], description=entry.get("description") or "", input_schema=schema)
