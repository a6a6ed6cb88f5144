"""Model requests through the gateway: which format, and the answer as it streams."""

import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx

from harness_adapters.builtin import anthropic, openai
from harness_adapters.builtin.answer import Complete, Preview, Reader
from harness_adapters.builtin.errors import MAX_MESSAGE_CHARS, ModelError, from_response
from harness_adapters.builtin.sse import events
from harness_adapters.contract import REQUEST_ID_HEADER, HarnessSpec, HistoryItem

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


_WIRES = {
    "anthropic": _Wire(anthropic.PATH, anthropic.HEADERS, anthropic.request, anthropic.AnthropicReader),
    "openai": _Wire(openai.PATH, openai.HEADERS, openai.request, openai.OpenAIReader),
}


class ModelClient:
    """Asks models; holds a connection pool and what it knows of routes, and nothing of any session."""

    def __init__(self, new_id: Callable[[], str], *, stream_idle_seconds: float):
        self._new_id = new_id
        self._routes: dict[tuple[str, str], tuple[float, _Wire]] = {}
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(stream_idle_seconds, connect=CONNECT_SECONDS, write=WRITE_SECONDS, pool=None),
            limits=httpx.Limits(max_keepalive_connections=32),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close the pool."""
        await self._http.aclose()

    async def ask(
        self, spec: HarnessSpec, history: Sequence[HistoryItem], *, request_id: str
    ) -> AsyncGenerator[Preview | Complete]:
        """Yield what can be shown of the answer as it comes, and the whole answer last; raises `ModelError`."""
        try:
            wire = await self._wire(spec)
            async with self._http.stream(
                "POST",
                spec.gateway_url + wire.path,
                json=wire.request(spec, history),
                headers={
                    **wire.headers,
                    "authorization": f"Bearer {spec.gateway_token}",
                    REQUEST_ID_HEADER: request_id,
                },
            ) as response:
                if response.status_code != 200:
                    raise from_response(response.status_code, response.headers, await _head(response))
                async with aclosing(self._read(response, wire)) as pieces:
                    async for piece in pieces:
                        yield piece
        except httpx.ReadTimeout as error:
            raise ModelError("interrupted_stream", "the model has been silent for too long") from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ModelError("unreachable", "the model gateway does not answer") from error
        except httpx.HTTPError as error:
            raise ModelError("interrupted_stream", f"the answer broke off ({type(error).__name__})") from error

    async def _read(self, response: httpx.Response, wire: _Wire) -> AsyncGenerator[Preview | Complete]:
        reader = wire.reader(self._new_id)
        async with aclosing(events(response.aiter_bytes())) as found:
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
        wire = _WIRES[answer.json()["format"]]
        self._routes[key] = (time.monotonic() + ROUTE_SECONDS, wire)
        return wire


async def _head(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > 16 * MAX_MESSAGE_CHARS:
            break
    return bytes(body)
