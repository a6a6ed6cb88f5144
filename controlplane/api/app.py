"""The REST API as an ASGI app."""

from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager

import psycopg
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import (
    agents,
    approvals,
    budgets,
    credentials,
    deployment_runs,
    deployments,
    docs,
    egress,
    environments,
    events,
    explanations,
    files,
    frontdoors,
    health,
    keys,
    live,
    memories,
    memory_search,
    memory_stores,
    memory_versions,
    model_requests,
    prices,
    resources,
    resume,
    rules,
    sessions,
    threads,
    tool_calls,
    triggers,
    vaults,
)
from controlplane.api.auth import Authenticator
from controlplane.api.errors import error_response
from controlplane.api.follow import Hub
from controlplane.api.metrics import Metrics
from controlplane.api.middleware import RequestMiddleware
from controlplane.api.parts import Parts, Readiness, Submitter
from controlplane.errors import BulkheadError
from controlplane.memory.preparing import Preparer, Unprepared
from controlplane.store.pool import Database
from controlplane.vault.keyring import Keyring
from harness_adapters.contract import HarnessName

_RESOURCES = (
    agents,
    environments,
    resume,
    sessions,
    threads,
    resources,
    events,
    tool_calls,
    model_requests,
    live,
    explanations,
    approvals,
    rules,
    egress,
    files,
    vaults,
    credentials,
    deployments,
    triggers,
    deployment_runs,
    memory_stores,
    memory_search,
    memories,
    memory_versions,
    frontdoors,
    budgets,
    prices,
    keys,
    health,
)


def create_app(
    *,
    database: Database,
    submitter: Submitter,
    readiness: Readiness,
    version: str,
    keyring: Keyring | None = None,
    harnesses: Collection[HarnessName] = ("builtin",),
    preparer: Preparer | None = None,
) -> FastAPI:
    """Return the app, which listens for events while it is up; the caller opens and closes ``database``.

    Without ``keyring`` no vault can be made or opened, without ``preparer`` no memory saved.
    """
    metrics = Metrics()
    parts = Parts(
        database=database,
        submitter=submitter,
        readiness=readiness,
        authenticator=Authenticator(database),
        hub=Hub(database),
        metrics=metrics,
        keyring=keyring or Keyring(),
        version=version,
        harnesses=harnesses,
        preparer=preparer or Unprepared(),
    )
    app = FastAPI(
        title="Bulkhead",
        version=version,
        description=docs.INTRODUCTION,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
        redirect_slashes=False,
    )
    app.state.parts = parts
    app.add_middleware(RequestMiddleware, metrics=metrics)
    for kind in (BulkheadError, RequestValidationError, HTTPException, psycopg.Error):
        app.add_exception_handler(kind, _answer_error)
    routers = [module.router for module in _RESOURCES]
    for router in (*routers, docs.router):
        app.include_router(router)
    docs.complete_openapi(app, routers)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None]:
    hub: Hub = app.state.parts.hub
    hub.start()
    yield
    await hub.stop()


async def _answer_error(request: Request, error: Exception) -> Response:
    return error_response(error, request.scope["state"]["request_id"])
