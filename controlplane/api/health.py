"""/healthz, /readyz and /metrics: for whoever runs the control plane, without a key."""

import psycopg
from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from controlplane.api.parts import parts_of
from controlplane.store import sessions
from controlplane.store.pool import ALL_WORKSPACES

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def healthz(request: Request) -> JSONResponse:
    """Say that the process is alive."""
    return JSONResponse({"status": "ok", "version": parts_of(request).version})


@router.get("/readyz", responses={503: {"description": "A part is not ready; the answer names it."}})
async def readyz(request: Request) -> JSONResponse:
    """Say whether every part is ready, and of each that is not, why."""
    found = await parts_of(request).readiness()
    ready = all(reason is None for reason in found.values())
    parts = {part: reason or "ok" for part, reason in found.items()}
    return JSONResponse({"status": "ready" if ready else "not ready", "parts": parts}, 200 if ready else 503)


@router.get("/metrics", responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})
async def metrics(request: Request) -> Response:
    """Show the measures of this process, and how many sessions there are."""
    parts = parts_of(request)
    try:
        async with parts.database.transaction(ALL_WORKSPACES) as connection:
            counted = await sessions.count_by_status(connection)
    except psycopg.OperationalError:
        counted = None
    return Response(
        parts.metrics.exposition(streams=parts.hub.followers, sessions=counted),
        headers={"content-type": CONTENT_TYPE_LATEST},
    )
