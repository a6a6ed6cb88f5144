"""A history as the agent keeps its own: a line of JSON for each message, chained by their ids."""

import json
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from harness_adapters.contract import HarnessSpec, HistoryItem
from harness_adapters.driven.confinement import WORKSPACE
from harness_adapters.model import anthropic

Json = dict[str, Any]

PREFIX = "mcp__sandbox__"
"""Before the name of each of our tools, which the agent finds on a server of that name."""

_MOMENT = "2026-01-01T00:00:00.000Z"


def transcript(spec: HarnessSpec, history: Sequence[HistoryItem], session_id: str, version: str) -> str:
    """Return the transcript of a session that knows ``history``."""
    messages = anthropic.request(spec, history)["messages"]
    return "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in _lines(messages, session_id, version))


def _lines(messages: Sequence[Json], session_id: str, version: str) -> Iterator[Json]:
    parent: str | None = None
    for number, message in enumerate(messages):
        own = str(uuid.uuid5(uuid.UUID(session_id), str(number)))
        yield {
            "parentUuid": parent,
            "isSidechain": False,
            "type": message["role"],
            "message": _message(message, own),
            "uuid": own,
            "timestamp": _MOMENT,
            "userType": "external",
            "cwd": WORKSPACE,
            "sessionId": session_id,
            "version": version,
        }
        parent = own


def _message(message: Json, own: str) -> Json:
    content = [_block(block) for block in message["content"]]
    if message["role"] == "user":
        return {"role": "user", "content": content}
    reason = "tool_use" if any(block["type"] == "tool_use" for block in content) else "end_turn"
    usage = {"input_tokens": 0, "output_tokens": 0}
    return {
        "id": f"msg_{own}",
        "type": "message",
        "role": "assistant",
        "model": "earlier",
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": usage,
    }


def _block(block: Json) -> Json:
    kept = {name: value for name, value in block.items() if name != "cache_control"}
    return {**kept, "name": PREFIX + kept["name"]} if kept["type"] == "tool_use" else kept
