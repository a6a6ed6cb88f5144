"""How what happens in a turn looks as events."""

from collections.abc import Mapping
from typing import Any

from controlplane.store.events import NewEvent
from controlplane.store.ledger import Booking
from harness_adapters.contract import AnswerText, ContextCompacted, ModelAnswered, ThinkingBlock, ToolUse, Usage
from workflows.contracts import TurnInput
from workflows.failures import Cause, Failure
from workflows.records import CutAnswer
from workflows.verdicts import Judgement

_ERROR_TYPES: Mapping[Cause, str] = {
    "overloaded": "model_overloaded_error",
    "rate_limited": "model_rate_limited_error",
    "billing": "billing_error",
    "unknown": "unknown_error",
    "model_request_limit": "unknown_error",
    "harness_failed": "unknown_error",
    "agent_frozen": "unknown_error",
    "unpriced": "billing_error",
    "worker_crashed": "unknown_error",
    "attempts_failed": "unknown_error",
}


def failed(failure: Failure, *, retry_in_seconds: float | None = None) -> NewEvent:
    """The `session.error` of a failure."""
    error = {
        "type": _ERROR_TYPES.get(failure.cause, "model_request_failed_error"),
        "message": failure.message,
        "code": failure.cause,
        "retry_status": {"type": failure.status},
        "next_step": failure.next_step,
        **({"retry_in_seconds": retry_in_seconds} if retry_in_seconds is not None else {}),
    }
    return NewEvent(type="session.error", payload={"error": error})


def noted(message: str) -> NewEvent:
    """The `session.error` of a turn that came to an end all the same."""
    retry_status = {"type": "exhausted"}
    error = {"type": "unknown_error", "message": message, "code": "turn_cut", "retry_status": retry_status}
    return NewEvent(type="session.error", payload={"error": error})


def request_answered(answered: ModelAnswered, booking: Booking) -> NewEvent:
    """The end of a model request that brought an answer, with what it cost where that is known."""
    payload = {**_ended(answered.answer.request_id, booking), "stop_reason": answered.stop_reason}
    return NewEvent(type="span.model_request_end", payload=payload)


def compacted_events(compacted: ContextCompacted, booking: Booking) -> list[NewEvent]:
    """The end of the request for a summary, and the summary."""
    end = NewEvent(type="span.model_request_end", payload=_ended(compacted.request_id, booking))
    summary = NewEvent(
        id=compacted.event_id,
        type="agent.thread_context_compacted",
        payload={"summary": compacted.summary, "tokens_before": compacted.tokens_before},
        internal={"kept_from": compacted.kept_from},
    )
    return [end, summary]


def request_lost(request_id: str) -> NewEvent:
    """The end of a model request that brought no answer."""
    nothing = Usage().model_dump()
    return NewEvent(
        type="span.model_request_end",
        payload={"model_request_start_id": request_id, "is_error": True, "model_usage": nothing},
    )


def _ended(request_id: str, booking: Booking) -> dict[str, Any]:
    cost_usd = booking.cost_usd
    return {
        "model_request_start_id": request_id,
        "is_error": False,
        "model_usage": booking.usage.model_dump(),
        **({"usage_estimated": True} if booking.is_estimated else {}),
        "cost_usd": f"{cost_usd.normalize():f}" if cost_usd is not None else None,
        **({"model": booking.model} if booking.model else {}),
    }


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
            kept = block.model_dump(include={"text", "signature", "redacted", "origin"}, exclude_none=True)
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


def owned(turn: TurnInput, new: list[NewEvent]) -> list[NewEvent]:
    """Mark events as the turn's."""
    return [event.model_copy(update={"turn_id": turn.turn_id}) for event in new]
