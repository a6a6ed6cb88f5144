"""A stand-in for a model provider: answers at once in the Anthropic wire format and notes when it was asked.

It is no model: the benchmark needs to know when a request arrives, and to subtract the time of its answer.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from controlplane.models.listening import listening

SLOWLY = "slowly"
"""A message that is answered with a pause behind the first event, so that it comes alone, as real ones do."""

_PAUSE_SECONDS = 0.02


class BenchProvider:
    """Answers with the tool calls that the newest user message asks for in JSON, then with a word."""

    def __init__(self) -> None:
        self.url = ""
        self.arrivals: list[float] = []
        self.seconds: list[float] = []

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[str]:
        """Serve on a free loopback port; yields the base URL."""
        async with listening(Starlette(routes=[Route("/v1/messages", self._messages, methods=["POST"])])) as url:
            self.url = url
            yield url

    async def _messages(self, request: Request) -> StreamingResponse:
        began = time.perf_counter()
        self.arrivals.append(time.time())
        messages = (await request.json())["messages"]
        first, *rest = _frames(_blocks(messages))

        async def stream() -> AsyncGenerator[bytes]:
            if messages[-1]["content"] == SLOWLY:
                yield first
                await asyncio.sleep(_PAUSE_SECONDS)
                yield b"".join(rest)
            else:
                yield b"".join([first, *rest])
            self.seconds.append(time.perf_counter() - began)

        return StreamingResponse(stream(), media_type="text/event-stream")


def _blocks(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    last = messages[-1]["content"]
    text = last if isinstance(last, str) else next((b["text"] for b in last if b["type"] == "text"), "")
    if text.startswith("{"):
        call = json.loads(text)
        return [{"type": "tool_use", "id": "toolu_bench", "name": call["name"], "input": call["input"]}]
    return [{"type": "text", "text": "done"}]


def _frames(blocks: list[dict[str, Any]]) -> list[bytes]:
    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {"id": "msg_bench", "type": "message", "role": "assistant", "model": "bench", "content": []}
    frames: list[dict[str, Any]] = [{"type": "message_start", "message": {**message, "usage": usage}}]
    for index, block in enumerate(blocks):
        if block["type"] == "text":
            empty, delta = {**block, "text": ""}, {"type": "text_delta", "text": block["text"]}
        else:
            empty = {**block, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        frames += [
            {"type": "content_block_start", "index": index, "content_block": empty},
            {"type": "content_block_delta", "index": index, "delta": delta},
            {"type": "content_block_stop", "index": index},
        ]
    stop = "tool_use" if blocks[-1]["type"] == "tool_use" else "end_turn"
    frames += [
        {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 1}},
        {"type": "message_stop"},
    ]
    return [f"event: {frame['type']}\ndata: {json.dumps(frame)}\n\n".encode() for frame in frames]
