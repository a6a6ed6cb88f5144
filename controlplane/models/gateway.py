"""The gateway's HTTP face: who asks, for which model, in which format."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as Path
from starlette.types import ASGIApp

from controlplane.health import Health, serve_well
from controlplane.ids import new_id, shown_id
from controlplane.models.asked import Asked
from controlplane.models.booking import POSTGRES_AWAY, Booking
from controlplane.models.envelope import FORMAT_NAMES, PATHS, error_response
from controlplane.models.exchange import Candidate, Exchange
from controlplane.models.listening import listening
from controlplane.models.log import ModelLog
from controlplane.models.routing import Route, Router
from controlplane.models.scripted import create_scripted, scripted_providers
from controlplane.models.tokens import TurnGate, token_hash
from controlplane.models.upstream import Upstream, create_client
from controlplane.settings import ModelProvider, ProviderSettings, Settings, model_providers
from controlplane.store.ledger import RefusedError, Wanted
from controlplane.store.pool import Database
from harness_adapters.contract import REQUEST_ID_HEADER, WireFormat
from harness_adapters.guest import SHUTDOWN_SECONDS, quiet
from workflows.limits import DRAIN

MAX_BODY_BYTES = 64 * 1024 * 1024
"""Twice what Anthropic takes: the provider's own limit should be the one that is met."""

FIRST_BYTE_SECONDS = 100
"""Of a stream, if another model may stand in: the builtin harness gives up after three minutes without a byte, and
the other one needs time as well. Reasoning models think for a minute before they say anything."""

_CONNECTIONS = 20
"""To Postgres, each for some milliseconds of a request."""

_STATUSES = {"budget_reached": 402, "unpriced": 402, "agent_frozen": 403, "turn_ended": 401}

_log = structlog.get_logger(__name__)


class _RefusedError(Exception):
    """A request that goes no further, with its HTTP status; ``code`` is for a program to read."""

    def __init__(self, status: int, message: str, *, code: str | None = None):
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.code = code


def create_gateway(
    providers: Mapping[str, ModelProvider],
    *,
    gate: TurnGate,
    client: httpx.AsyncClient,
    log: ModelLog,
    first_byte_seconds: float = FIRST_BYTE_SECONDS,
) -> Starlette:
    """Return the ASGI app that passes model requests to ``providers``; the caller owns and closes the other parts."""
    gateway = _Gateway(providers, gate=gate, client=client, log=log, first_byte_seconds=first_byte_seconds)
    return Starlette(
        routes=[
            *(Path(path, gateway.forward(each), methods=["POST"]) for each, path in PATHS.items()),
            Path("/v1/routes", gateway.show_route, methods=["GET"]),
            Path("/healthz", _healthy, methods=["GET"]),
        ]
    )


async def serve(settings: Settings, keys: ProviderSettings, *, health: Health) -> None:
    """Run the gateway, with the scripted model beside it on a loopback socket, until a signal ends it."""
    database = Database(settings.database_url, max_connections=_CONNECTIONS)
    await database.open()
    log = ModelLog(database, days=settings.model_log_days)
    try:
        async with listening(create_scripted()) as scripted_url, create_client() as client, log.writing():
            providers = model_providers(settings, keys) | scripted_providers(scripted_url)
            app = create_gateway(providers, gate=TurnGate(database), client=client, log=log)
            _log.info("model_gateway_listening", port=settings.gateway_port, providers=sorted(providers))
            drain_seconds = max(SHUTDOWN_SECONDS, round(DRAIN.total_seconds()))
            config = quiet(
                app, host=settings.gateway_host, port=settings.gateway_port, shutdown_seconds=drain_seconds
            )
            await serve_well(uvicorn.Server(config), health)
    finally:
        await database.close()


