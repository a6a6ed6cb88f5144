"""One request on its way through: the provider's bytes to the client as they come."""

import asyncio
from collections.abc import Iterable

import httpx
import structlog
from starlette.types import Receive, Scope, Send

from controlplane.models.envelope import WireFormat, error_response
from controlplane.models.upstream import Upstream, UpstreamRequest

MAX_ERROR_BYTES = 1024 * 1024
"""An error's body is held whole while a key is looked for in it; real ones take a few hundred bytes."""

_NOT_PASSED_ON = frozenset(
    [
        "connection", "content-length", "keep-alive", "proxy-authenticate", "proxy-authorization", "set-cookie",
        "te", "trailer", "transfer-encoding", "upgrade",
    ]
)  # fmt: skip

_log = structlog.get_logger(__name__)


class Exchange:
    """An ASGI response that relays the provider's answer, and lets go of it as soon as the client does.

    An answer that breaks off is passed on as one that breaks off: the client's connection is closed without the
    last chunk, and nobody takes what came for all there was.
    """

    def __init__(self, upstream: Upstream, request: UpstreamRequest, *, wire_format: WireFormat):
        self._upstream = upstream
        self._request = request
        self._format: WireFormat = wire_format

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or stop when the client is gone."""
        relay = asyncio.create_task(self._relay(scope, receive=receive, send=send))
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({relay, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not relay.done():
                relay.cancel()
            await asyncio.wait({relay, gone})
        if not relay.cancelled():
            relay.result()

    async def _relay(self, scope: Scope, *, receive: Receive, send: Send) -> None:
        started = False
        try:
            async with self._upstream.answer(self._request) as answer:
                if answer.status_code >= 400:
                    return await self._pass_error(answer, send)
                await send(_start(answer.status_code, answer.headers.raw))
                started = True
                async for chunk in answer.aiter_raw():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except httpx.HTTPError as error:
            reason = type(error).__name__
            _log.warning("model_provider_failed", provider=self._upstream.name, error=reason, started=started)
            if started:
                return None
            message = (
                f"the provider {self._upstream.name!r} gave no answer ({reason}); its base_url is in the settings"
            )
            return await error_response(self._format, 502, message)(scope, receive, send)
        return await send({"type": "http.response.body", "body": b""})

    async def _pass_error(self, answer: httpx.Response, send: Send) -> None:
        body = bytearray()
        async for chunk in answer.aiter_bytes():
            body += chunk
            if len(body) > MAX_ERROR_BYTES:
                break
        headers = [(name, value) for name, value in answer.headers.raw if name.lower() != b"content-encoding"]
        await send(_start(answer.status_code, headers))
        await send({"type": "http.response.body", "body": self._upstream.redact(bytes(body))})


def _start(status: int, headers: Iterable[tuple[bytes, bytes]]) -> dict[str, object]:
    kept = [(name, value) for name, value in headers if name.lower().decode("latin-1") not in _NOT_PASSED_ON]
    return {"type": "http.response.start", "status": status, "headers": kept}


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
