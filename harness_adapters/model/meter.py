"""What an answer used, read from its bytes as they pass, in every wire format."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from harness_adapters.contract import Usage, WireFormat

MAX_COUNT = 2**40
"""What is more is no count of tokens."""

_CHARS_PER_TOKEN = 4
_LEVELS = 6  # the arguments of a call are four below a piece of an answer

Json = dict[str, Any]
Ending = Literal["whole", "failed"]


class Meter:
    """Reads one answer; however its bytes are cut, what it tells at the end is the same.

    ``streamed``: server-sent events rather than one JSON object. ``counts_text``: the answer was not asked to say
    what it used, so that its text is counted.
    """

    def __init__(self, wire_format: WireFormat, *, streamed: bool, counts_text: bool = False):
        self._stream = _Lines() if streamed else None
        self._whole = bytearray()
        self._format = _FORMATS[wire_format]
        self._counts_text = counts_text
        self._counts: Json = {}
        self._chars = 0
        self.ending: Ending | None = None
        """Set with the last thing that the answer says: nothing that follows is part of it."""
        self._may_end_here = False

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if self._stream is None:
            self._whole += chunk
            return
        for data in self._stream.feed(chunk):
            if data == b"[DONE]":
                self.ending = self.ending or "whole"
            elif any(word in data for word in self._format.words):
                self._take(data)

    def finish(self) -> None:
        """Take the answer's end, at which all its bytes have come."""
        if self._stream is None:
            self._take(bytes(self._whole))
            self._whole.clear()
        elif self._may_end_here:
            self.ending = self.ending or "whole"

    @property
    def usage(self) -> Usage | None:
        """What the provider says that the whole answer used; None where it does not, or says nothing at all."""
        usage = self._format.usage(self._counts)
        return usage if usage.total_tokens else None

    @property
    def output_estimate(self) -> int:
        """About how many tokens its text has, where that is counted."""
        return -(-self._chars // _CHARS_PER_TOKEN)

    def _take(self, data: bytes) -> None:
        try:
            said: Any = json.loads(data)
        except (ValueError, RecursionError):
            return
        if isinstance(said, dict):
            self._format.read(self, cast(Json, said))

    def count(self, usage: object) -> None:
        """Keep what an object says of usage, over what was said before."""
        if isinstance(usage, dict):
            self._counts |= {name: value for name, value in cast(Json, usage).items() if value is not None}

    def end(self, ending: Ending) -> None:
        """Keep how the answer has ended."""
        self.ending = self.ending or ending

    def may_end_here(self) -> None:
        """Keep that nothing more need be said."""
        self._may_end_here = True

    def hear(self, said: object) -> None:
        """Count text."""
        if self._counts_text:
            self._chars += sum(len(text) for text in _texts(said))


class _Lines:
    """The data of server-sent events out of chunks of bytes; an event that the stream's end cuts off is none."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of each event that is complete now."""
        self._rest += chunk
        if b"\n" not in chunk:
            return []
        *lines, last = self._rest.split(b"\n")
        self._rest = bytearray(last)
        found: list[bytes] = []
        for each in lines:
            line = bytes(each).removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                found.append(b"\n".join(self._data).strip())
                self._data.clear()
        return found


def _anthropic(meter: Meter, said: Json) -> None:
    match said.get("type"):
        case "message_start":
            meter.count(_inner(said, "message").get("usage"))
        case "message_delta":
            meter.count(said.get("usage"))
        case "message_stop":
            meter.end("whole")
        case "message":
            meter.count(said.get("usage"))
            meter.end("whole")
        case "error":
            meter.end("failed")
        case _:
            pass


def _openai(meter: Meter, said: Json) -> None:
    if said.get("error"):
        meter.end("failed")
        return
    meter.count(said.get("usage"))
    for choice in _objects(said.get("choices")):
        meter.hear(choice.get("delta") or choice.get("message"))
        if choice.get("finish_reason"):
            meter.may_end_here()
    if said.get("object") == "chat.completion":
        meter.end("whole")


def _responses(meter: Meter, said: Json) -> None:
    match said.get("type"):
        case "response.completed" | "response.incomplete":
            meter.count(_inner(said, "response").get("usage"))
            meter.end("whole")
        case "response.failed" | "error":
            meter.end("failed")
        case None if said.get("status") in {"completed", "incomplete"}:
            meter.count(said.get("usage"))
            meter.end("whole")
        case _:
            pass


def _of_anthropic(counts: Json) -> Usage:
    return Usage(
        input_tokens=_number(counts, "input_tokens"),
        cache_read_input_tokens=_number(counts, "cache_read_input_tokens"),
        cache_creation_input_tokens=_number(counts, "cache_creation_input_tokens"),
        output_tokens=_number(counts, "output_tokens"),
        reasoning_tokens=_number(_inner(counts, "output_tokens_details"), "thinking_tokens"),
    )


def _of_openai(counts: Json) -> Usage:
    return _with_cache_in_input(counts, "prompt", "completion")


def _of_responses(counts: Json) -> Usage:
    return _with_cache_in_input(counts, "input", "output")


def _with_cache_in_input(counts: Json, asked: str, answered: str) -> Usage:
    details = _inner(counts, f"{asked}_tokens_details")
    read, written = _number(details, "cached_tokens"), _number(details, "cache_write_tokens")
    return Usage(
        input_tokens=max(0, _number(counts, f"{asked}_tokens") - read - written),
        cache_read_input_tokens=read,
        cache_creation_input_tokens=written,
        output_tokens=_number(counts, f"{answered}_tokens"),
        reasoning_tokens=_number(_inner(counts, f"{answered}_tokens_details"), "reasoning_tokens"),
    )


def _number(counts: Json, name: str) -> int:
    value = counts.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    return value if 0 <= value <= MAX_COUNT else 0


def _inner(said: Json, name: str) -> Json:
    value = said.get(name)
    return cast(Json, value) if isinstance(value, dict) else {}


def _objects(value: object) -> list[Json]:
    found = cast("list[object]", value) if isinstance(value, list) else []
    return [cast(Json, each) for each in found if isinstance(each, dict)]


def _texts(said: object, *, levels: int = _LEVELS) -> list[str]:
    if isinstance(said, str):
        return [said]
    if levels == 0:
        return []
    inner: Any = list(cast(Json, said).values()) if isinstance(said, dict) else said if isinstance(said, list) else []
    return [text for each in cast("list[object]", inner) for text in _texts(each, levels=levels - 1)]


@dataclass(frozen=True)
class _Format:
    """``words``: one of them is in whatever matters here; most of a stream is not worth parsing."""

    read: Callable[[Meter, Json], None]
    usage: Callable[[Json], Usage]
    words: tuple[bytes, ...]


_FORMATS: Mapping[WireFormat, _Format] = {
    "anthropic": _Format(_anthropic, _of_anthropic, (b'"usage"', b"message_stop", b"error")),
    "openai": _Format(_openai, _of_openai, (b"",)),
    "openai-responses": _Format(
        _responses,
        _of_responses,
        (b"response.completed", b"response.incomplete", b"response.failed", b"error"),
    ),
}
