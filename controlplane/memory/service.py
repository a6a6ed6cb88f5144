"""The part ``memory`` as the other parts reach it: two addresses on an internal port."""

import psycopg
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from controlplane.errors import UnavailableError
from controlplane.memory.preparing import Preparer
from controlplane.memory.remote import PREPARED, VECTOR, Drafts, Question


def service(preparer: Preparer) -> Starlette:
    """Return the app that prepares for the others."""

    async def prepare(request: Request) -> Response:
        try:
            asked = Drafts.model_validate_json(await request.body())
            found = await preparer.prepare(asked.workspace_id, asked.drafts)
        except (UnavailableError, psycopg.Error):
            return Response(status_code=503)
        return Response(PREPARED.dump_json(found), media_type="application/json")

    async def question(request: Request) -> Response:
        try:
            asked = Question.model_validate_json(await request.body())
            found = await preparer.question(asked.workspace_id, asked.text)
        except (UnavailableError, psycopg.Error):
            return Response(status_code=503)
        return Response(VECTOR.dump_json(found), media_type="application/json")

    async def ready(_: Request) -> Response:
        return Response("ready")

    return Starlette(
        routes=[
            Route("/prepare", prepare, methods=["POST"]),
            Route("/question", question, methods=["POST"]),
            Route("/readyz", ready),
        ]
    )


async def serve(preparer: Preparer, *, host: str, port: int) -> None:
    """Serve until cancelled."""
    config = uvicorn.Config(
        service(preparer), host=host, port=port, log_config=None, access_log=False, server_header=False
    )
    server = uvicorn.Server(config)
    # Signals are the process's own to handle.
    await server._serve()  # pyright: ignore[reportPrivateUsage] - `serve` takes the signal handlers
