"""One request on its way through: the provider's bytes to the client as they come, and what they cost on record."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import httpx
import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from controlplane.models.asked import Asked
from controlplane.models.booking import Booking, UnsettledError
from controlplane.models.envelope import error_response
from controlplane.models.log import Entry
from controlplane.models.routing import Route
from controlplane.models.upstream import Upstream
from harness_adapters.model.meter import Meter
from sandbox.egress.scrub import Scrubber

MODEL_HEADER = "x-bulkhead-model"
"""Says which model answered: it may have stood in for the one that was asked."""

_NOT_PASSED_ON = frozenset(
    [
        "connection", "content-encoding", "content-length", "keep-alive", "proxy-authenticate",
        "proxy-authorization", "set-cookie", "te", "trailer", "transfer-encoding", "upgrade", MODEL_HEADER,
    ]
)  # fmt: skip

_UNPACKED = frozenset(["identity", "gzip", "deflate"])
"""What httpx undoes. Nothing is asked to be packed, and in anything else a key would pass unseen."""

_MAX_REFUSAL_BYTES = 256 * 1024
"""Of a refusal that is kept while other models are tried."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A model that may answer, and its provider."""

    route: Route
    upstream: Upstream


@dataclass
class _Opened:
    """An answer of which the first bytes are there."""

    candidate: Candidate
    asked: bytes
    status: int
    headers: list[tuple[bytes, bytes]]
    first: bytes
    rest: AsyncIterator[bytes]
    scrubber: Scrubber = field(init=False)

    def __post_init__(self) -> None:
        self.scrubber = self.candidate.upstream.scrubber()

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def content_type(self) -> str:
        found = (value for name, value in self.headers if name.lower() == b"content-type")
        return next(found, b"").decode("latin-1")

    async def clean(self) -> AsyncGenerator[bytes]:
        """Yield what may pass, piece by piece."""
        if passes := self.scrubber.feed(self.first):
            yield passes
        async for chunk in self.rest:
            if passes := self.scrubber.feed(chunk):
                yield passes
        if held := self.scrubber.finish():
            yield held

    def passed_headers(self) -> list[tuple[bytes, bytes]]:
        masked = [(name, self.scrubber.mask(value)) for name, value in self.headers]
        return [*_passed_on(masked), (MODEL_HEADER.encode(), self.candidate.route.model.encode("latin-1", "replace"))]


