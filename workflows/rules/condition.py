"""A condition on the input of a tool call; pure."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from workflows.rules.checked import Glob, JsonPath, Regex
from workflows.rules.commands import CommandPattern, all_fit, any_fits
from workflows.rules.path import found
from workflows.rules.pattern import MAX_VALUE_CHARS, PatternError, fits_regex
from workflows.rules.shell import ShellError, read
from workflows.rules.value import certainly_fits, possibly_fits

MAX_PATTERNS = 64

COMMAND_PATH = "$.command"
_STDIN_PATH = "$.stdin"

_KINDS = ("glob", "regex", "range", "equals", "present", "command")


class UnevaluableError(Exception):
    """Whether the condition holds cannot be said; the message says why."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class Range(_Frozen):
    """Numbers from ``min`` to ``max``, both included; an omitted end is open."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _is_a_range(self) -> "Range":
        if self.min is None and self.max is None:
            raise ValueError("give 'min', 'max' or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("'min' is above 'max': no number is in the range")
        return self


class Condition(_Frozen):
    """One test of what a JSON path finds in the input of a call."""

    path: JsonPath = Field(
        default=COMMAND_PATH, description="JSON path (RFC 9535, no filters) into the tool's input."
    )
    glob: Glob | None = Field(default=None, description="`*` fits any characters, `/` too; the whole value must fit.")
    regex: Regex | None = Field(default=None, description="RE2 syntax; the whole value must fit.")
    range: Range | None = Field(default=None, description="For numbers.")
    equals: JsonValue = Field(default=None, description="Any JSON value; `$` is the whole input.")
    present: bool | None = Field(default=None, description="Whether the path finds anything.")
    command: list[CommandPattern] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_PATTERNS,
        description="For a shell command line: for `allow` every simple command in it must be one of these, for `ask`"
        " and `deny` one is enough.",
    )

    @model_validator(mode="after")
    def _tests_one_thing(self) -> "Condition":
        given = [kind for kind in _KINDS if kind in self.model_fields_set]
        if len(given) != 1 or (given != ["equals"] and getattr(self, given[0]) is None):
            raise ValueError(f"give exactly one of {', '.join(_KINDS)}")
        if given != ["command"] and "path" not in self.model_fields_set:
            raise ValueError("'path' is missing")
        return self


def misfit(condition: Condition, value: Mapping[str, Any], *, allowing: bool) -> str | None:
    """Return None if the condition holds for a tool's input, else why it does not; raises `UnevaluableError`.

    ``allowing``: it is a condition of a rule that allows, so everything it looks at must fit; else one thing is
    enough. A path that finds nothing is no fit.
    """
    values = found(condition.path, value)
    if condition.present is not None:
        return None if bool(values) == condition.present else f"{condition.path} is {'' if values else 'not '}there"
    if not values:
        return None if _types_it(condition, value, allowing=allowing) else f"{condition.path} is not there"
    try:
        reasons = [_misfit(condition, each, allowing=allowing) for each in values]
    except (PatternError, ShellError) as error:
        raise UnevaluableError(f"of {condition.path}: {error}") from error
    unfit = [reason for reason in reasons if reason is not None]
    if not unfit or (not allowing and len(unfit) < len(reasons)) or _types_it(condition, value, allowing=allowing):
        return None
    return unfit[0]


def _misfit(condition: Condition, value: Any, *, allowing: bool) -> str | None:
    if condition.command is not None:
        return _command_misfit(condition, _text(condition, value), allowing=allowing)
    if condition.glob is not None:
        text = _text(condition, value)
        fits = (certainly_fits if allowing else possibly_fits)(condition.glob, text)
    elif condition.regex is not None:
        fits = fits_regex(condition.regex, _text(condition, value))
    elif condition.range is not None:
        fits = _in_range(condition.range, _number(condition, value))
    else:
        fits = _same(condition.equals, value)
    return None if fits else f"{condition.path} does not fit"


def _command_misfit(condition: Condition, text: str, *, allowing: bool) -> str | None:
    patterns = condition.command or []
    if len(text) > MAX_VALUE_CHARS:
        raise ShellError(f"it has {len(text)} characters, more than the {MAX_VALUE_CHARS} that are looked at")
    script = read(text)
    if allowing:
        return all_fit(script, patterns)
    fits = any_fits(script, patterns)
    if fits is None:
        raise ShellError("what it runs is known to the shell only; spell out its programs and their arguments")
    return None if fits else f"no command in {condition.path} fits"


def _types_it(condition: Condition, value: Mapping[str, Any], *, allowing: bool) -> bool:
    """Say whether a command is typed into a shell that runs: what is given on standard input counts if it fits."""
    if allowing or condition.command is None or condition.path != COMMAND_PATH:
        return False
    typed = [text for text in found(_STDIN_PATH, value) if isinstance(text, str) and len(text) <= MAX_VALUE_CHARS]
    try:
        return any(any_fits(read(text), condition.command) is True for text in typed)
    except ShellError:
        return False


def _text(condition: Condition, value: Any) -> str:
    if not isinstance(value, str):
        raise UnevaluableError(f"{condition.path} is not a text")
    return value


def _number(condition: Condition, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnevaluableError(f"{condition.path} is not a number")
    return value


def _in_range(wanted: Range, number: float) -> bool:
    return (wanted.min is None or number >= wanted.min) and (wanted.max is None or number <= wanted.max)


def _same(one: Any, other: Any) -> bool:
    """Compare JSON values: 1 and 1.0 are the same, 1 and true are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        left, right = cast("Sequence[Any]", one), cast("Sequence[Any]", other)
        return len(left) == len(right) and all(map(_same, left, right))
    return one == other and (type(one) is type(other) or (_is_number(one) and _is_number(other)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)
