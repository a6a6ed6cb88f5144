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

_PLACE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_PATH = re.compile(r"payload(?P<steps>(\.[A-Za-z_][\w-]*|\[\d{1,6}\]|\[\"[^\"\\]{1,128}\"\])*)", re.ASCII)
_STEP = re.compile(r"\.(?P<name>[A-Za-z_][\w-]*)|\[(?P<index>\d+)\]|\[\"(?P<key>[^\"]+)\"\]", re.ASCII)


class TemplateError(ValueError):
    """A template that is refused; its text says why."""


@dataclass(frozen=True)
class Template:
    """Literal text and paths, in order."""

    parts: tuple[str | tuple[str | int, ...], ...]

    def render(self, payload: JsonValue) -> str:
        """Return the text with the payload's values in it; what is not there is empty, what is no text is JSON."""
        text = "".join(part if isinstance(part, str) else _shown(_at(payload, part)) for part in self.parts)
        return text if len(text) <= LONGEST_MESSAGE else text[:LONGEST_MESSAGE] + _CUT


def parse(text: str) -> Template:
    """Return a template; raises `TemplateError`."""
    if len(text) > LONGEST_TEMPLATE:
        raise TemplateError(f"longer than {LONGEST_TEMPLATE} characters")
    if not text.strip():
        raise TemplateError("it says nothing")
    return Template(parts=tuple(_parts(text)))


def _parts(text: str) -> Iterator[str | tuple[str | int, ...]]:
    position = 0
    for match in _PLACE.finditer(text):
        yield _literal(text[position : match.start()])
        yield _path(match[1].strip())
        position = match.end()
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
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + _CUT


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")
