"""What a trigger makes of its payload: text with places in it, each filled with a value of the payload.

There is nothing but paths into the payload: no expression, no loop, no call. So a template cannot reach anything
else, and what it takes to fill one is bounded by its length.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import JsonValue

LONGEST_TEMPLATE = 8192
LONGEST_MESSAGE = 64 * 1024
_LONGEST_VALUE = 16 * 1024
_CUT = " … (cut)"

_PATH = re.compile(r"payload(?P<steps>(\.[A-Za-z_][\w-]*|\[\d{1,6}\]|\[\"[^\"\\]{1,128}\"\])*)", re.ASCII)
_STEP = re.compile(r"\.(?P<name>[A-Za-z_][\w-]*)|\[(?P<index>\d+)\]|\[\"(?P<key>[^\"]+)\"\]", re.ASCII)


class TemplateError(ValueError):
    """A template that is refused; its text says why."""


@dataclass(frozen=True)
class Template:
    """Literal text and paths, in order."""

    parts: tuple[str | tuple[str | int, ...], ...]

    def render(self, payload: JsonValue) -> str:
        """Return the text with the payload's values in it; what is not there is empty, what is no text is JSON.

        No more of a value is looked at than is shown, and nothing once the text is full: somebody else wrote both the
        payload and, perhaps, the template, and meanwhile nothing else is answered.
        """
        shown: list[str] = []
        length = 0
        for part in self.parts:
            shown.append(part if isinstance(part, str) else _shown(_at(payload, part)))
            length += len(shown[-1])
            if length > LONGEST_MESSAGE:
                return "".join(shown)[:LONGEST_MESSAGE] + _CUT
        return "".join(shown)


def parse(text: str) -> Template:
    """Return a template; raises `TemplateError`."""
    if len(text) > LONGEST_TEMPLATE:
        raise TemplateError(f"longer than {LONGEST_TEMPLATE} characters")
    if not text.strip():
        raise TemplateError("it says nothing")
    return Template(parts=tuple(_parts(text)))


def _parts(text: str) -> Iterator[str | tuple[str | int, ...]]:
    position = 0
    while (begins := text.find("{{", position)) >= 0 and (ends := text.find("}}", begins)) >= 0:
        yield _literal(text[position:begins])
        yield _path(text[begins + 2 : ends].strip())
        position = ends + 2
    yield _literal(text[position:])


def _literal(text: str) -> str:
    if "{{" in text or "}}" in text:
        raise TemplateError("a place '{{ … }}' is not closed, or not opened")
    if "{%" in text or "{#" in text:
        raise TemplateError("there are no statements or comments, only places such as {{ payload.issue.title }}")
    return text


def _path(text: str) -> tuple[str | int, ...]:
    match = _PATH.fullmatch(text)
    if match is None:
        raise TemplateError(
            f"{_quoted(text)} is no path into the payload, such as payload.issue.title or payload.commits[0]"
        )
    steps: list[str | int] = []
    for step in _STEP.finditer(match["steps"]):
        name = step["name"] or step["key"]
        if name is not None and name.startswith("__"):
            raise TemplateError(f"{_quoted(text)} reaches outside the payload")
        steps.append(name if name is not None else int(step["index"]))
    return tuple(steps)


def _at(payload: JsonValue, path: tuple[str | int, ...]) -> JsonValue:
    value = payload
    for step in path:
        if isinstance(value, dict) and isinstance(step, str):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return None
    return value


def _shown(value: JsonValue) -> str:
    if value is None:
        return ""
    text = value[: _LONGEST_VALUE + 1] if isinstance(value, str) else _json(value)
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + _CUT


def _json(value: JsonValue) -> str:
    """Return a value as JSON, or the beginning of it if it is longer than what is shown."""
    written: list[str] = []
    length = 0
    for piece in _pieces(value):
        written.append(piece)
        length += len(piece)
        if length > _LONGEST_VALUE:
            break
    return "".join(written)


def _pieces(value: JsonValue) -> Iterator[str]:
    """Yield JSON as `json.dumps` writes it, bit by bit, and however deep it goes."""
    inside: list[tuple[Iterator[tuple[str, JsonValue]], str]] = []
    while True:
        if isinstance(value, dict):
            yield "{"
            inside.append((((f"{_scalar(key)}: ", each) for key, each in value.items()), "}"))
        elif isinstance(value, list):
            yield "["
            inside.append(((("", each) for each in value), "]"))
        else:
            yield _scalar(value)
        comma = "" if isinstance(value, dict | list) else ", "
        following: tuple[str, JsonValue] | None = None
        while inside and (following := next(inside[-1][0], None)) is None:
            yield inside.pop()[1]
            comma = ", "
        if following is None:
            return
        label, value = following
        yield comma + label


def _scalar(value: JsonValue) -> str:
    # Of a long text, as much as is shown: its quote would stand behind that.
    return json.dumps(value[: _LONGEST_VALUE + 1] if isinstance(value, str) else value, ensure_ascii=False)


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")