class _Gateway:
    def __init__(
        self,
        providers: Mapping[str, ModelProvider],
        *,
        gate: TurnGate,
        client: httpx.AsyncClient,
        log: ModelLog,
        first_byte_seconds: float,
    ):
        self._router = Router(providers)
        self._upstreams = {
            (name, wire_format): Upstream(name, each, wire_format, client=client, slots=slots)
            for name, each in providers.items()
            for slots in [asyncio.Semaphore(each.max_concurrent_requests)]
            for wire_format in each.formats
        }
        self._gate = gate
        self._model_log = log
        self._first_byte_seconds = first_byte_seconds

    def forward(self, wire_format: WireFormat) -> Callable[[Request], Awaitable[Response | ASGIApp]]:
        async def endpoint(request: Request) -> Response | ASGIApp:
            try:
                return await self._exchange(request, wire_format)
            except _RefusedError as refused:
                return error_response(wire_format, refused.status, refused.message, code=refused.code)
            except ClientDisconnect:
                return Response(status_code=400)

        return endpoint

    async def show_route(self, request: Request) -> JSONResponse:
        """Say who serves ``?model=``."""
        model = request.query_params.get("model", "")
        route = self._router.route(model)
        if route is None:
            return error_response("anthropic", 404, self._router.unserved(model))
        return JSONResponse({"model": model, "provider": route.provider, "formats": route.formats})

    async def _exchange(self, request: Request, wire_format: WireFormat) -> Exchange:
        token = _token(request)
        models = await self._models(token)
        body = await _read(request)
        asked = Asked(wire_format, body, _fields(body), request.headers, request.url.query)
        routes = self._routes(asked.fields["model"], models, wire_format)
        booking = await self._reserved(token, request, asked, routes[0])
        return Exchange(
            [Candidate(each, self._upstreams[each.provider, wire_format]) for each in routes],
            asked,
            booking=booking,
            entry=self._model_log.entry(booking.request_id),
            first_byte_seconds=self._first_byte_seconds,
        )

    async def _models(self, token: bytes) -> list[str]:
        """Return what the token's turn may ask; a stranger's body is not even read."""
        with _postgres_answers("the turn's token cannot be checked"):
            models = await self._gate.models_of(token)
        if models is None:
            raise _RefusedError(401, "this token belongs to no running turn; a token lives as long as its turn")
        return models

    async def _reserved(self, token: bytes, request: Request, asked: Asked, route: Route) -> Booking:
        """Count the request against its budgets before it is sent; what cannot be counted is not sent."""
        request_id = request.headers.get(REQUEST_ID_HEADER) or new_id("sevt")
        if shown_id(request_id) != request_id:
            raise _RefusedError(400, f"{REQUEST_ID_HEADER}: not the id of an event")
        wanted = Wanted(
            request_id=request_id,
            model=route.model,
            provider=route.provider,
            upstream_model=route.upstream_model,
            input_tokens=asked.input_tokens(),
            free=route.free,
        )
        booking = Booking(self._gate, token, wanted)
        with _postgres_answers("the request's budgets cannot be checked"):
            try:
                await booking.reserve()
            except RefusedError as refused:
                raise _RefusedError(_STATUSES.get(refused.code, 409), refused.message, code=refused.code) from refused
        return booking

    def _routes(self, model: str, models: list[str], wire_format: WireFormat) -> list[Route]:
        """Return where a model is served and where those are that may stand in for it, by the turn's names."""
        wanted = self._route(model, wire_format)
        listed = [route for each in models if (route := self._router.route(each)) is not None]
        place = next((place for place, route in enumerate(listed) if route.is_same(wanted)), None)
        if place is None:
            raise _RefusedError(
                403,
                f"the model {model!r} is none of those that this turn may ask: {', '.join(models)};"
                " give the agent another model, or put this one among its fallbacks",
                code="model_not_allowed",
            )
        return [listed[place], *(route for route in listed[place + 1 :] if wire_format in route.formats)]

    def _route(self, model: str, wire_format: WireFormat) -> Route:
        route = self._router.route(model)
        if route is None:
            raise _RefusedError(404, self._router.unserved(model))
        if wire_format not in route.formats:
            spoken = " and ".join(f"{FORMAT_NAMES[each]} (POST {PATHS[each]})" for each in route.formats)
            others = ", ".join(self._router.speaking(wire_format)) or "none is configured"
            raise _RefusedError(
                400,
                f"the model {model!r} is served by {route.provider!r}, which speaks {spoken}, not"
                f" {FORMAT_NAMES[wire_format]}; models that would do: {others}",
            )
        return route


@contextmanager
def _postgres_answers(otherwise: str) -> Generator[None]:
    try:
        yield
    except POSTGRES_AWAY as error:
        _log.warning("model_request_unchecked", error=type(error).__name__)
        raise _RefusedError(503, f"{otherwise}: Postgres does not answer; try again") from error


def _token(request: Request) -> bytes:
    given = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
    return token_hash(given)


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise _RefusedError(413, f"the request is larger than {MAX_BODY_BYTES} bytes")
    return bytes(body)


def _fields(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _RefusedError(400, f"the body is not JSON: {error}") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("model"), str):
        raise _RefusedError(400, "model: a string is required")
    return fields


async def _healthy(_: Request) -> JSONResponse:
    return JSONResponse({"status": "ok"})
