"""Whether one part is well, for whoever starts, stops and replaces it: ``/livez`` and ``/readyz`` on a port.

``/livez`` is answered for as long as the part's event loop turns. ``/readyz`` says that it serves, and that what it
cannot do without answers; once it is told to stop it is not ready, while it finishes what it does.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import psycopg
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from controlplane.errors import InvalidRequestError
from controlplane.settings import Settings
from controlplane.store.migrate import missing
from harness_adapters.guest import serving

Look = Callable[[], Awaitable[str | None]]
"""Returns why something is not well, or None."""

LOOK_SECONDS = 2.0
_MIGRATION_LOOK_SECONDS = 0.5
_log = structlog.get_logger(__name__)


class Health:
    """What one part says of itself. An async context manager, which answers at the port that the settings name."""

    def __init__(self, settings: Settings):
        self._address = settings.health_host, settings.health_port
        self._looks: dict[str, Look] = {"postgres": _postgres(settings.database_url)}
        self._state = "starting"
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Health":
        host, port = self._address
        if port is not None:
            await self._stack.enter_async_context(serving(self._app(), _listening(host, port)))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def watch(self, name: str, look: Look) -> None:
        """Have the part count as ready only if this is well too."""
        self._looks[name] = look

    def serves(self) -> None:
        """Say that the part takes work from now on."""
        self._state = "serving"

    def stops(self) -> None:
        """Say that the part takes no new work from now on."""
        self._state = "stopping"

    async def troubles(self) -> dict[str, str | None]:
        """Return what is looked at → None if it is well, else why it is not."""
        reasons = await asyncio.gather(*(_within_time(look) for look in self._looks.values()))
        return {
            "part": None if self._state == "serving" else self._state,
            **dict(zip(self._looks, reasons, strict=True)),
        }

    def _app(self) -> Starlette:
        async def live(_: Request) -> JSONResponse:
            return JSONResponse({"status": "live"})

        async def ready(_: Request) -> JSONResponse:
            found = await self.troubles()
            well = all(reason is None for reason in found.values())
            shown = {name: reason or "ok" for name, reason in found.items()}
            return JSONResponse({"status": "ready" if well else "not ready", "looks": shown}, 200 if well else 503)

        return Starlette(routes=[Route("/livez", live), Route("/readyz", ready)])


async def migrated(url: str) -> None:
    """Return when the database has every migration that this version knows; it may have those of a later one."""
    said = ""
    while True:
        try:
            lacking = await missing(url)
            reason = f"lacks {', '.join(lacking)}: run `bulkhead migrate`" if lacking else ""
        except psycopg.OperationalError as error:
            reason = f"does not answer: {str(error).strip()}"
        if not reason:
            return
        if reason != said:
            _log.info("waiting_for_database", reason=reason)
            said = reason
        await asyncio.sleep(_MIGRATION_LOOK_SECONDS)


async def serve_well(server: uvicorn.Server, health: Health) -> None:
    """Serve until told to exit; the part is ready for as long as it takes connections."""

    async def look() -> str | None:
        return None if server.started and not server.should_exit else "takes no connections"

    health.watch("http", look)
    health.serves()
    await server.serve()


def _postgres(url: str) -> Look:
    async def look() -> str | None:
        # Not through the part's pool, in which a look would stand in line behind the part's work.
        lacking = await missing(url)
        return f"lacks {', '.join(lacking)}" if lacking else None

    return look


async def _within_time(look: Look) -> str | None:
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            return await look()
    except TimeoutError:
        return "does not answer in time"
    except (psycopg.Error, RuntimeError, OSError) as error:
        return f"does not answer: {str(error).strip()}"


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise InvalidRequestError(
            f"BULKHEAD_HEALTH_PORT: {host}:{port} cannot be listened at: {error.strerror}",
            code="bad_configuration",
            field="BULKHEAD_HEALTH_PORT",
            next_step="choose a port that nothing else uses; each part needs one of its own on one machine",
        ) from error
