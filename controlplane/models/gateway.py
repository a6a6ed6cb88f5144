"""The gateway's HTTP face: who asks, for which model, in which format."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as Path
from starlette.types import ASGIApp

from controlplane.ids import new_id
from controlplane.models.envelope import FORMAT_NAMES, PATHS, error_response
from controlplane.models.exchange import Exchange
from controlplane.models.listening import listening, server_config
from controlplane.models.routing import Route, Router
from controlplane.models.scripted import create_scripted, scripted_providers
from controlplane.models.tokens import Gate, TurnGate
from controlplane.models.upstream import Upstream, UpstreamRequest, create_client
from controlplane.settings import ModelProvider, ProviderSettings, Settings, model_providers
from controlplane.store.ledger import RefusedError, Wanted
from controlplane.store.pool import Database
from harness_adapters.contract import REQUEST_ID_HEADER, WireFormat

MAX_BODY_BYTES = 64 * 1024 * 1024
"""Twice what Anthropic takes: the provider's own limit should be the one that is met."""

BYTES_PER_TOKEN = 4
"""Of a request's body; a reservation need not be exact, as it is replaced by what the provider counted."""

_log = structlog.get_logger(__name__)


class _RefusedError(Exception):
    """A request that goes no further, with its HTTP status; ``code`` is for a program to read."""

    def __init__(self, status: int, message: str, *, code: str | None = None):
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.code = code


def create_gateway(providers: Mapping[str, ModelProvider], *, gate: Gate, client: httpx.AsyncClient) -> Starlette:
    """Return the ASGI app that passes model requests to ``providers``; the caller owns and closes ``client``."""
    gateway = _Gateway(providers, gate=gate, client=client)
    return Starlette(
        routes=[
            *(Path(path, gateway.forward(each), methods=["POST"]) for each, path in PATHS.items()),
            Path("/v1/routes", gateway.show_route, methods=["GET"]),
            Path("/healthz", _healthy, methods=["GET"]),
        ]
    )


async def serve(settings: Settings, keys: ProviderSettings) -> None:
    """Run the gateway, with the scripted model beside it on a loopback socket, until a signal ends it."""
    database = Database(settings.database_url)
    await database.open()
    try:
        async with listening(create_scripted()) as scripted_url, create_client() as client:
            providers = model_providers(settings, keys) | scripted_providers(scripted_url)
            app = create_gateway(providers, gate=TurnGate(database), client=client)
            _log.info("model_gateway_listening", port=settings.gateway_port, providers=sorted(providers))
            await uvicorn.Server(server_config(app, host=settings.gateway_host, port=settings.gateway_port)).serve()
    finally:
        await database.close()


class _Gateway:
    def __init__(self, providers: Mapping[str, ModelProvider], *, gate: Gate, client: httpx.AsyncClient):
        self._router = Router(providers)
        self._upstreams = {
            (name, wire_format): Upstream(name, each, wire_format, client=client, slots=slots)
            for name, each in providers.items()
            for slots in [asyncio.Semaphore(each.max_concurrent_requests)]
            for wire_format in each.formats
        }
        self._gate = gate

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
        turn_id = await self._authenticate(request)
        body = await _read(request)
        fields = _fields(body)
        route = self._route(fields["model"], wire_format)
        await self._reserve(turn_id, request, route, body)
        if route.upstream_model != route.model:
            body = json.dumps({**fields, "model": route.upstream_model}).encode()
        upstream = self._upstreams[route.provider, wire_format]
        passed_on = UpstreamRequest(body, request.headers, request.url.query)
        return Exchange(upstream, passed_on, wire_format=wire_format)

    async def _authenticate(self, request: Request) -> str:
        token = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
        with _postgres_answers("the turn's token cannot be checked"):
            turn_id = await self._gate.turn_of(token) if token else None
        if turn_id is None:
            raise _RefusedError(401, "this token belongs to no running turn; a token lives as long as its turn")
        return turn_id

    async def _reserve(self, turn_id: str, request: Request, route: Route, body: bytes) -> None:
        """Count the request against its budgets before it is sent; what cannot be counted is not sent."""
        wanted = Wanted(
            request_id=request.headers.get(REQUEST_ID_HEADER) or new_id("sevt"),
            model=route.model,
            provider=route.provider,
            upstream_model=route.upstream_model,
            input_tokens=len(body) // BYTES_PER_TOKEN,
        )
        with _postgres_answers("the request's budgets cannot be checked"):
            try:
                await self._gate.reserve(turn_id, wanted)
            except RefusedError as refused:
                status = {"budget_reached": 402, "unpriced": 402, "agent_frozen": 403}.get(refused.code, 409)
                raise _RefusedError(status, refused.message, code=refused.code) from refused

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
    except (psycopg.Error, TimeoutError) as error:
        _log.warning("model_request_unchecked", error=type(error).__name__)
        raise _RefusedError(503, f"{otherwise}: Postgres does not answer; try again") from error


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
