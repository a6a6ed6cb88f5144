"""The conversation as a harness takes it, rebuilt from the event log alone."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from harness_adapters.contract import (
    Answer,
    AnswerBlock,
    AnswerText,
    HistoryItem,
    MediaBlock,
    TextBlock,
    ThinkingBlock,
    ToolOutcome,
    ToolUse,
    UserInput,
    summarized,
)

COMPACTED = "agent.thread_context_compacted"

HISTORY_TYPES = (
    "user.message",
    "system.message",
    "agent.thinking",
    "agent.message",
    "agent.tool_use",
    "agent.custom_tool_use",
    "agent.tool_result",
    "user.custom_tool_result",
    COMPACTED,
)
"""The event types that a model sees."""


_USE_ID = {"agent.tool_result": "tool_use_id", "user.custom_tool_result": "custom_tool_use_id"}


class LoggedEvent(BaseModel):
    """What the history needs of a recorded event."""

    model_config = ConfigDict(frozen=True)

    id: str
    type: str
    payload: dict[str, Any]
    internal: dict[str, Any]


def build(events: Iterable[LoggedEvent]) -> list[HistoryItem]:
    """Return the conversation in order; blocks of one model request become one answer.

    A call has one outcome: the result of a client that comes after the call was closed is not it. The newest summary
    stands for what it covers.
    """
    logged = list(events)
    history, logged = _summarized(logged)
    answered: set[str] = set()
    for event in logged:
        if event.type in _USE_ID:
            use_id = event.payload[_USE_ID[event.type]]
            if use_id not in answered:
                history.append(outcome(use_id, event.payload))
            answered.add(use_id)
        elif event.type.startswith("agent."):
            _add_block(history, event)
        else:
            history.append(
                UserInput(
                    role="system" if event.type == "system.message" else "user",
                    event_id=event.id,
                    content=_content(event.payload.get("content")),
                )
            )
    return history


def _summarized(logged: list[LoggedEvent]) -> tuple[list[HistoryItem], list[LoggedEvent]]:
    """Return what stands for the older part, and the events that are seen as they are."""
    summaries = [place for place, event in enumerate(logged) if event.type == COMPACTED]
    if not summaries:
        return [], logged
    last = logged[summaries[-1]]
    kept_from = last.internal.get("kept_from")
    begin = next((place for place, event in enumerate(logged) if event.id == kept_from), summaries[-1])
    seen = [event for event in logged[begin:] if event.type != COMPACTED]
    return [summarized(last.id, last.payload["summary"])], seen


def is_unfinished(history: list[HistoryItem]) -> bool:
    """Say whether the agent still has something to say or to do."""
    if not history:
        return False
    last = history[-1]
    return not isinstance(last, Answer) or any(isinstance(block, ToolUse) for block in last.blocks)


def _add_block(history: list[HistoryItem], event: LoggedEvent) -> None:
    request_id = str(event.internal["request_id"])
    last = history[-1] if history else None
    if isinstance(last, Answer) and last.request_id == request_id:
        history[-1] = Answer(request_id=request_id, blocks=[*last.blocks, _block(event)])
    else:
        history.append(Answer(request_id=request_id, blocks=[_block(event)]))


def _block(event: LoggedEvent) -> AnswerBlock:
    match event.type:
        case "agent.thinking":
            return ThinkingBlock.model_validate({"event_id": event.id, **event.internal["thinking"]})
        case "agent.message":
            return AnswerText(event_id=event.id, text="".join(block["text"] for block in event.payload["content"]))
        case _:
            return ToolUse(event_id=event.id, name=event.payload["name"], input=event.payload["input"])


def outcome(tool_use_id: str, payload: Mapping[str, Any]) -> ToolOutcome:
    """Return the outcome that the payload of a result's event holds."""
    return ToolOutcome(
        tool_use_id=tool_use_id,
        content=_content(payload.get("content")),
        is_error=bool(payload.get("is_error")),
    )


def _content(blocks: list[dict[str, Any]] | None) -> list[TextBlock | MediaBlock]:
    return [found for block in blocks or [] if (found := _block_of_content(block)) is not None]


def _block_of_content(block: dict[str, Any]) -> TextBlock | MediaBlock | None:
    match block["type"]:
        case "text":
            return TextBlock(text=block["text"])
        case "image" | "document":
            return MediaBlock.model_validate(block)
        case "search_result":
            said = "\n".join(part["text"] for part in block["content"])
            return TextBlock(text=f"{block['title']} ({block['source']})\n{said}")
        case _:
            return None
