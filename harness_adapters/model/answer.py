"""A model's answer on its way in: its blocks as they grow, and what the two wire formats have in common."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

from harness_adapters.contract import (
    AnswerBlock,
    AnswerText,
    PreviewStarted,
    TextDelta,
    ThinkingBlock,
    ToolUse,
    Usage,
    WireFormat,
)
from harness_adapters.model.errors import ModelError
from harness_adapters.model.sse import ServerSentEvent
from harness_adapters.toolset import INVALID_INPUT

StopReason = Literal["end_turn", "tool_use", "max_tokens", "refusal", "stop_sequence"]
Preview = PreviewStarted | TextDelta


@dataclass(frozen=True)
class Complete:
    """A whole answer; ``call_ids``: the model's own id of each tool use's event."""

    blocks: list[AnswerBlock]
    usage: Usage
    stop_reason: StopReason
    call_ids: Mapping[str, str] = field(default_factory=dict[str, str])


class Reader(Protocol):
    """Takes one answer's events in one wire format."""

    def feed(self, event: ServerSentEvent) -> list[Preview]:
        """Take an event and return what can be shown of it; raises `ModelError`."""
        ...

    def complete(self) -> Complete | None:
        """Return the answer if all of it has come."""
        ...


@dataclass
class Draft:
    """A block that is still growing; ``parts`` are of its text, its thinking or its arguments."""

    kind: Literal["text", "thinking", "tool_use"]
    event_id: str
    parts: list[str]
    name: str = ""
    signature: str = ""
    redacted: str | None = None
    origin: WireFormat = "anthropic"
    call_id: str | None = None

    @property
    def text(self) -> str:
        """What has come of it, fit for storing."""
        return storable("".join(self.parts))

    def grow(self, piece: str) -> list[Preview]:
        """Add a piece; text is shown as it comes."""
        self.parts.append(piece)
        if self.kind != "text" or not piece:
            return []
        return [TextDelta(event_id=self.event_id, text=storable(piece))]

    def block(self, *, cut: bool = False) -> AnswerBlock:
        """Return the finished block; ``cut``: the answer ended inside it."""
        if self.kind == "text":
            return AnswerText(event_id=self.event_id, text=self.text)
        if self.kind == "tool_use":
            value = {INVALID_INPUT: self.text} if cut else parsed_input("".join(self.parts))
            return ToolUse(event_id=self.event_id, name=storable(self.name), input=value)
        signature = self.signature or None
        return ThinkingBlock(
            event_id=self.event_id, text=self.text, signature=signature, redacted=self.redacted, origin=self.origin
        )


class Drafts:
    """The blocks of one answer in their order."""

    def __init__(self, new_id: Callable[[], str]):
        self._new_id = new_id
        self._drafts: list[Draft] = []

    def add(
        self,
        kind: Literal["text", "thinking", "tool_use"],
        *,
        name: str = "",
        redacted: str | None = None,
        call_id: str | None = None,
    ) -> tuple[Draft, list[Preview]]:
        """Begin a block; return it, and what can be shown of that."""
        draft = Draft(kind, self._new_id(), [], name=name, redacted=redacted, call_id=call_id)
        self._drafts.append(draft)
        if kind == "tool_use":
            return draft, []
        event_type = "agent.message" if kind == "text" else "agent.thinking"
        return draft, [PreviewStarted(event_id=draft.event_id, event_type=event_type)]

    def complete(self, usage: Usage, stop_reason: StopReason) -> Complete:
        """Return the finished answer."""
        call_ids = {draft.event_id: draft.call_id for draft in self._drafts if draft.call_id}
        return Complete(self._blocks(stop_reason), usage, stop_reason, call_ids)

    def _blocks(self, stop_reason: StopReason) -> list[AnswerBlock]:
        """Return the finished blocks.

        The arguments that a token limit cut off are never taken for whole, even where they happen to be JSON; a
        refused answer's tool calls are not to be acted on.
        """
        kept = [draft for draft in self._drafts if draft.kind != "text" or draft.text]
        if stop_reason == "refusal":
            kept = [draft for draft in kept if draft.kind != "tool_use"]
        last = len(kept) - 1
        return [draft.block(cut=stop_reason == "max_tokens" and n == last) for n, draft in enumerate(kept)]


def storable(text: str) -> str:
    """Return ``text`` with what no database takes (NUL, lone surrogates) replaced by U+FFFD."""
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def parsed_input(raw: str) -> dict[str, Any]:
    """Return a tool call's arguments; what is not a JSON object of storable text comes under `INVALID_INPUT`."""
    try:
        value: Any = json.loads(raw or "{}")
        if isinstance(value, dict) and _is_storable(value):
            return value
    except (ValueError, RecursionError):
        pass
    return {INVALID_INPUT: storable(raw)}


def decoded(data: str) -> dict[str, Any]:
    """Return an event's JSON object; raises `ModelError` for anything else."""
    try:
        value: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelError("interrupted_stream", f"the provider's stream is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError("interrupted_stream", "the provider's stream holds something other than JSON objects")
    return value


def _is_storable(value: Any) -> bool:
    match value:
        case str():
            return storable(value) == value
        case float():
            return math.isfinite(value)
        case list():
            return all(_is_storable(item) for item in cast("list[Any]", value))
        case dict():
            return all(_is_storable(part) for item in cast("dict[str, Any]", value).items() for part in item)
        case _:
            return True
