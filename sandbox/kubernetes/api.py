"""The few requests of the Kubernetes API that sandboxes need, sent with `kubernetes.aio`.

Objects stay the JSON that they are: the client's models of a pod are some hundred classes that no caller here asks
for, and its `Watch` takes only calls that return them.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

from aiohttp import ClientError, ClientResponse, ClientTimeout, ClientWebSocketResponse
from kubernetes.aio.client.rest import RESTResponse
from kubernetes.aio.config import ConfigException

from sandbox.contract import SandboxError
from sandbox.kubernetes.access import Access, find_access

REQUEST_SECONDS = 30.0
CONNECT_SECONDS = 10.0
WATCH_SECONDS = 30
"""A watch is begun again after so long; the server may end it at any time anyway."""
WATCH_SILENCE_SECONDS = 45.0
"""A server that has not ended a quiet watch by then is away."""
HEARTBEAT_SECONDS = 20
"""How often a quiet stream is asked whether its other end is there; half as long is waited for the answer."""
STREAM_PROTOCOL = "v5.channel.k8s.io"
"""The first in which either side can close standard input; since Kubernetes 1.30. The client speaks v4 alone, and
does not name the server that a kubeconfig names; so streams are opened with its session."""

Json = dict[str, Any]
Headers = dict[str, str]
Answer = TypeVar("Answer")


class ApiError(Exception):
    """The API server refused; ``status`` is HTTP's, ``reason`` and the message are its own."""

    def __init__(self, status: int, text: str):
        self.status = status
        self.reason, message = _told(text)
        super().__init__(message)


class Api:
    """A connection pool to the API server. Belongs to one event loop, and so does each of its streams."""

    def __init__(self) -> None:
        self._access: Access | None = None
        self._finding = asyncio.Lock()
        self._closed = False

    async def _ready(self) -> Access:
        async with self._finding:
            if self._closed:
                raise away("this worker has closed its connections")
            if self._access is None:
                self._access = await find_access(_refuse)
            return self._access

    async def server(self) -> tuple[str, int]:
        """Return host and port of the API server as this process reaches it."""
        url = urlsplit((await self._ready()).server)
        return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)

    async def ask(self, method: str, path: str, body: Json | None = None, **query: str) -> Json:
        """Return the answer; raises `ApiError`, or `SandboxError` (``engine_away``)."""
        kind = "application/strategic-merge-patch+json" if method == "PATCH" else "application/json"
        timeout = ClientTimeout(total=REQUEST_SECONDS, sock_connect=CONNECT_SECONDS)

        async def send(access: Access, headers: Headers) -> Json:
            answer = await access.client.rest_client.request(
                method, f"{access.server}{path}?{urlencode(query)}", {**headers, "Content-Type": kind}, body,
                _request_timeout=timeout,
            )  # fmt: skip
            return json.loads(await answer.read())

        return await self._answered(send)

    async def watch(self, path: str, **query: str) -> AsyncGenerator[Json]:
        """Yield the objects that match, as they are and as they change, until the server ends it."""
        params = urlencode({**query, "watch": "1", "timeoutSeconds": str(WATCH_SECONDS)})
        timeout = ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=WATCH_SILENCE_SECONDS)

        async def send(access: Access, headers: Headers) -> RESTResponse:
            return await access.client.rest_client.request(
                "GET", f"{access.server}{path}?{params}", headers, _request_timeout=timeout
            )

        answer: ClientResponse = (await self._answered(send)).response
        with contextlib.closing(answer):
            try:
                async for line in answer.content:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise away(event["object"].get("message", "a watch ended"))
                    if event["type"] != "BOOKMARK":
                        yield event
            except (ClientError, OSError, ValueError) as error:
                raise away(error) from error

    async def stream(self, path: str, container: str, command: list[str]) -> ClientWebSocketResponse:
        """Start a program in a pod and return its standard streams, as channels of a WebSocket."""
        query = [("container", container), ("stdin", "true"), ("stdout", "true")]
        params = urlencode([*query, *(("command", each) for each in command)])

        async def send(access: Access, headers: Headers) -> ClientWebSocketResponse:
            async with asyncio.timeout(CONNECT_SECONDS):
                opened = await access.session.ws_connect(
                    f"{access.server}{path}?{params}",
                    headers=headers,
                    protocols=(STREAM_PROTOCOL,),
                    heartbeat=HEARTBEAT_SECONDS,
                    server_hostname=access.server_name,
                )
            if opened.protocol != STREAM_PROTOCOL:
                await opened.close()
                raise away(f"it does not speak {STREAM_PROTOCOL}, as Kubernetes does since 1.30")
            return opened

        return await self._sent(send)

    async def _answered(self, send: Callable[[Access, Headers], Awaitable[Answer]]) -> Answer:
        try:
            return await self._sent(send)
        except ApiError as error:
            if error.status >= 500 or error.status in {401, 429}:
                raise away(f"HTTP {error.status}: {error}") from error
            raise

    async def _sent(self, send: Callable[[Access, Headers], Awaitable[Answer]]) -> Answer:
        """Send, and once more with a new token if the one at hand holds no more."""
        access = await self._ready()
        try:
            headers = await access.headers()
            try:
                return await send(access, dict(headers))
            except ApiError as error:
                if error.status != 401:
                    raise
            return await send(access, await access.renewed(headers))
        except (ClientError, ConfigException, OSError, ValueError) as error:
            raise away(error) from error

    async def close(self) -> None:
        """Release connections, and open none for what is still under way."""
        async with self._finding:
            self._closed = True
            if self._access is not None:
                await self._access.close()
                self._access = None


async def _refuse(answer: ClientResponse) -> None:
    """Raise what the API server says, which is in a body that the client would not read for a stream."""
    if answer.status >= 400:
        raise ApiError(answer.status, await answer.text(errors="replace"))


def away(error: Exception | str) -> SandboxError:
    """Return the error of an API server that does not answer, or not as it should."""
    return SandboxError(f"the Kubernetes API server does not answer: {error or type(error)}", code="engine_away")


def _told(text: str) -> tuple[str, str]:
    """Return the reason (a word) and the message of a refusal."""
    try:
        status = json.loads(text)
        return status.get("reason", ""), status["message"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", text.strip() or "no reason given"
