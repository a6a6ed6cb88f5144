"""The few requests of the Kubernetes API that sandboxes need.

Spoken with httpx and websockets: it is six requests and one stream, and a worker that has no pods carries nothing of
a client that knows them all.
"""

import asyncio
import json
import ssl
import subprocess
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import urlencode

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from sandbox.contract import SandboxError
from sandbox.kubernetes.access import Access, find_access

REQUEST_SECONDS = 30.0
CONNECT_SECONDS = 10.0
WATCH_SECONDS = 30
"""A watch is begun again after so long; the server may end it at any time anyway."""
WATCH_SILENCE_SECONDS = 45.0
"""A server that has not ended a quiet watch by then is away."""
STREAM_PROTOCOL = Subprotocol("v5.channel.k8s.io")
"""The first in which either side can close standard input; since Kubernetes 1.30."""
MAX_MESSAGE_BYTES = 64 << 20

Json = dict[str, Any]


class ApiError(Exception):
    """The API server refused; ``status`` is HTTP's, ``reason`` and the message are its own."""

    def __init__(self, status: int, text: str):
        self.status = status
        self.reason, message = _told(text)
        super().__init__(message)


class Api:
    """A connection pool to the API server."""

    def __init__(self) -> None:
        self._access: Access | None = None
        self._client: httpx.AsyncClient | None = None

    async def _ready(self) -> tuple[Access, httpx.AsyncClient]:
        if self._access is None or self._client is None:
            access = await asyncio.to_thread(find_access)
            if self._access is not None and self._client is not None:
                return self._access, self._client  # somebody else has found it meanwhile
            self._access = access
            verify: ssl.SSLContext | bool = self._access.tls or False
            self._client = httpx.AsyncClient(
                base_url=self._access.server,
                verify=verify,
                trust_env=False,
                timeout=httpx.Timeout(REQUEST_SECONDS, connect=CONNECT_SECONDS),
            )
        return self._access, self._client

    async def server(self) -> tuple[str, int]:
        """Return host and port of the API server as this process reaches it."""
        access, _ = await self._ready()
        url = httpx.URL(access.server)
        return url.host, url.port or 443

    async def ask(self, method: str, path: str, body: Json | None = None, **query: str) -> Json:
        """Return the answer; raises `ApiError`, or `SandboxError` (``engine_away``)."""
        access, client = await self._ready()
        kind = "application/strategic-merge-patch+json" if method == "PATCH" else "application/json"
        headers = {**await _headers(access), "Content-Type": kind}
        content = None if body is None else json.dumps(body).encode()
        try:
            answer = await client.request(method, path, params=query, content=content, headers=headers)
        except (httpx.HTTPError, OSError) as error:
            raise away(error) from error
        if answer.status_code >= 500 or answer.status_code == 429:
            raise away(f"HTTP {answer.status_code}: {_told(answer.text)[1]}")
        if answer.status_code >= 400:
            raise ApiError(answer.status_code, answer.text)
        return answer.json()

    async def watch(self, path: str, **query: str) -> AsyncGenerator[Json]:
        """Yield the objects that match, as they are and as they change, until the server ends it."""
        access, client = await self._ready()
        headers = await _headers(access)
        timeout = httpx.Timeout(REQUEST_SECONDS, connect=CONNECT_SECONDS, read=WATCH_SILENCE_SECONDS)
        params = {**query, "watch": "1", "timeoutSeconds": str(WATCH_SECONDS)}
        try:
            async with client.stream("GET", path, params=params, headers=headers, timeout=timeout) as answer:
                if answer.status_code >= 400:
                    raise ApiError(answer.status_code, (await answer.aread()).decode())
                async for line in answer.aiter_lines():
                    event = json.loads(line)
                    if event["type"] in {"ADDED", "MODIFIED", "DELETED"}:
                        yield event
        except (httpx.HTTPError, OSError) as error:
            raise away(error) from error

    async def stream(self, path: str, container: str, command: list[str]) -> ClientConnection:
        """Start a program in a pod and return its standard streams, as channels of a WebSocket."""
        access, _ = await self._ready()
        headers = await _headers(access)
        query = [
            ("container", container),
            ("stdin", "true"),
            ("stdout", "true"),
            *(("command", each) for each in command),
        ]
        try:
            return await connect(
                f"{access.server.replace('http', 'ws', 1)}{path}?{urlencode(query)}",
                ssl=access.tls,
                additional_headers=headers,
                subprotocols=[STREAM_PROTOCOL],
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                open_timeout=CONNECT_SECONDS,
                close_timeout=1,
                proxy=None,
            )
        except InvalidStatus as error:
            body = (error.response.body or b"").decode(errors="replace")
            raise ApiError(error.response.status_code, body) from error
        except (InvalidHandshake, OSError, TimeoutError) as error:
            raise away(error) from error

    async def close(self) -> None:
        """Release connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = self._access = None


def away(error: Exception | str) -> SandboxError:
    """Return the error of an API server that does not answer, or not as it should."""
    return SandboxError(f"the Kubernetes API server does not answer: {error or type(error)}", code="engine_away")


async def _headers(access: Access) -> dict[str, str]:
    """Return the headers of a request; whatever keeps a token from being had, the API server is out of reach."""
    try:
        return await asyncio.to_thread(access.headers)
    except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        raise away(f"no token for it can be had: {error}") from error


def _told(text: str) -> tuple[str, str]:
    """Return the reason (a word) and the message of a refusal."""
    try:
        status = json.loads(text)
        return status.get("reason", ""), status["message"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", text.strip() or "no reason given"
