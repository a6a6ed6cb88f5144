"""One request on its way through: the provider's bytes to the client as they come."""

import asyncio
from collections.abc import Iterable

import httpx
import structlog
from starlette.types import Receive, Scope, Send

from controlplane.models.envelope import error_response
from controlplane.models.upstream import Upstream, UpstreamRequest
from harness_adapters.contract import WireFormat

_NOT_PASSED_ON = frozenset(
    [
        "connection", "content-encoding", "content-length", "keep-alive", "proxy-authenticate",
        "proxy-authorization", "set-cookie", "te", "trailer", "transfer-encoding", "upgrade",
    ]
)  # fmt: skip

_UNPACKED = frozenset(["identity", "gzip", "deflate"])
"""What httpx undoes. Nothing is asked to be packed, and in anything else a key would pass unseen."""

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
        scrubber = self._upstream.scrubber()
        try:
            async with self._upstream.answer(self._request) as answer:
                _check_encoding(answer.headers)
                headers = [(name, scrubber.mask(value)) for name, value in answer.headers.raw]
                await send(_start(answer.status_code, headers))
                started = True
                async for chunk in answer.aiter_bytes():
                    if clean := scrubber.feed(chunk):
                        await send({"type": "http.response.body", "body": clean, "more_body": True})
        except httpx.HTTPError as error:
            reason = type(error).__name__
            _log.warning("model_provider_failed", provider=self._upstream.name, error=reason, started=started)
            if started:
                return None
            message = (
                f"the provider {self._upstream.name!r} gave no answer ({reason}); its base_url is in the settings"
            )
            return await error_response(self._format, 502, message)(scope, receive, send)
        return await send({"type": "http.response.body", "body": scrubber.finish()})


def _check_encoding(headers: httpx.Headers) -> None:
    if not _UNPACKED.issuperset(headers.get_list("content-encoding", split_commas=True)):
        raise httpx.DecodingError("an encoding that was not asked for")


def _start(status: int, headers: Iterable[tuple[bytes, bytes]]) -> dict[str, object]:
    kept = [(name, value) for name, value in headers if name.lower().decode("latin-1") not in _NOT_PASSED_ON]
    return {"type": "http.response.start", "status": status, "headers": kept}


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
