"""One provider as the gateway reaches it: its address, its key, its share of connections."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from controlplane.settings import ModelProvider
from harness_adapters.contract import WireFormat
from sandbox.egress.scrub import KnownForms, Scrubber

CONNECT_SECONDS = 10
"""Long enough for a slow TLS handshake, short enough that a dead address is reported while someone watches."""

WRITE_SECONDS = 60
"""For each piece of a request's body: a provider that stops reading for a minute is gone."""

IDLE_SECONDS = 600
"""Between two pieces of an answer. Answers that are not streamed stay silent for minutes; whoever streams
watches with a shorter limit of its own."""

KEEPALIVE_SECONDS = 60
"""Turns come in bursts of requests; providers close idle connections after a minute or more."""

SHORTEST_SCRUBBED_KEY = 16
"""The keys of providers have 32 characters and more; what is shorter is a word such as "ollama", for servers that
want none, and may well stand in an answer."""

ANTHROPIC_VERSION = "2023-06-01"
"""The one version of Anthropic's API, for a client that names none."""

_REQUEST_HEADERS = frozenset(
    [
        "accept",
        "anthropic-beta",
        "anthropic-version",
        "content-type",
        "idempotency-key",
        "openai-beta",
    ]
)
_API_PATHS: dict[WireFormat, str] = {
    "anthropic": "/v1/messages",
    "openai": "/chat/completions",
    "openai-responses": "/responses",
}


def create_client() -> httpx.AsyncClient:
    """Return the pooled client for all providers; it never retries, and it asks loopback without a proxy."""
    limits = httpx.Limits(max_keepalive_connections=128, keepalive_expiry=KEEPALIVE_SECONDS)
    direct = httpx.AsyncHTTPTransport(limits=limits)
    return httpx.AsyncClient(
        limits=limits,
        timeout=httpx.Timeout(IDLE_SECONDS, connect=CONNECT_SECONDS, write=WRITE_SECONDS, pool=None),
        mounts={"all://127.0.0.1": direct, "all://localhost": direct},
    )


@dataclass(frozen=True)
class UpstreamRequest:
    """A client's request as far as it is passed on."""

    body: bytes
    headers: Mapping[str, str]
    query: str


class Upstream:
    """Sends requests of one format to one provider; those that find none of its ``slots`` free wait their turn."""

    def __init__(
        self,
        name: str,
        provider: ModelProvider,
        wire_format: WireFormat,
        *,
        client: httpx.AsyncClient,
        slots: asyncio.Semaphore,
    ):
        self.name = name
        self._format: WireFormat = wire_format
        self._url = provider.base_url.rstrip("/") + _API_PATHS[wire_format]
        self._key = provider.api_key.get_secret_value() if provider.api_key else None
        scrubbed = (self._key.encode(),) if self._key and len(self._key) >= SHORTEST_SCRUBBED_KEY else ()
        self._forms = KnownForms().of(scrubbed)
        self._client = client
        self._slots = slots

    @asynccontextmanager
    async def answer(self, request: UpstreamRequest, *, sent: Callable[[], None]) -> AsyncGenerator[httpx.Response]:
        """Yield the provider's answer with its body unread; raises `httpx.HTTPError` if there is none.

        ``sent`` is called when the first byte is about to go out to a provider that is there.
        """

        async def trace(event: str, _: object) -> None:
            if event.endswith("send_request_headers.started"):
                sent()

        url = f"{self._url}?{request.query}" if request.query else self._url
        async with self._slots:
            outgoing = self._client.build_request(
                "POST",
                url,
                content=request.body,
                headers=self._headers(request.headers),
                extensions={"trace": trace},
            )
            response = await self._client.send(outgoing, stream=True)
            try:
                yield response
            finally:
                await response.aclose()

    def scrubber(self) -> Scrubber:
        """Return what takes this provider's key out of one answer: some quote it, escaped or not."""
        return Scrubber(self._forms)

    def _headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        chosen = {name.lower(): value for name, value in headers.items() if name.lower() in _REQUEST_HEADERS}
        chosen["accept-encoding"] = "identity"  # in what is compressed a key would not be recognised
        if self._format == "anthropic":
            chosen.setdefault("anthropic-version", ANTHROPIC_VERSION)
        if self._key and self._format == "anthropic":
            chosen["x-api-key"] = self._key
        elif self._key:
            chosen["authorization"] = f"Bearer {self._key}"
        return chosen
