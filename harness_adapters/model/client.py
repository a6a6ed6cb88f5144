"""Model requests through the gateway: which format, and the answer as it streams."""

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from harness_adapters.contract import REQUEST_ID_HEADER, AnswerBlock, HarnessSpec, HistoryItem, ToolUse, WireFormat
from harness_adapters.guest import PLAIN
from harness_adapters.model import anthropic, openai, responses
from harness_adapters.model.answer import Complete, Preview, Reader
from harness_adapters.model.errors import MAX_MESSAGE_CHARS, ModelError, from_response
from harness_adapters.model.sse import events

CONNECT_SECONDS = 10
"""The gateway is on this machine or next to it."""

ROUTE_SECONDS = 60
"""How long a model's route is believed: routes change when the gateway is restarted with other settings."""

WRITE_SECONDS = 60
"""For each piece of a request's body."""


@dataclass(frozen=True)
class _Wire:
    path: str
    headers: Mapping[str, str]
    request: Callable[[HarnessSpec, Sequence[HistoryItem]], dict[str, Any]]
    reader: Callable[[Callable[[], str]], Reader]


_WIRES: Mapping[WireFormat, _Wire] = {
    "anthropic": _Wire(anthropic.PATH, anthropic.HEADERS, anthropic.request, anthropic.AnthropicReader),
    "openai": _Wire(openai.PATH, openai.HEADERS, openai.request, openai.OpenAIReader),
    "openai-responses": _Wire(responses.PATH, responses.HEADERS, responses.request, responses.ResponsesReader),
}
PATHS: Mapping[WireFormat, str] = {wire_format: wire.path for wire_format, wire in _WIRES.items()}
"""Where each format is asked for, at the gateway as at a provider."""


@dataclass
class PassedOn:
    """A request that a harness wrote itself, to be passed on as it is.

    ``answer``: what came back, byte for byte, once it was a whole answer. ``call_ids``: as in `Complete`.
    """

    wire_format: WireFormat
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    tool_names: Callable[[str], str] = str
    answer: bytes = b""
    call_ids: Mapping[str, str] = field(default_factory=dict[str, str])


class ModelClient:
    """Asks models; holds a connection pool and what it knows of routes, and nothing of any session."""

    def __init__(self, new_id: Callable[[], str], *, stream_idle_seconds: float):
        self._new_id = new_id
        self._routes: dict[tuple[str, str], tuple[float, _Wire]] = {}
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(stream_idle_seconds, connect=CONNECT_SECONDS, write=WRITE_SECONDS, pool=None),
            limits=httpx.Limits(max_keepalive_connections=32),
            trust_env=False,
            verify=PLAIN,
        )

    async def close(self) -> None:
        """Close the pool."""
        await self._http.aclose()

    async def ask(
        self, spec: HarnessSpec, history: Sequence[HistoryItem], *, request_id: str
    ) -> AsyncGenerator[Preview | Complete]:
        """Yield what can be shown of the answer as it comes, and the whole answer last; raises `ModelError`."""
        with _as_model_errors():
            wire = await self._wire(spec)
            body = json.dumps(wire.request(spec, history), ensure_ascii=False).encode("utf-8", "surrogatepass")
            async with aclosing(self._exchange(spec, wire, body, wire.headers, request_id, [])) as pieces:
                async for piece in pieces:
                    yield piece

    async def pass_on(
        self, spec: HarnessSpec, asked: PassedOn, *, request_id: str
    ) -> AsyncGenerator[Preview | Complete]:
        """As `ask`, with a request that is there already; its answer is kept in it."""
        wire, kept = _WIRES[asked.wire_format], list[bytes]()
        with _as_model_errors():
            exchange = self._exchange(spec, wire, asked.body, asked.headers, request_id, kept)
            async with aclosing(exchange) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Complete):
                        asked.answer, asked.call_ids = b"".join(kept), piece.call_ids
                        blocks = [_renamed(block, asked.tool_names) for block in piece.blocks]
                        yield replace(piece, blocks=blocks)
                    else:
                        yield piece

    async def _exchange(
        self,
        spec: HarnessSpec,
        wire: _Wire,
        body: bytes,
        headers: Mapping[str, str],
        request_id: str,
        kept: list[bytes],
    ) -> AsyncGenerator[Preview | Complete]:
        sent = {
            **headers,
            "content-type": "application/json",
            "authorization": f"Bearer {spec.gateway_token}",
            REQUEST_ID_HEADER: request_id,
        }
        async with self._http.stream("POST", spec.gateway_url + wire.path, content=body, headers=sent) as response:
            if response.status_code != 200:
                raise from_response(response.status_code, response.headers, await _head(response))
            async with aclosing(self._read(_keeping(response, kept), wire)) as pieces:
                async for piece in pieces:
                    yield piece

    async def _read(self, chunks: AsyncIterator[bytes], wire: _Wire) -> AsyncGenerator[Preview | Complete]:
        reader = wire.reader(self._new_id)
        async with aclosing(events(chunks)) as found:
            async for event in found:
                try:
                    shown = reader.feed(event)
                except (KeyError, TypeError, AttributeError, ValueError) as error:
                    raise ModelError(
                        "interrupted_stream", f"the provider's stream is malformed: {error!r}"
                    ) from error
                for preview in shown:
                    yield preview
        answer = reader.complete()
        if answer is None:
            raise ModelError("interrupted_stream", "the answer ended before it was complete")
        yield answer

    async def _wire(self, spec: HarnessSpec) -> _Wire:
        key = (spec.gateway_url, spec.model)
        known_until, wire = self._routes.get(key, (0.0, None))
        if wire is not None and time.monotonic() < known_until:
            return wire
        answer = await self._http.get(
            f"{spec.gateway_url}/v1/routes", params={"model": spec.model}, timeout=CONNECT_SECONDS
        )
        if answer.status_code != 200:
            raise from_response(answer.status_code, answer.headers, answer.content)
        wire = _WIRES[answer.json()["formats"][0]]
        self._routes[key] = (time.monotonic() + ROUTE_SECONDS, wire)
        return wire


@contextmanager
def _as_model_errors() -> Generator[None]:
    try:
        yield
    except httpx.ReadTimeout as error:
        raise ModelError("interrupted_stream", "the model has been silent for too long") from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise ModelError("unreachable", "the model gateway does not answer") from error
    except httpx.HTTPError as error:
        raise ModelError("interrupted_stream", f"the answer broke off ({type(error).__name__})") from error


async def _keeping(response: httpx.Response, kept: list[bytes]) -> AsyncGenerator[bytes]:
    async for chunk in response.aiter_bytes():
        kept.append(chunk)
        yield chunk


def _renamed(block: AnswerBlock, names: Callable[[str], str]) -> AnswerBlock:
    return block.model_copy(update={"name": names(block.name)}) if isinstance(block, ToolUse) else block


async def _head(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > 16 * MAX_MESSAGE_CHARS:
            break
    return bytes(body)
