"""The scripted model's Anthropic Messages side."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from controlplane.models.scripted.frames import Frame, encoded
from controlplane.models.scripted.player import Entry, Reply, signature

Json = dict[str, Any]


def entries(body: Json) -> list[Entry]:
    """Return the conversation that a request holds."""
    found = [Entry("system", _text(body["system"]))] if body.get("system") else []
    for message in body.get("messages", []):
        blocks = _blocks(message.get("content"))
        if message.get("role") == "assistant":
            found.append(Entry("assistant", json.dumps(blocks)))
            continue
        results = [block for block in blocks if block.get("type") == "tool_result"]
        found.extend(Entry("tool", _text(block.get("content") or "")) for block in results)
        if len(results) < len(blocks):
            found.append(Entry("user", _text(blocks)))
    return found


def complaint(body: Json) -> str | None:
    """Return what Anthropic's API would refuse this request for."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return "messages: at least one message is required"
    if not isinstance(body.get("max_tokens"), int):
        return "max_tokens: Field required"
    for index, message in enumerate(messages):
        blocks = _blocks(message.get("content"))
        if any(block.get("type") == "text" and not block.get("text") for block in blocks):
            return f"messages.{index}: text content blocks must be non-empty"
        following = messages[index + 1] if index + 1 < len(messages) else {}
        wrong = _wrong_thought(blocks) or _dangling_use(blocks, following)
        if wrong:
            return f"messages.{index}: {wrong}"
    return None


def message(reply: Reply) -> Json:
    """Return the answer as one message."""
    return {
        "id": f"msg_{reply.id}",
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": [_whole(block, reply) for block in _plan(reply)],
        "stop_reason": reply.stop_reason,
        "stop_sequence": None,
        "usage": _usage(reply, output_tokens=reply.output_tokens),
    }


def frames(reply: Reply, _: Json) -> Iterator[Frame]:
    """Yield the answer as a stream."""
    opening = {**message(reply), "content": [], "stop_reason": None, "usage": _usage(reply, output_tokens=1)}
    yield _frame("message_start", message=opening)
    yield _frame("ping")
    for index, block in enumerate(_plan(reply)):
        yield _frame("content_block_start", index=index, content_block=block)
        for delta in _deltas(block, reply):
            yield _frame("content_block_delta", index=index, delta=delta)
        yield _frame("content_block_stop", index=index)
    closing = {"stop_reason": reply.stop_reason, "stop_sequence": None}
    yield _frame("message_delta", delta=closing, usage={"output_tokens": reply.output_tokens})
    yield _frame("message_stop")


def error_frame(error: Json) -> bytes:
    """Return an error in the middle of a stream."""
    return encoded(error, event="error")


def _frame(kind: str, **fields: Any) -> Frame:
    return Frame(encoded({"type": kind, **fields}, event=kind), is_chunk=kind == "content_block_delta")


def _plan(reply: Reply) -> list[Json]:
    plan: list[Json] = []
    if reply.thinking:
        plan.append({"type": "thinking", "thinking": "", "signature": ""})
    if reply.text:
        plan.append({"type": "text", "text": ""})
    plan.extend({"type": "tool_use", "id": call.id, "name": call.name, "input": {}} for call in reply.calls)
    return plan


def _deltas(block: Json, reply: Reply) -> Iterator[Json]:
    if block["type"] == "thinking":
        yield from ({"type": "thinking_delta", "thinking": piece} for piece in reply.pieces(reply.thinking))
        yield {"type": "signature_delta", "signature": signature(reply.thinking)}
    elif block["type"] == "text":
        yield from ({"type": "text_delta", "text": piece} for piece in reply.pieces(reply.text))
    else:
        arguments = next(call.arguments for call in reply.calls if call.id == block["id"])
        for piece in ["", *reply.pieces(arguments)]:
            yield {"type": "input_json_delta", "partial_json": piece}


def _whole(block: Json, reply: Reply) -> Json:
    if block["type"] == "thinking":
        return {**block, "thinking": reply.thinking, "signature": signature(reply.thinking)}
    if block["type"] == "text":
        return {**block, "text": reply.text}
    arguments = next(call.arguments for call in reply.calls if call.id == block["id"])
    try:
        return {**block, "input": json.loads(arguments)}
    except ValueError:
        return block


def _usage(reply: Reply, *, output_tokens: int) -> Json:
    return {
        "input_tokens": reply.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": output_tokens,
    }


def _wrong_thought(blocks: Sequence[Json]) -> str | None:
    for block in blocks:
        vouched = str(block.get("signature", ""))
        if vouched.startswith("scripted-") and vouched != signature(block.get("thinking", "")):
            return "thinking blocks cannot be modified"
    return None


def _dangling_use(blocks: Sequence[Json], following: Json) -> str | None:
    answered = {block.get("tool_use_id") for block in _blocks(following.get("content"))}
    dangling = [block["id"] for block in blocks if block.get("type") == "tool_use" and block["id"] not in answered]
    if not dangling:
        return None
    return f"`tool_use` ids were found without `tool_result` blocks immediately after: {', '.join(dangling)}"


def _blocks(content: Any) -> list[Json]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content or [])


def _text(content: Any) -> str:
    return "\n".join(block.get("text", "") for block in _blocks(content) if block.get("type") == "text")
