"""OpenAI Chat Completions: from a history to a request, and from a stream to an answer."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from harness_adapters.contract import (
    Answer,
    AnswerText,
    HarnessSpec,
    HistoryItem,
    MediaBlock,
    TextBlock,
    ToolOutcome,
    ToolUse,
    Usage,
    UserInput,
)
from harness_adapters.model.answer import Complete, Draft, Drafts, Preview, StopReason, decoded
from harness_adapters.model.errors import from_stream
from harness_adapters.model.rounds import AnswerRound, described, plain, rounds, uses
from harness_adapters.model.sse import ServerSentEvent
from harness_adapters.toolset import INVALID_INPUT

Json = dict[str, Any]

PATH = "/v1/chat/completions"
HEADERS: dict[str, str] = {}

_STOP_REASONS: dict[str, StopReason] = {
    "stop": "end_turn",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "length": "max_tokens",
    "content_filter": "refusal",
}
_EFFORTS = {"max": "xhigh"}


def request(spec: HarnessSpec, history: Sequence[HistoryItem]) -> Json:
    """Return the body of a streaming request; thinking is left out, this format has no place for it."""
    system = [{"role": "system", "content": spec.system}] if spec.system else []
    body: Json = {
        "model": spec.model,
        "max_completion_tokens": spec.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [*system, *(message for item in rounds(history) for message in _messages(item))],
    }
    if spec.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.input_schema},
            }
            for tool in spec.tools
        ]
    if spec.effort:
        body["reasoning_effort"] = _EFFORTS.get(spec.effort, spec.effort)
    return body


def _messages(item: UserInput | AnswerRound) -> list[Json]:
    if isinstance(item, UserInput):
        if item.role == "system":
            return [{"role": "system", "content": "\n".join(plain(block) for block in item.content)}]
        return [{"role": "user", "content": _said(item)}]
    images = [b for o in item.outcomes for b in o.content if isinstance(b, MediaBlock) and b.type == "image"]
    after = [{"role": "user", "content": [_part(image) for image in images]}] if images else []
    return [_answered(item.answer), *(_result(outcome) for outcome in item.outcomes), *after]


def _said(item: UserInput) -> str | list[Json]:
    """Text alone goes as a string: that is all that many servers of this format take."""
    if all(isinstance(block, TextBlock) for block in item.content):
        return "\n\n".join(plain(block) for block in item.content) or "(empty)"
    return [_part(block) for block in item.content]


def _answered(answer: Answer) -> Json:
    text = "\n\n".join(block.text for block in answer.blocks if isinstance(block, AnswerText))
    message: Json = {"role": "assistant", "content": text}
    if calls := [_call(use) for use in uses(answer)]:
        message |= {"content": text or None, "tool_calls": calls}
    return message


def _call(use: ToolUse) -> Json:
    arguments = use.input[INVALID_INPUT] if INVALID_INPUT in use.input else json.dumps(use.input, ensure_ascii=False)
    return {"id": use.event_id, "type": "function", "function": {"name": use.name, "arguments": arguments}}


def _result(outcome: ToolOutcome) -> Json:
    text = "\n".join(_told(block) for block in outcome.content) or "(empty)"
    content = f"Error: {text}" if outcome.is_error else text
    return {"role": "tool", "tool_call_id": outcome.tool_use_id, "content": content}


def _told(block: TextBlock | MediaBlock) -> str:
    if isinstance(block, TextBlock):
        return block.text
    if block.type == "image":
        return "[image: in the message after the tool results]"
    return str(block.source.get("data")) if block.source.get("type") == "text" else described(block)


def _part(block: TextBlock | MediaBlock) -> Json:
    if isinstance(block, TextBlock):
        return {"type": "text", "text": block.text}
    source = block.source
    data = f"data:{source.get('media_type')};base64,{source.get('data')}"
    match block.type, source.get("type"):
        case "image", "url":
            return {"type": "image_url", "image_url": {"url": source.get("url")}}
        case "image", "base64":
            return {"type": "image_url", "image_url": {"url": data}}
        case "document", "text":
            return {"type": "text", "text": f"[document {block.title or 'without a title'!r}]\n{source.get('data')}"}
        case "document", "base64":
            return {"type": "file", "file": {"filename": block.title or "document.pdf", "file_data": data}}
        case _:
            return {"type": "text", "text": described(block)}


class OpenAIReader:
    """Reads the chunks of one completion."""

    def __init__(self, new_id: Callable[[], str]):
        self._drafts = Drafts(new_id)
        self._text: Draft | None = None
        self._calls: dict[int, Draft] = {}
        self._usage = Usage()
        self._stop_reason: StopReason | None = None
        self._refused = False

    def feed(self, event: ServerSentEvent) -> list[Preview]:
        """Take a chunk."""
        if event.data.strip() == "[DONE]":
            return []
        data = decoded(event.data)
        if data.get("error"):
            raise from_stream(data["error"] if isinstance(data["error"], dict) else {"message": str(data["error"])})
        if data.get("usage"):
            self._usage = _usage(data["usage"])
        shown: list[Preview] = []
        for choice in data.get("choices") or []:
            shown += self._delta(choice.get("delta") or {})
            if choice.get("finish_reason"):
                self._stop_reason = _STOP_REASONS.get(choice["finish_reason"], "end_turn")
        return shown

    def complete(self) -> Complete | None:
        """Return the answer once its finish reason has come: not every server sends ``[DONE]``."""
        if self._stop_reason is None:
            return None
        reason = "refusal" if self._refused else self._stop_reason
        if reason == "end_turn" and self._calls:
            reason = "tool_use"
        return self._drafts.complete(self._usage, reason)

    def _delta(self, delta: Json) -> list[Preview]:
        shown: list[Preview] = []
        self._refused = self._refused or bool(delta.get("refusal"))
        if piece := delta.get("content") or delta.get("refusal"):
            if self._text is None:
                self._text, shown = self._drafts.add("text")
            shown += self._text.grow(piece)
        for call in delta.get("tool_calls") or []:
            self._call(call)
        return shown

    def _call(self, call: Json) -> None:
        function = call.get("function") or {}
        index = call.get("index", 0)
        if index not in self._calls:
            self._calls[index], _ = self._drafts.add(
                "tool_use", name=function.get("name") or "", call_id=call.get("id")
            )
        self._calls[index].grow(function.get("arguments") or "")


def _usage(usage: Json) -> Usage:
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Usage(
        input_tokens=max(0, (usage.get("prompt_tokens") or 0) - cached),
        cache_read_input_tokens=cached,
        output_tokens=usage.get("completion_tokens") or 0,
        reasoning_tokens=(usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0,
    )
