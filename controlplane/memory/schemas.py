"""JSON Schemas of blocks: what a client may give, and what a content has against it. Loaded only where one is."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import re2
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from controlplane.memory.blocks import Document, document

MAX_STEPS = 10_000
"""Keywords that are looked at for one content: a third of a second at most. References can make a small schema take
hours."""

MAX_BYTES = 16_384
"""Of a schema as JSON: checking one takes time by its size, and whoever checks it does nothing else."""

_TO_ONE = frozenset(
    [
        "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not", "propertyNames", "then",
        "unevaluatedItems", "unevaluatedProperties",
    ]
)  # fmt: skip
_TO_LIST = frozenset(["allOf", "anyOf", "oneOf", "prefixItems"])
_TO_MAP = frozenset(["$defs", "definitions", "dependentSchemas", "properties"])
"""Keywords with schemas in them; in all others a name such as `pattern` is data."""
_UNSUPPORTED = ("patternProperties", "$dynamicRef", "$recursiveRef", "$id")

_Rule = Callable[..., Iterator[ValidationError] | None]


class _StoppedError(Exception):
    """A content takes more steps than `MAX_STEPS`."""


def schema_problem(schema: Mapping[str, Any]) -> str | None:
    """Return why this is no schema for a block, or None."""
    try:
        return _first_problem(schema)
    except SchemaError as error:
        return f"{_dotted(error.path) or 'the schema'}: {error.message[:200]}"
    except re2.error as error:
        return f"a pattern is none that RE2 takes: {error}"
    except Unresolvable as error:
        return f"it has nothing at {error.ref!r}"
    except RecursionError:
        return "it is nested too deeply"


def _first_problem(schema: Mapping[str, Any]) -> str | None:
    if (size := len(json.dumps(schema))) > MAX_BYTES:
        return f"it has {size:,} bytes; a schema has at most {MAX_BYTES:,}"
    Draft202012Validator.check_schema(schema)
    resolver = Registry().with_resource("", DRAFT202012.create_resource(schema)).resolver()
    for each in _schemas(schema):
        if problem := _unsupported(each):
            return problem
        if "$ref" in each:
            resolver.lookup(each["$ref"])
    return None


def _unsupported(schema: Document) -> str | None:
    if found := [name for name in _UNSUPPORTED if name in schema]:
        return f"{found[0]} is not supported"
    if not schema.get("$ref", "#").startswith("#"):
        return "references to anything outside of the schema are not supported"
    if "pattern" in schema:
        re2.compile(schema["pattern"])
    return None


def problems(content: str, schema: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the field and what is wrong with it, for everything in a content that its schema refuses."""
    validator = _validator()(schema, registry=Registry())
    try:
        errors = cast("list[ValidationError]", [*validator.iter_errors(document(content))])
    except _StoppedError:
        return [("", f"takes more than {MAX_STEPS:,} steps to check; give the block a simpler schema")]
    except RecursionError:
        return [("", "cannot be checked: the schema refers to itself without an end")]
    except (Unresolvable, re2.error, ArithmeticError) as error:
        return [("", f"cannot be checked: {type(error).__name__}")]
    errors.sort(key=_at)
    return [(_dotted(error.path), _said(error)) for error in errors[:5]]


def _at(error: ValidationError) -> str:
    return _dotted(error.path)


def _said(error: ValidationError) -> str:
    """Return what is wrong without what stands there: that may be a secret."""
    wanted: Any = error.validator_value
    match error.validator:
        case "required" | "additionalProperties" | "pattern" | "uniqueItems":
            said = str(error.message)
        case "type":
            said = f"is not of type {wanted!r}"
        case "enum":
            said = f"is none of {wanted!r}"
        case "maxLength":
            said = f"is longer than {wanted} characters"
        case "minLength":
            said = f"is shorter than {wanted} characters"
        case other:
            said = f"does not satisfy {other!r}"
    return said[:300]


def _schemas(schema: Any) -> Iterator[Document]:
    """Yield a schema and those in it; what stands anywhere else is data."""
    waiting = [schema]
    while waiting:
        here = waiting.pop()
        if not isinstance(here, dict):
            continue
        known = cast(Document, here)
        yield known
        for name, inner in known.items():
            if name in _TO_ONE:
                waiting.append(inner)
            elif name in _TO_LIST:
                waiting += inner
            elif name in _TO_MAP:
                waiting += inner.values()


def _dotted(path: Any) -> str:
    return ".".join(str(part) for part in path)


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[ValidationError]:
    """Patterns are RE2's: one that a client wrote cannot keep a process busy."""
    if isinstance(instance, str) and not re2.search(pattern, instance):
        yield ValidationError(f"does not match {pattern!r}")


def _unique(_: Any, wanted: bool, instance: Any, __: Any) -> Iterator[ValidationError]:
    """In time that grows with the items, and not with their square."""
    if wanted and isinstance(instance, list):
        items = cast("list[Any]", instance)
        if len({json.dumps(_plain(item), sort_keys=True) for item in items}) < len(items):
            yield ValidationError("has the same item twice")


def _plain(value: Any) -> Any:
    """Return a value in which numbers that JSON Schema takes for the same are."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(each) for each in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in cast(Document, value).items()}
    return value


def _validator() -> type[Draft202012Validator]:
    """Return a validator for one content, which counts its steps."""
    steps = 0

    def counted(rule: _Rule) -> _Rule:
        def count(*given: Any) -> Iterator[ValidationError] | None:
            nonlocal steps
            steps += 1
            if steps > MAX_STEPS:
                raise _StoppedError
            return rule(*given)

        return count

    rules: dict[str, _Rule] = {**Draft202012Validator.VALIDATORS, "pattern": _pattern, "uniqueItems": _unique}
    return extend(Draft202012Validator, {name: counted(rule) for name, rule in rules.items()})
