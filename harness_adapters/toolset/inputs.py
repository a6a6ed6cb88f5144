"""Whether a call's input fits its tool, said in a sentence that the model can act on."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from harness_adapters.contract import ToolDefinition
from harness_adapters.toolset.definitions import BUILTIN, EXECUTE
from harness_adapters.toolset.memory import BY_NAME

INVALID_INPUT = "__invalid_json__"
"""The one key of the input of a call whose arguments could not be read; its value is what the model wrote."""

_MAY_HOLD_NUL = frozenset(["content", "stdin"])
_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
}


def check(name: str, value: Mapping[str, Any], *, is_custom: bool = False) -> str | None:
    """Return what is wrong with ``value`` as the input of the tool ``name``, or None.

    The input of a custom tool, whatever its name, is for its own maker to judge: only unreadable arguments are
    refused here.
    """
    if INVALID_INPUT in value:
        return (
            f"The arguments of {name} were not a complete, valid JSON object (an answer that reaches its token limit"
            " cuts them off), so nothing was run. Call it again with valid JSON, in smaller pieces if it was long."
        )
    tool = BUILTIN.get(name) or BY_NAME.get(name)
    if tool is None or is_custom:
        return None
    problem = next(_problems(tool.input_schema, dict(value), ""), None) or _extra_rules(name, value)
    return None if problem is None else f"{name}: {problem}; nothing was run."


def is_custom(tool: ToolDefinition) -> bool:
    """Say whether a tool that a model is shown is none of ours, whatever its name."""
    return tool != (BUILTIN.get(tool.name) or BY_NAME.get(tool.name))


def _problems(schema: Mapping[str, Any], value: Any, path: str) -> Iterator[str]:
    expected = schema.get("type")
    if expected and not _is(value, expected):
        yield f"{path or 'the input'} must be of type {expected}, not {_type_name(value)}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path} must be one of {', '.join(schema['enum'])}"
    if isinstance(value, str):
        yield from _size_problems(len(value), schema, path=path, kind="Length", unit="characters")
        if "\0" in value and path not in _MAY_HOLD_NUL:
            yield f"{path} must not hold NUL characters"
    elif isinstance(value, list):
        items = cast("list[Any]", value)
        yield from _size_problems(len(items), schema, path=path, kind="Items", unit="items")
        for index, item in enumerate(items):
            yield from _problems(schema.get("items", {}), item, f"{path}[{index}]")
    elif isinstance(value, dict):
        yield from _object_problems(schema, cast("dict[str, Any]", value), path)
    elif isinstance(value, int | float):
        yield from _range_problems(value, schema, path)


def _object_problems(schema: Mapping[str, Any], value: Mapping[str, Any], path: str) -> Iterator[str]:
    properties: Mapping[str, Any] = schema.get("properties", {})
    prefix = f"{path}." if path else ""
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{prefix}{name} is missing"
    for name, item in value.items():
        if name in properties:
            yield from _problems(properties[name], item, prefix + name)
        elif schema.get("additionalProperties") is False:
            yield f"{prefix}{name} is unknown; the fields are {', '.join(properties)}"


def _size_problems(size: int, schema: Mapping[str, Any], *, path: str, kind: str, unit: str) -> Iterator[str]:
    if size < schema.get(f"min{kind}", 0):
        yield f"{path} has {size} {unit}, at least {schema[f'min{kind}']} are needed"
    if size > schema.get(f"max{kind}", size):
        yield f"{path} has {size} {unit}, at most {schema[f'max{kind}']} are allowed"


def _range_problems(value: float, schema: Mapping[str, Any], path: str) -> Iterator[str]:
    if value < schema.get("minimum", value):
        yield f"{path} is {value}, the least is {schema['minimum']}"
    if value > schema.get("maximum", value):
        yield f"{path} is {value}, the most is {schema['maximum']}"


def _extra_rules(name: str, value: Mapping[str, Any]) -> str | None:
    if name == EXECUTE:
        return _execute_rule(value)
    if name == "bash" and "command" not in value and value.get("restart") is not True:
        return "command is missing"
    if name == "edit" and value["old_string"] == value["new_string"]:
        return "new_string is the same as old_string"
    if name == "read" and "view_range" in value:
        return _range_rule(value["view_range"])
    return None


_TO_START = ("cwd", "timeout_seconds", "yield_after_seconds")
_TO_GO_ON = ("cursor", "wait_seconds", "signal")


def _execute_rule(value: Mapping[str, Any]) -> str | None:
    if ("command" in value) == ("exec_id" in value):
        return "give either command, to start one, or exec_id, to go on with one that was started before"
    other, fields = ("exec_id", _TO_GO_ON) if "command" in value else ("command", _TO_START)
    if wrong := [field for field in fields if field in value]:
        return f"{wrong[0]} goes with {other} only"
    if "command" in value and "close_stdin" in value and "yield_after_seconds" not in value:
        return "close_stdin goes with exec_id or yield_after_seconds: the standard input of other commands has an end"
    return None


def _range_rule(lines: Sequence[int]) -> str | None:
    first, last = lines
    if first < 1:
        return f"view_range begins at line {first}, the first line is 1"
    return f"view_range ends at line {last}, before it begins" if 0 < last < first else None


def _is(value: Any, expected: str) -> bool:
    if isinstance(value, bool):
        return expected == "boolean"
    if isinstance(value, float) and math.isnan(value):
        return False
    return isinstance(value, _TYPES[expected])


def _type_name(value: Any) -> str:
    if value is None:
        return "null"
    return next((name for name in _TYPES if _is(value, name)), "number")
