"""OpenAI Responses: from a history to a request, and from a stream to an answer."""

import json
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
from harness_adapters.model.rounds import AnswerRound, described, plain, rounds
from harness_adapters.model.sse import ServerSentEvent
from harness_adapters.toolset import INVALID_INPUT

Json = dict[str, Any]

PATH = "/v1/responses"
HEADERS: dict[str, str] = {}

_EFFORTS = {"max": "xhigh"}
_CUT: dict[str, StopReason] = {"max_output_tokens": "max_tokens", "content_filter": "refusal"}


def request(spec: HarnessSpec, history: Sequence[HistoryItem]) -> Json:
    """Return the body of a streaming request that leaves nothing with the provider."""
    body: Json = {
        "model": spec.model,
        "max_output_tokens": spec.max_tokens,
        "stream": True,
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "input": items(history),
    }
    if spec.system:
        body["instructions"] = spec.system
    if spec.tools:
        body["tools"] = [
            {"type": "function", "name": tool.name, "description": tool.description, "parameters": tool.input_schema}
            for tool in spec.tools
        ]
    if spec.effort:
        body["reasoning"] = {"effort": _EFFORTS.get(spec.effort, spec.effort)}
    return body


def items(history: Sequence[HistoryItem]) -> list[Json]:
    """Return a history as input items; a thought goes back only if this format's provider sealed it."""
    return [item for each in rounds(history) for item in _items(each)]


def _items(each: UserInput | AnswerRound) -> list[Json]:
    if isinstance(each, UserInput):
        return [_message("developer" if each.role == "system" else "user", [_part(b) for b in each.content])]
    said = [item for block in each.answer.blocks if (item := _answered(block)) is not None]
    return [*said, *(_result(outcome) for outcome in each.outcomes)]


def _message(role: str, content: list[Json]) -> Json:
    return {"type": "message", "role": role, "content": content or [{"type": "input_text", "text": "(empty)"}]}


def _answered(block: AnswerBlock) -> Json | None:
    if isinstance(block, AnswerText):
        return _message("assistant", [{"type": "output_text", "text": block.text, "annotations": []}])
    if isinstance(block, ThinkingBlock):
        if block.origin != "openai-responses" or not block.signature:
            return None
        summary = [{"type": "summary_text", "text": block.text}] if block.text else []
        return {"type": "reasoning", "summary": summary, "encrypted_content": block.signature}
    value = block.input
    arguments = value[INVALID_INPUT] if INVALID_INPUT in value else json.dumps(value, ensure_ascii=False)
    return {"type": "function_call", "call_id": block.event_id, "name": block.name, "arguments": arguments}


def _result(outcome: ToolOutcome) -> Json:
    if any(isinstance(block, MediaBlock) for block in outcome.content):
        head = [{"type": "input_text", "text": "Error:"}] if outcome.is_error else []
        return _output(outcome, [*head, *(_part(block) for block in outcome.content)])
    text = "\n".join(plain(block) for block in outcome.content) or "(empty)"
    return _output(outcome, f"Error: {text}" if outcome.is_error else text)


def _output(outcome: ToolOutcome, output: str | list[Json]) -> Json:
    return {"type": "function_call_output", "call_id": outcome.tool_use_id, "output": output}


def _part(block: TextBlock | MediaBlock) -> Json:
    if isinstance(block, TextBlock):
        return {"type": "input_text", "text": block.text}
    source, kind = block.source, block.source.get("type")
    if block.type == "document" and kind == "text":
        return {"type": "input_text", "text": f"[document {block.title or 'untitled'!r}]\n{source.get('data')}"}
    where = {"url": source.get("url"), "base64": f"data:{source.get('media_type')};base64,{source.get('data')}"}
    if kind not in where:
        return {"type": "input_text", "text": described(block)}
    if block.type == "image":
        return {"type": "input_image", "image_url": where[kind]}
    if kind == "url":
        return {"type": "input_file", "file_url": where[kind]}
    return {"type": "input_file", "filename": block.title or "document.pdf", "file_data": where[kind]}


class ResponsesReader:
    """Reads the events of one response."""

    def __init__(self, new_id: Callable[[], str]):
        self._drafts = Drafts(new_id)
        self._by_index: dict[int, Draft] = {}
        self._usage = Usage()
        self._stop_reason: StopReason | None = None
        self._refused = False
        self._calls = False

    def feed(self, event: ServerSentEvent) -> list[Preview]:
        """Take an event; kinds that are not known yet are passed over."""
        if event.data.strip() == "[DONE]":
            return []
        data = decoded(event.data)
        match data.get("type"):
            case "response.output_item.added":
                return self._begin(data["output_index"], data["item"])
            case "response.output_text.delta" | "response.function_call_arguments.delta":
                return self._grow(data["output_index"], data["delta"])
            case "response.reasoning_summary_text.delta":
                return self._grow(data["output_index"], data["delta"])
            case "response.refusal.delta":
                self._refused = True
                return self._grow(data["output_index"], data["delta"])
            case "response.output_item.done":
                self._seal(data["output_index"], data["item"])
            case "response.completed" | "response.incomplete":
                self._end(data["response"])
            case "response.failed":
                raise from_stream(data["response"].get("error") or {})
            case "error":
                raise from_stream(data.get("error") or data)
            case _:
                pass
        return []

    def complete(self) -> Complete | None:
        """Return the answer after ``response.completed`` or ``response.incomplete``."""
        return None if self._stop_reason is None else self._drafts.complete(self._usage, self._stop_reason)

    def _begin(self, index: int, item: Json) -> list[Preview]:
        shown: list[Preview] = []
        match item.get("type"):
            case "message":
                draft, shown = self._drafts.add("text")
            case "reasoning":
                draft, shown = self._drafts.add("thinking")
                draft.origin = "openai-responses"
            case "function_call":
                self._calls = True
                draft, shown = self._drafts.add("tool_use", name=item.get("name") or "", call_id=item.get("call_id"))
            case _:
                return shown
        self._by_index[index] = draft
        return shown

    def _grow(self, index: int, piece: str) -> list[Preview]:
        return self._by_index[index].grow(piece) if index in self._by_index else []

    def _seal(self, index: int, item: Json) -> None:
        if item.get("type") == "reasoning" and index in self._by_index:
            self._by_index[index].signature = item.get("encrypted_content") or ""

    def _end(self, response: Json) -> None:
        self._usage = _usage(response.get("usage") or {})
        reason = _CUT.get((response.get("incomplete_details") or {}).get("reason") or "")
        if reason is None:
            reason = "refusal" if self._refused else "tool_use" if self._calls else "end_turn"
        self._stop_reason = reason


def _usage(usage: Json) -> Usage:
    cached = (usage.get("input_tokens_details") or {}).get("cached_tokens") or 0
    return Usage(
        input_tokens=max(0, (usage.get("input_tokens") or 0) - cached),
        cache_read_input_tokens=cached,
        output_tokens=usage.get("output_tokens") or 0,
        reasoning_tokens=(usage.get("output_tokens_details") or {}).get("reasoning_tokens") or 0,
    )
