"""The five tools for a session that has memory stores; they run beside Postgres, in no sandbox."""

from collections.abc import Mapping
from typing import Any

from harness_adapters.contract import ToolDefinition

READ = "memory_read"
UPDATE = "memory_update"
SEARCH = "search_memory"
SAVE = "save_memory"
FORGET = "memory_forget"

_MOST_CHARACTERS = 102_400


def _text(description: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "description": description, **more}


_STORE = _text("The store's name; may be left out if the session has one store.", minLength=1, maxLength=200)
_PATH = _text("The memory's path in its store, such as /people/ada.md.", minLength=1, maxLength=1024)
_VERSION = {
    "type": "integer",
    "description": "The version that you have read. If the memory has another one by now, nothing is changed.",
    "minimum": 0,
    "maximum": 2**31 - 1,
}
_TYPE = _text("A type, which makes it a block that every turn begins with.", minLength=1, maxLength=64)


def _tool(name: str, description: str, required: list[str], **properties: Any) -> ToolDefinition:
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return ToolDefinition(name=name, description=description, input_schema=schema)


DEFINITIONS = (
    _tool(
        READ,
        "Read a memory with its version, or, for a path that ends in '/', list what is below it.",
        ["path"],
        path={**_PATH, "description": "A memory's path, or a folder's with '/' at its end; '/' lists everything."},
        store=_STORE,
    ),
    _tool(
        UPDATE,
        "Change fields of a block or another memory by a JSON Merge Patch: fields that the patch has are set, those"
        " that it has as null are removed, all others stay. A memory that is plain text is the one field 'text'."
        " With version 0 the memory is made.",
        ["path", "patch", "version"],
        path=_PATH,
        patch={"type": "object", "description": "The JSON Merge Patch."},
        version=_VERSION,
        type={**_TYPE, "description": "With version 0: the type of the block to be made."},
        store=_STORE,
    ),
    _tool(
        SEARCH,
        "Search what is kept, by meaning and by words. Each hit says why it was found.",
        ["query"],
        query=_text("What you want to know, in a sentence or a few words.", minLength=1, maxLength=2000),
        limit={"type": "integer", "description": "How many at most; 5 if left out.", "minimum": 1, "maximum": 50},
        types={"type": "array", "description": "Only blocks of these types.", "items": {"type": "string"}},
        path_prefix=_text("Only paths that begin so, such as /projects/.", minLength=1, maxLength=1024),
        as_of=_text("What was kept at this time (RFC 3339), instead of now.", minLength=4, maxLength=40),
        store={**_STORE, "description": "Only in this store; in all of the session's if left out."},
    ),
    _tool(
        SAVE,
        "Keep something for later sessions: one fact, decision or preference a memory, understandable by itself, with"
        " names and dates. Secrets are taken out. To replace what a path holds, give the version that you have read.",
        ["path", "content"],
        path=_PATH,
        content=_text("What is to be kept.", maxLength=_MOST_CHARACTERS),
        version=_VERSION,
        type=_TYPE,
        supersedes=_text(
            "The path of a memory that holds no longer because of this one.", minLength=1, maxLength=1024
        ),
        expires_in_days={
            "type": "number",
            "description": "After so many days it is forgotten by itself.",
            "minimum": 0.01,
            "maximum": 36500,
        },
        store=_STORE,
    ),
    _tool(
        FORGET,
        "Remove a memory. People can still see its history.",
        ["path"],
        path=_PATH,
        version=_VERSION,
        store=_STORE,
    ),
)

BY_NAME: Mapping[str, ToolDefinition] = {tool.name: tool for tool in DEFINITIONS}
