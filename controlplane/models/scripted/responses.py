"""The scripted model's OpenAI Responses side."""

import json
import time
from collections.abc import Iterator
from typing import Any

from controlplane.models.scripted.frames import Frame, encoded
from controlplane.models.scripted.player import Entry, Reply, signature

Json = dict[str, Any]

_OWN = {"reasoning", "function_call"}
_INCOMPLETE = {"max_tokens": "max_output_tokens", "refusal": "content_filter"}


def entries(body: Json) -> list[Entry]:
    """Return the conversation that a request holds; what belongs to one answer is one entry."""
    found = [Entry("system", body["instructions"])] if body.get("instructions") else []
    for item in _items(body):
        entry = _entry(item)
        if entry.role == "assistant" and found and found[-1].role == "assistant":
            found[-1] = Entry("assistant", found[-1].text + entry.text)
        else:
            found.append(entry)
    return found


def complaint(body: Json) -> str | None:
    """Return what OpenAI's API would refuse this request for."""
    items = _items(body)
    if not items:
        return "Missing required parameter: 'input'."
    called = [item["call_id"] for item in items if item.get("type") == "function_call"]
    answered = [item["call_id"] for item in items if item.get("type") == "function_call_output"]
    for call_id in answered:
        if call_id not in called:
            return f"No tool call found for function call output with call_id {call_id}."
    for call_id in called:
        if call_id not in answered:
            return f"No tool output found for function call {call_id}."
    for item in items:
        if item.get("type") == "reasoning":
            thought = "".join(part.get("text", "") for part in item.get("summary") or [])
            if item.get("encrypted_content") != signature(thought):
                return "The encrypted content of a reasoning item could not be verified."
    return None


def message(reply: Reply) -> Json:
    """Return the answer as one response."""
    return _response(reply, "completed", _output(reply))


def frames(reply: Reply, _: Json) -> Iterator[Frame]:
    """Yield the answer as a stream."""
    number = 0
    summary_at: Json = {"summary_index": 0}
    content_at: Json = {"content_index": 0}
    nowhere: Json = {}

    def event(kind: str, *, is_chunk: bool = False, **fields: Any) -> Frame:
        nonlocal number
        number += 1
        data = {"type": kind, "sequence_number": number, **fields}
        return Frame(encoded(data, event=kind), is_chunk=is_chunk)

    yield event("response.created", response=_response(reply, "in_progress", []))
    for index, item in enumerate(_output(reply)):
        where: Json = {"item_id": item["id"], "output_index": index}
        yield event("response.output_item.added", output_index=index, item=_begun(item))
        match item["type"]:
            case "reasoning":
                part = {"type": "summary_text", "text": ""}
                yield event("response.reasoning_summary_part.added", **where, summary_index=0, part=part)
                kind, text, at = "response.reasoning_summary_text", reply.thinking, summary_at
            case "message":
                part = {"type": "output_text", "text": "", "annotations": []}
                yield event("response.content_part.added", **where, content_index=0, part=part)
                kind, text, at = "response.output_text", reply.text, content_at
            case _:
                kind, text, at = "response.function_call_arguments", item["arguments"], nowhere
        for piece in reply.pieces(text):
            yield event(f"{kind}.delta", is_chunk=True, **where, **at, delta=piece)
        whole: Json = {"arguments": text} if item["type"] == "function_call" else {"text": text}
        yield event(f"{kind}.done", **where, **at, **whole)
        yield event("response.output_item.done", output_index=index, item=item)
    if reply.stop_reason in _INCOMPLETE:
        cut = {**_response(reply, "incomplete", _output(reply))}
        cut["incomplete_details"] = {"reason": _INCOMPLETE[reply.stop_reason]}
        yield event("response.incomplete", response=cut)
    else:
        yield event("response.completed", response=message(reply))


def error_frame(error: Json) -> bytes:
    """Return an error in the middle of a stream."""
    code = error["error"]["code"] or error["error"]["type"]
    return encoded(
        {"type": "error", "code": code, "message": error["error"]["message"], "param": None}, event="error"
    )


def _items(body: Json) -> list[Json]:
    given = body.get("input")
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    return [{"type": "message", **item} for item in given or [] if isinstance(item, dict)]


def _entry(item: Json) -> Entry:
    if item["type"] in _OWN or item.get("role") == "assistant":
        return Entry("assistant", json.dumps(item))
    if item["type"] == "function_call_output":
        return Entry("tool", _text(item.get("output")))
    return Entry("system" if item.get("role") in {"system", "developer"} else "user", _text(item.get("content")))


def _output(reply: Reply) -> list[Json]:
    items: list[Json] = []
    if reply.thinking:
        summary = [{"type": "summary_text", "text": reply.thinking}]
        sealed = signature(reply.thinking)
        items.append({"id": f"rs_{reply.id}", "type": "reasoning", "summary": summary, "encrypted_content": sealed})
    if reply.text:
        content = [{"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}]
        items.append(
            {
                "id": f"msg_{reply.id}",
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": content,
            }
        )
    for call in reply.calls:
        items.append(
            {
                "id": f"fc_{call.id}",
                "type": "function_call",
                "status": "completed",
                "call_id": call.id,
                "name": call.name,
                "arguments": call.arguments,
            }
        )
    return items


def _begun(item: Json) -> Json:
    empty: Json = {"arguments": ""} if item["type"] == "function_call" else {}
    if item["type"] == "reasoning":
        return {"id": item["id"], "type": "reasoning", "summary": []}
    if item["type"] == "message":
        empty = {"content": []}
    return {**item, **empty, "status": "in_progress"}


def _response(reply: Reply, status: str, output: list[Json]) -> Json:
    return {
        "id": f"resp_{reply.id}",
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "model": reply.model,
        "output": output,
        "error": None,
        "incomplete_details": None,
        "usage": None if status == "in_progress" else _usage(reply),
    }


def _usage(reply: Reply) -> Json:
    return {
        "input_tokens": reply.input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": reply.output_tokens,
        "output_tokens_details": {"reasoning_tokens": -(-len(reply.thinking) // 4)},
        "total_tokens": reply.input_tokens + reply.output_tokens,
    }


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content or [] if isinstance(part, dict))
