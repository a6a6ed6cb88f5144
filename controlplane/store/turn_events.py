"""How what happens in a turn looks as events."""

from collections.abc import Mapping

from controlplane.store.events import NewEvent
from harness_adapters.contract import AnswerText, ModelRequestFailed, ThinkingBlock, ToolUse
from workflows.records import CutAnswer
from workflows.verdicts import Judgement

_ERROR_TYPES = {
    "overloaded": "model_overloaded_error",
    "rate_limited": "model_rate_limited_error",
    "billing": "billing_error",
    "unknown": "unknown_error",
}

_RETRYABLE = {"overloaded", "rate_limited", "interrupted_stream", "unreachable", "unknown"}


def model_error(failed: ModelRequestFailed) -> NewEvent:
    """The `session.error` of a failed model request: retrying, exhausted or terminal."""
    if failed.retry_in_seconds is not None:
        status = "retrying"
    else:
        status = "exhausted" if failed.kind in _RETRYABLE else "terminal"
    error = {
        "type": _ERROR_TYPES.get(failed.kind, "model_request_failed_error"),
        "message": failed.message,
        "code": failed.kind,
        "retry_status": {"type": status},
        **({"retry_in_seconds": failed.retry_in_seconds} if status == "retrying" else {}),
    }
    return NewEvent(type="session.error", payload={"error": error})


def turn_error(message: str) -> NewEvent:
    """The `session.error` of a turn that was given up."""
    retry_status = {"type": "exhausted"}
    error = {"type": "unknown_error", "message": message, "code": "turn_failed", "retry_status": retry_status}
    return NewEvent(type="session.error", payload={"error": error})


def request_lost(request_id: str) -> NewEvent:
    """The end of a model request that brought no answer."""
    nothing = {
        "input_tokens": 0,
        "output_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation_input_tokens": 0,
    }
    return NewEvent(
        type="span.model_request_end",
        payload={"model_request_start_id": request_id, "is_error": True, "model_usage": nothing},
    )


def cut_events(cut: CutAnswer) -> list[NewEvent]:
    """What had been said of an answer when its turn was interrupted; it stays in the conversation, and is marked."""
    return [
        NewEvent(
            id=event_id,
            type="agent.message",
            payload={"content": [{"type": "text", "text": text}], "interrupted": True},
            internal={"request_id": cut.request_id},
        )
        for event_id, text in cut.texts.items()
    ]


def block_event(
    block: ThinkingBlock | AnswerText | ToolUse, request_id: str, *, judgements: Mapping[str, Judgement]
) -> NewEvent:
    """The event of one block of an answer; ``judgements`` by the id of the use."""
    internal = {"request_id": request_id}
    match block:
        case ThinkingBlock():
            kept = block.model_dump(include={"text", "signature", "redacted"}, exclude_none=True)
            return NewEvent(id=block.event_id, type="agent.thinking", internal={**internal, "thinking": kept})
        case AnswerText():
            content = [{"type": "text", "text": block.text}]
            return NewEvent(id=block.event_id, type="agent.message", payload={"content": content}, internal=internal)
        case ToolUse() if judgements[block.event_id].verdict == "client":
            payload = {"name": block.name, "input": block.input}
            return NewEvent(id=block.event_id, type="agent.custom_tool_use", payload=payload, internal=internal)
        case ToolUse():
            permission = judgements[block.event_id].verdict
            payload = {"name": block.name, "input": block.input, "evaluated_permission": permission}
            return NewEvent(id=block.event_id, type="agent.tool_use", payload=payload, internal=internal)
