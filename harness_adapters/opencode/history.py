"""A conversation as OpenCode keeps one: messages and their parts, as the events that make them."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from harness_adapters.contract import (
    AnswerBlock,
    AnswerText,
    HistoryItem,
    MediaBlock,
    TextBlock,
    ThinkingBlock,
    ToolOutcome,
    ToolUse,
    UserInput,
    WireFormat,
)
from harness_adapters.driven.line import text_of
from harness_adapters.model.rounds import AnswerRound, described, rounds
from harness_adapters.opencode.configuration import AGENT, PROVIDER, Place, named

Json = dict[str, Any]

_NO_TOKENS = {"input": 0, "output": 0, "reasoning": 0, "cache": {"read": 0, "write": 0}}


def events(history: Sequence[HistoryItem], session_id: str, place: Place) -> list[Json]:
    """Return the events that make a new session hold ``history``; its creation is the event before them."""
    return list(_Writer(session_id, place).written(history))


def parts(said: UserInput, wire_format: WireFormat) -> list[Json]:
    """Return a message of the user's as parts; nothing in them is a place that OpenCode would read from."""
    if said.role == "system":
        texts = "\n".join(block.text for block in said.content if isinstance(block, TextBlock))
        return [_text(f"<system-note>\n{texts}\n</system-note>")]
    return [_part(block, wire_format) for block in said.content] or [_text("(empty)")]


class _Writer:
    """Numbers what it writes so that it comes, in every order that OpenCode knows, before what is said later."""

    def __init__(self, session_id: str, place: Place):
        self._session_id = session_id
        self._place = place
        self._numbers = itertools.count(1)
        self._events = itertools.count(1)
        self._asked_by = self._id("msg", 0)

    def written(self, history: Sequence[HistoryItem]) -> Iterator[Json]:
        for each in rounds(history):
            if isinstance(each, UserInput):
                yield from self._said(each)
            else:
                yield from self._answered(each)

    def _said(self, said: UserInput) -> Iterator[Json]:
        number = next(self._numbers)
        self._asked_by = self._id("msg", number)
        model = {"providerID": PROVIDER, "modelID": self._place.model}
        head = {"role": "user", "time": {"created": number}, "agent": AGENT, "model": model}
        yield from self._message(number, head, parts(said, self._place.wire_format))

    def _answered(self, each: AnswerRound) -> Iterator[Json]:
        number = next(self._numbers)
        outcomes = {outcome.tool_use_id: outcome for outcome in each.outcomes}
        made = [self._block(block, number, outcomes) for block in each.answer.blocks]
        head = {
            "role": "assistant",
            "time": {"created": number, "completed": number},
            "parentID": self._asked_by,
            "providerID": PROVIDER,
            "modelID": self._place.model,
            "mode": AGENT,
            "agent": AGENT,
            "path": {"cwd": self._place.directory, "root": self._place.directory},
            "cost": 0,
            "tokens": _NO_TOKENS,
            "finish": "tool-calls" if each.outcomes else "stop",
        }
        yield from self._message(number, head, [part for part in made if part is not None])

    def _block(self, block: AnswerBlock, number: int, outcomes: dict[str, ToolOutcome]) -> Json | None:
        match block:
            case AnswerText():
                return _text(block.text)
            case ThinkingBlock():
                sealed = _sealed(block, self._place.wire_format)
                time = {"start": number, "end": number}
                return sealed and {"type": "reasoning", "text": block.text, "time": time, "metadata": sealed}
            case ToolUse():
                state = _state(block, outcomes[block.event_id], number)
                return {"type": "tool", "callID": block.event_id, "tool": named(block.name), "state": state}

    def _message(self, number: int, head: Json, made: list[Json]) -> Iterator[Json]:
        message_id = self._id("msg", number)
        yield self._event("message.updated.1", info={"id": message_id, "sessionID": self._session_id, **head})
        for part in made:
            place = {"id": self._id("prt", next(self._numbers)), "messageID": message_id}
            whole = {**place, "sessionID": self._session_id, **part}
            yield self._event("message.part.updated.1", part=whole, time=number)

    def _event(self, kind: str, **data: Any) -> Json:
        seq = next(self._events)
        whole = {"sessionID": self._session_id, **data}
        return {
            "id": self._id("evt", seq),
            "aggregateID": self._session_id,
            "seq": seq,
            "type": kind,
            "data": whole,
        }

    def _id(self, kind: str, number: int) -> str:
        return f"{kind}_{number:012x}{self._session_id.removeprefix('ses_')[-14:]}"


def _sealed(block: ThinkingBlock, wire_format: WireFormat) -> Json | None:
    """Return what goes back with a thought to the provider that sealed it; None: it does not go back."""
    if block.origin != wire_format:
        return None
    if wire_format == "anthropic" and block.redacted:
        return {"anthropic": {"redactedData": block.redacted}}
    if wire_format == "anthropic" and block.signature:
        return {"anthropic": {"signature": block.signature}}
    if wire_format == "openai-responses" and block.signature:
        sealed = {"itemId": f"rs_{block.event_id}", "reasoningEncryptedContent": block.signature}
        return {"openai": sealed}
    return None


def _state(use: ToolUse, outcome: ToolOutcome, number: int) -> Json:
    text, time = text_of(outcome), {"start": number, "end": number}
    if outcome.is_error:
        return {"status": "error", "input": use.input, "error": text, "time": time}
    return {"status": "completed", "input": use.input, "output": text, "title": "", "metadata": {}, "time": time}


def _part(block: TextBlock | MediaBlock, wire_format: WireFormat) -> Json:
    if isinstance(block, TextBlock):
        return _text(block.text or "(empty)")
    source, kind = block.source, block.source.get("type")
    if kind == "text":
        return _text(f"[document {block.title or 'untitled'!r}]\n{source.get('data')}")
    if kind == "base64" and (block.type == "image" or wire_format != "openai"):
        mime = str(source.get("media_type"))
        name = {"filename": block.title or "document.pdf"} if block.type == "document" else {}
        return {"type": "file", "mime": mime, "url": f"data:{mime};base64,{source.get('data')}", **name}
    return _text(described(block))


def _text(text: str) -> Json:
    return {"type": "text", "text": text}
