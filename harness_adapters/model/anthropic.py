"""Anthropic Messages: from a history to a request, and from a stream to an answer."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any

from harness_adapters.contract import (
    AnswerBlock,
    AnswerText,
    HarnessSpec,
    HistoryItem,
    MediaBlock,
    TextBlock,
    ThinkingBlock,
    ToolOutcome,
    Usage,
    UserInput,
)
from harness_adapters.model.answer import Complete, Draft, Drafts, Preview, StopReason, decoded
from harness_adapters.model.errors import from_stream
from harness_adapters.model.rounds import AnswerRound, described, rounds
from harness_adapters.model.sse import ServerSentEvent

Json = dict[str, Any]

PATH = "/v1/messages"
HEADERS = {"anthropic-version": "2023-06-01"}

_CACHED = {"cache_control": {"type": "ephemeral"}}
_EMPTY = "(empty)"
_STOP_REASONS: dict[str, StopReason] = {
    "end_turn": "end_turn",
    "tool_use": "tool_use",
    "max_tokens": "max_tokens",
    "model_context_window_exceeded": "max_tokens",
    "refusal": "refusal",
    "stop_sequence": "stop_sequence",
}


def request(spec: HarnessSpec, history: Sequence[HistoryItem]) -> Json:
    """Return the body of a streaming request; system, tools and the last message are marked for the cache."""
    body: Json = {"model": spec.model, "max_tokens": spec.max_tokens, "stream": True, "messages": _messages(history)}
    if spec.system:
        body["system"] = [{"type": "text", "text": spec.system, **_CACHED}]
    if spec.tools:
        tools = [{"name": t.name, "description": t.description, "input_schema": t.input_schema} for t in spec.tools]
        body["tools"] = [*tools[:-1], {**tools[-1], **_CACHED}]
    if spec.effort:
        body["output_config"] = {"effort": spec.effort}
    return body


def _messages(history: Sequence[HistoryItem]) -> list[Json]:
    messages: list[Json] = []
    for item in rounds(history):
        if isinstance(item, AnswerRound):
            answered = [_answered(block) for block in item.answer.blocks if _goes_back(block)]
            messages.append({"role": "assistant", "content": answered or [{"type": "text", "text": _EMPTY}]})
            _add_user(messages, [_result(outcome) for outcome in item.outcomes])
        else:
            _add_user(messages, said(item))
    if messages and messages[-1]["role"] == "user":
        messages[-1]["content"][-1] |= _CACHED
    return messages


def _add_user(messages: list[Json], blocks: list[Json]) -> None:
    if not blocks:
        return
    if messages and messages[-1]["role"] == "user":
        messages[-1]["content"] += blocks
    else:
        messages.append({"role": "user", "content": blocks})


def _goes_back(block: AnswerBlock) -> bool:
    """A thought that nobody signed, or somebody else, is refused by the API."""
    if not isinstance(block, ThinkingBlock):
        return True
    return block.origin == "anthropic" and bool(block.signature or block.redacted)


def _answered(block: AnswerBlock) -> Json:
    if isinstance(block, AnswerText):
        return {"type": "text", "text": block.text}
    if isinstance(block, ThinkingBlock):
        if block.redacted is not None:
            return {"type": "redacted_thinking", "data": block.redacted}
        return {"type": "thinking", "thinking": block.text, "signature": block.signature or ""}
    return {"type": "tool_use", "id": block.event_id, "name": block.name, "input": block.input}


def _result(outcome: ToolOutcome) -> Json:
    content = _content(outcome.content)
    return {
        "type": "tool_result",
        "tool_use_id": outcome.tool_use_id,
        "content": content or [{"type": "text", "text": _EMPTY}],
        "is_error": outcome.is_error,
    }


def said(item: UserInput) -> list[Json]:
    """Return what a user said as content blocks."""
    blocks = _content(item.content) or [{"type": "text", "text": _EMPTY}]
    if item.role == "user":
        return blocks
    return [{"type": "text", "text": "<system-note>"}, *blocks, {"type": "text", "text": "</system-note>"}]


def _content(blocks: Sequence[TextBlock | MediaBlock]) -> list[Json]:
    return [_media(b) if isinstance(b, MediaBlock) else {"type": "text", "text": b.text} for b in blocks if _says(b)]


def _says(block: TextBlock | MediaBlock) -> bool:
    return isinstance(block, MediaBlock) or bool(block.text)


def _media(block: MediaBlock) -> Json:
    source = _source(block)
    if source is None:
        return {"type": "text", "text": described(block)}
    found: Json = {"type": block.type, "source": source}
    if block.type == "document":
        found |= {name: value for name in ("title", "context") if (value := getattr(block, name))}
    return found


def _source(block: MediaBlock) -> Json | None:
    source = block.source
    media_type = str(source.get("media_type") or "text/plain")
    match source.get("type"):
        case "url":
            return {"type": "url", "url": source.get("url")}
        case "text" if block.type == "document":
            return {"type": "text", "media_type": "text/plain", "data": source.get("data")}
        case "base64" if block.type == "document" and media_type.startswith("text/"):
            text = _decoded_text(str(source.get("data")))
            return None if text is None else {"type": "text", "media_type": "text/plain", "data": text}
        case "base64":
            return {"type": "base64", "media_type": media_type, "data": source.get("data")}
        case _:
            return None


def _decoded_text(data: str) -> str | None:
    try:
        return base64.b64decode(data).decode(errors="replace")
    except binascii.Error:
        return None


class AnthropicReader:
    """Reads the events of one Messages stream."""

    def __init__(self, new_id: Callable[[], str]):
        self._drafts = Drafts(new_id)
        self._by_index: dict[int, Draft] = {}
        self._usage: dict[str, int] = {}
        self._stop_reason: StopReason = "end_turn"
        self._stopped = False

    def feed(self, event: ServerSentEvent) -> list[Preview]:
        """Take an event; kinds that are not known yet are passed over, as the format asks."""
        data = decoded(event.data)
        match data.get("type"):
            case "message_start":
                self._count(data.get("message", {}).get("usage"))
            case "content_block_start":
                return self._begin(data["index"], data["content_block"])
            case "content_block_delta" if data["index"] in self._by_index:
                return self._grow(self._by_index[data["index"]], data["delta"])
            case "message_delta":
                self._count(data.get("usage"))
                self._stop_reason = _STOP_REASONS.get(data["delta"].get("stop_reason"), "end_turn")
            case "message_stop":
                self._stopped = True
            case "error":
                raise from_stream(data.get("error") or {})
            case _:
                pass
        return []

    def complete(self) -> Complete | None:
        """Return the answer after ``message_stop``."""
        if not self._stopped:
            return None
        known = {name: count for name, count in self._usage.items() if name in Usage.model_fields}
        return self._drafts.complete(Usage(**known), self._stop_reason)

    def _begin(self, index: int, block: Json) -> list[Preview]:
        match block["type"]:
            case "text":
                draft, shown = self._drafts.add("text")
                shown += draft.grow(block.get("text", ""))
            case "thinking":
                draft, shown = self._drafts.add("thinking")
                draft.grow(block.get("thinking", ""))
            case "redacted_thinking":
                draft, shown = self._drafts.add("thinking", redacted=block["data"])
            case "tool_use":
                draft, shown = self._drafts.add("tool_use", name=block["name"], call_id=block.get("id"))
            case _:
                return []
        self._by_index[index] = draft
        return shown

    def _grow(self, draft: Draft, delta: Json) -> list[Preview]:
        match delta.get("type"):
            case "text_delta":
                return draft.grow(delta["text"])
            case "thinking_delta":
                return draft.grow(delta["thinking"])
            case "input_json_delta":
                return draft.grow(delta["partial_json"])
            case "signature_delta":
                draft.signature += delta["signature"]
            case _:
                pass
        return []

    def _count(self, usage: Json | None) -> None:
        self._usage |= {name: count for name, count in (usage or {}).items() if isinstance(count, int)}
