"""What is served at a confined process's one address: the model requests of its sessions."""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import Receive, Scope, Send

from harness_adapters.contract import WireFormat
from harness_adapters.driven.line import Line
from harness_adapters.driven.native import NoTurnError
from harness_adapters.model.client import PATHS, PassedOn

MAX_BODY_BYTES = 64 << 20
KEEP_ALIVE_SECONDS = 10.0
"""How often a harness that waits for its answer is sent a comment, so that it does not take the model for dead."""

_FORMATS: Mapping[str, WireFormat] = {path: wire_format for wire_format, path in PATHS.items()}
_PASSED_ON = frozenset(["anthropic-beta", "anthropic-version", "openai-beta"])
_EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
_JSON = [(b"content-type", b"application/json")]


class Relay:
    """An ASGI app; ``lines`` by the key in the path: ``/s/KEY/v1/…``."""

    def __init__(self, tool_name: Callable[[str], str]) -> None:
        self.lines: dict[str, Line] = {}
        self._tool_name = tool_name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        _, _, rest = scope["path"].partition("/s/")
        key, slash, path = rest.partition("/")
        line = self.lines.get(key)
        body = await _read(receive)
        if line is None or body is None or scope["method"] != "POST":
            await _answer(send, 404, _error("there is nothing here for this session"))
        elif (wire_format := _FORMATS.get(slash + path)) is not None:
            await self._model(line, wire_format, scope, body, receive, send)
        else:
            await _answer(send, 404, _error("only models are served here"))

    async def _model(
        self, line: Line, wire_format: WireFormat, scope: Scope, body: bytes, receive: Receive, send: Send
    ) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        kept = {name: value for name, value in headers.items() if name in _PASSED_ON}
        passed_on = PassedOn(wire_format, body, kept, self._tool_name)
        answer = asyncio.ensure_future(line.ask(passed_on))
        gone = asyncio.ensure_future(_gone(receive))
        started = False
        try:
            while not answer.done() and not gone.done():
                await asyncio.wait({answer, gone}, timeout=KEEP_ALIVE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if not answer.done() and not gone.done():
                    if not started:
                        await send({"type": "http.response.start", "status": 200, "headers": _EVENTS})
                        started = True
                    await send({"type": "http.response.body", "body": b": the model works\n\n", "more_body": True})
            if not answer.done():
                return
            content = answer.result()
        except NoTurnError as error:
            if not started:
                await _answer(send, 400, _error(str(error)))
            return
        finally:
            for task in (answer, gone):
                task.cancel()
            await asyncio.wait({answer, gone})
        if not started:
            await send({"type": "http.response.start", "status": 200, "headers": _EVENTS})
        await send({"type": "http.response.body", "body": content})


async def _read(receive: Receive) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body"):
            return bytes(body)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _error(message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": "invalid_request_error", "message": message}}


async def _answer(send: Send, status: int, content: dict[str, Any]) -> None:
    body = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
    await send({"type": "http.response.start", "status": status, "headers": _JSON})
    await send({"type": "http.response.body", "body": body})
