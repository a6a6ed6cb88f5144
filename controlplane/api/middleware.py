"""What happens around every request: its id, its log line, its measure, and the answer to what went wrong."""

import time
from collections.abc import MutableMapping
from typing import Any

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controlplane.api.errors import STATUS, error_response, translate
from controlplane.api.metrics import Metrics
from controlplane.ids import new_id, shown_id

_log = structlog.stdlib.get_logger(__name__)

_QUIET_ROUTES = ("/healthz", "/readyz", "/metrics")


class RequestMiddleware:
    """Gives each request an id, and turns every exception into the envelope of errors."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics):
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = new_id("req")
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        answer = _Answer(send, request_id)
        try:
            await self._app(scope, receive, answer.send)
        except Exception as error:  # noqa: BLE001 - the last place before the server, which would only hang up
            await self._fail(scope, receive, error, answer)
        self._note(scope, answer)

    async def _fail(self, scope: Scope, receive: Receive, error: Exception, answer: "_Answer") -> None:
        if STATUS[translate(error).type] == 500:
            _log.exception("request_failed", method=scope["method"], route=_route(scope))
        if answer.status is None:
            await error_response(error, answer.request_id)(scope, receive, answer.send)

    def _note(self, scope: Scope, answer: "_Answer") -> None:
        route = _route(scope)
        status = answer.status or 499
        self._metrics.answered(scope["method"], route, status, answer.seconds)
        if route not in _QUIET_ROUTES:
            _log.info(
                "request",
                method=scope["method"],
                route=route,
                status=status,
                ms=round(answer.seconds * 1000, 1),
                **_session_of(scope),
            )


class _Answer:
    """Watches an answer on its way out."""

    def __init__(self, send: Send, request_id: str):
        self.request_id = request_id
        self.status: int | None = None
        self._send = send
        self._began = time.perf_counter()
        self._first_byte: float | None = None

    @property
    def seconds(self) -> float:
        """The time until the first byte of the answer."""
        return (self._first_byte or time.perf_counter()) - self._began

    async def send(self, message: Message) -> None:
        """Pass a message on; the first one gets the request's id."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._first_byte = time.perf_counter()
            MutableHeaders(scope=message)["request-id"] = self.request_id
        await self._send(message)


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", "unmatched")


def _session_of(scope: MutableMapping[str, Any]) -> dict[str, str]:
    session_id = scope.get("path_params", {}).get("session_id")
    return {"session_id": shown_id(session_id)} if session_id else {}
