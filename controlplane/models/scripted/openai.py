"""The scripted model's OpenAI Chat Completions side."""

import json
import time
from collections.abc import Iterator
from typing import Any

from controlplane.models.scripted.frames import Frame, encoded
from controlplane.models.scripted.player import Call, Entry, Reply

Json = dict[str, Any]

_FINISH_REASONS = {"end_turn": "stop", "tool_use": "tool_calls", "max_tokens": "length", "refusal": "content_filter"}
_ROLES = {"system": "system", "developer": "system", "assistant": "assistant", "tool": "tool"}


def entries(body: Json) -> list[Entry]:
    """Return the conversation that a request holds."""
    return [_entry(message) for message in body.get("messages", [])]


def complaint(body: Json) -> str | None:
    """Return what OpenAI's API would refuse this request for."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return "Invalid 'messages': empty array. Expected an array with minimum length 1."
    waiting: list[str] = []
    for message in messages:
        if message.get("role") == "tool" and message.get("tool_call_id") in waiting:
            waiting.remove(message["tool_call_id"])
        elif message.get("role") == "tool":
            return "messages with role 'tool' must be a response to a preceding message with 'tool_calls'"
        elif waiting:
            break
        waiting += [call["id"] for call in message.get("tool_calls") or []]
    if not waiting:
        return None
    return f"'tool_calls' must be followed by tool messages responding to each 'tool_call_id': {', '.join(waiting)}"


def message(reply: Reply) -> Json:
    """Return the answer as one completion."""
    answer: Json = {"role": "assistant", "content": reply.text or None, "refusal": None}
    if reply.calls:
        answer["tool_calls"] = [_call(call, call.arguments) for call in reply.calls]
    choice = {"index": 0, "message": answer, "logprobs": None, "finish_reason": _FINISH_REASONS[reply.stop_reason]}
    return {**_head(reply, "chat.completion"), "choices": [choice], "usage": _usage(reply)}


def frames(reply: Reply, body: Json) -> Iterator[Frame]:
    """Yield the answer as a stream."""
    yield _chunk(reply, {"role": "assistant", "content": "", "refusal": None})
    for piece in reply.pieces(reply.text):
        yield _chunk(reply, {"content": piece}, is_chunk=True)
    for index, call in enumerate(reply.calls):
        yield _chunk(reply, {"tool_calls": [{"index": index, **_call(call, "")}]}, is_chunk=True)
        for piece in reply.pieces(call.arguments):
            delta = {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
            yield _chunk(reply, delta, is_chunk=True)
    yield _chunk(reply, {}, finish_reason=_FINISH_REASONS[reply.stop_reason])
    if (body.get("stream_options") or {}).get("include_usage"):
        closing = {**_head(reply, "chat.completion.chunk"), "choices": [], "usage": _usage(reply)}
        yield Frame(encoded(closing))
    yield Frame(b"data: [DONE]\n\n")


def error_frame(error: Json) -> bytes:
    """Return an error in the middle of a stream."""
    return encoded(error)


def _entry(message: Json) -> Entry:
    role = _ROLES.get(message.get("role", ""), "user")
    if role == "assistant":
        return Entry("assistant", json.dumps(message))
    return Entry(
        "system" if role == "system" else "tool" if role == "tool" else "user", _text(message.get("content"))
    )


def _chunk(reply: Reply, delta: Json, *, finish_reason: str | None = None, is_chunk: bool = False) -> Frame:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    data = {**_head(reply, "chat.completion.chunk"), "choices": [choice]}
    return Frame(encoded(data), is_chunk=is_chunk)


def _head(reply: Reply, kind: str) -> Json:
    return {"id": f"chatcmpl-{reply.id}", "object": kind, "created": int(time.time()), "model": reply.model}


def _call(call: Call, arguments: str) -> Json:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _usage(reply: Reply) -> Json:
    return {
        "prompt_tokens": reply.input_tokens,
        "completion_tokens": reply.output_tokens,
        "total_tokens": reply.input_tokens + reply.output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content or [] if part.get("type") == "text")