class Exchange:
    """An ASGI response that relays the first answer of some models, and lets go of it as soon as the client does.

    An answer that breaks off is passed on as one that breaks off: the client's connection is closed without the
    last chunk, and nobody takes what came for all there was. So is one whose cost cannot be recorded.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        asked: Asked,
        *,
        booking: Booking,
        entry: Entry,
        first_byte_seconds: float,
    ):
        self._candidates = candidates
        self._asked = asked
        self._booking = booking
        self._entry = entry
        self._first_byte_seconds = first_byte_seconds
        self._started = False

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
            await self._booking.give_up()
            self._entry.finish()
        if not relay.cancelled():
            relay.result()

    async def _relay(self, scope: Scope, *, receive: Receive, send: Send) -> None:
        try:
            refusal = await self._tried(send)
            if refusal is not None:
                await self._booking.settle_refusal()
                self._entry.answers(refusal.headers.get("content-type", ""))
                self._entry.add(bytes(refusal.body))
                await refusal(scope, receive, send)
        except UnsettledError as error:
            _log.warning("model_answer_cut", request_id=self._booking.request_id, cause=str(error))
            if not self._started:
                message = "what this request costs cannot be recorded: Postgres does not answer; try again"
                await error_response(self._asked.wire_format, 503, message)(scope, receive, send)
        except httpx.HTTPError as error:
            # The client sees its connection closed only when this is on record.
            _log.warning("model_answer_broke_off", request_id=self._booking.request_id, error=type(error).__name__)
            await self._booking.give_up()

    async def _tried(self, send: Send) -> Response | None:
        """Pass on the answer of the first model that gives one, or return the first one's refusal."""
        refusal: Response | None = None
        for place, candidate in enumerate(self._candidates):
            if place and not await self._booking.fall_back(candidate.route):
                continue
            is_last = candidate is self._candidates[-1]
            try:
                async with self._opened(candidate, may_wait=is_last) as opened:
                    if len(self._candidates) == 1 or self._is_taken(opened, place):
                        await self._pass_on(opened, send)
                        return None
                    failed, refused = f"HTTP {opened.status}", await _kept(opened)
            except (httpx.HTTPError, TimeoutError) as error:
                if self._started:
                    raise
                failed, refused = type(error).__name__, self._unanswered(candidate, error)
            _log.warning("model_provider_failed", provider=candidate.route.provider, error=failed)
            refusal = refusal or refused
        return refusal

    def _is_taken(self, opened: _Opened, place: int) -> bool:
        """Say whether an answer is passed on, rather than another model tried."""
        if opened.is_success:
            return bool(opened.first)
        return place == 0 and opened.status != 429 and opened.status < 500

    @asynccontextmanager
    async def _opened(self, candidate: Candidate, *, may_wait: bool) -> AsyncGenerator[_Opened]:
        """Yield a provider's answer when its first bytes are there."""
        request = self._asked.of_model(candidate.route.upstream_model)
        if candidate is self._candidates[0]:
            self._entry.asks(request.body, candidate.upstream.scrubber().mask)
        patience = None if may_wait or not self._asked.is_streamed else self._first_byte_seconds
        limit = asyncio.timeout(patience)
        async with limit, candidate.upstream.answer(request, sent=self._booking.mark_sent) as answer:
            _check_encoding(answer.headers)
            self._booking.status = answer.status_code
            chunks = answer.aiter_bytes()
            first = await anext(chunks, b"")
            limit.reschedule(None)
            yield _Opened(candidate, request.body, answer.status_code, answer.headers.raw, first, chunks)

    async def _pass_on(self, opened: _Opened, send: Send) -> None:
        meter = self._meter(opened) if opened.is_success else None
        if meter is None:
            await self._booking.settle_refusal()
        if opened.candidate is not self._candidates[0]:
            self._entry.asks(opened.asked, opened.scrubber.mask)
        self._entry.answers(opened.content_type)
        async with aclosing(opened.clean()) as pieces:
            async for piece in pieces:
                self._booking.mark_first_byte()
                if meter is not None:
                    meter.feed(piece)
                    if meter.ending:
                        await self._booking.settle_answer(meter)
                await self._start(opened, send)
                self._entry.add(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        if meter is not None:
            meter.finish()
            await self._booking.settle_answer(meter)
        await self._start(opened, send)
        await send({"type": "http.response.body", "body": b""})

    async def _start(self, opened: _Opened, send: Send) -> None:
        if not self._started:
            headers = opened.passed_headers()
            await send({"type": "http.response.start", "status": opened.status, "headers": headers})
            self._started = True

    def _meter(self, opened: _Opened) -> Meter:
        is_json = "json" in opened.content_type and "event-stream" not in opened.content_type
        return Meter(
            self._asked.wire_format,
            streamed=not is_json and (self._asked.is_streamed or "event-stream" in opened.content_type),
            counts_text=self._asked.hides_usage,
        )

    def _unanswered(self, candidate: Candidate, error: Exception) -> Response:
        name, reason = candidate.route.provider, type(error).__name__
        message = f"the provider {name!r} gave no answer ({reason}); its base_url is in the settings"
        return error_response(self._asked.wire_format, 502, message)


async def _kept(opened: _Opened) -> Response:
    """Return an answer that is not passed on now, with as much of it as may be kept."""
    body = bytearray()
    try:
        async with aclosing(opened.clean()) as pieces:
            async for piece in pieces:
                body += piece
                if len(body) > _MAX_REFUSAL_BYTES:
                    break
    except httpx.HTTPError as error:
        _log.info("model_refusal_cut", error=type(error).__name__)
    response = Response(bytes(body), status_code=opened.status)
    response.raw_headers = [*opened.passed_headers(), (b"content-length", b"%d" % len(body))]
    return response


def _check_encoding(headers: httpx.Headers) -> None:
    if not _UNPACKED.issuperset(headers.get_list("content-encoding", split_commas=True)):
        raise httpx.DecodingError("an encoding that was not asked for")


def _passed_on(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name.lower().decode("latin-1") not in _NOT_PASSED_ON]


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
