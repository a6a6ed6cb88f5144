"""JSON Schemas of blocks: what a client may give, and what a content has against it. Loaded only where one is."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import re2
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend
from referencing import Registry

from controlplane.memory.blocks import Document, document

_ELSEWHERE = {"patternProperties", "$ref", "$dynamicRef"}


def schema_problem(schema: Mapping[str, Any]) -> str | None:
    """Return why this is no schema for a block, or None."""
    if any(
        name in {"patternProperties", "$ref", "$dynamicRef"} and not _local(value) for name, value in _walk(schema)
    ):
        return "patternProperties, and references to anything outside of the schema, are not supported"
    try:
        Draft202012Validator.check_schema(schema)
        for name, value in _walk(schema):
            if name == "pattern":
                re2.compile(value)
    except SchemaError as error:
        return f"{_dotted(error.path) or 'the schema'}: {error.message[:200]}"
    except re2.error as error:
        return f"a pattern is none that RE2 takes: {error}"
    return None


def problems(content: str, schema: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the field and what is wrong with it, for everything in a content that its schema refuses."""
    validator = _Validator(schema, registry=Registry())
    errors = cast("list[ValidationError]", [*validator.iter_errors(document(content))])
    errors.sort(key=_at)
    return [(_dotted(error.path), _said(error)) for error in errors[:5]]


def _at(error: ValidationError) -> str:
    return _dotted(error.path)


def _said(error: ValidationError) -> str:
    if error.validator in {"required", "additionalProperties", "type", "enum", "maxLength", "minLength", "pattern"}:
        return str(error.message)[:300]
    return f"does not satisfy {error.validator!r}"


def _local(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("#")


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    waiting = [value]
    while waiting:
        here = waiting.pop()
        if isinstance(here, dict):
            for name, inner in cast(Document, here).items():
                yield name, inner
                waiting.append(inner)
        elif isinstance(here, list):
            waiting += cast("list[Any]", here)


def _dotted(path: Any) -> str:
    return ".".join(str(part) for part in path)


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not re2.search(pattern, instance):
        yield ValidationError(f"does not match {pattern!r}")


_Validator = extend(Draft202012Validator, {"pattern": _pattern})
"""Patterns are RE2's: one that a client wrote cannot keep a process busy."""
