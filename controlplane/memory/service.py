"""The part ``memory`` as the other parts reach it: two addresses on an internal port."""

from collections.abc import Sequence

import httpx
import psycopg
import uvicorn
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from controlplane.errors import UnavailableError
from controlplane.memory.preparing import Draft, Prepared, Preparer, unavailable
from controlplane.store.memory_vectors import Vector

_ANSWER_SECONDS = 20.0
_QUESTION_SECONDS = 2.0
"""A search does without its vector rather than wait longer."""


class _Drafts(BaseModel):
    model_config = ConfigDict(frozen=True)

    workspace_id: str
    drafts: list[Draft]


class _Question(BaseModel):
    model_config = ConfigDict(frozen=True)

    text: str


_PREPARED = TypeAdapter(list[Prepared])
_VECTOR = TypeAdapter(Vector | None)


def service(preparer: Preparer) -> Starlette:
    """Return the app that prepares for the others."""

    async def prepare(request: Request) -> Response:
        try:
            asked = _Drafts.model_validate_json(await request.body())
            found = await preparer.prepare(asked.workspace_id, asked.drafts)
        except (UnavailableError, psycopg.Error):
            return Response(status_code=503)
        return Response(_PREPARED.dump_json(found), media_type="application/json")

    async def question(request: Request) -> Response:
        try:
            found = await preparer.question(_Question.model_validate_json(await request.body()).text)
        except psycopg.Error:
            return Response(status_code=503)
        return Response(_VECTOR.dump_json(found), media_type="application/json")

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


class RemotePreparer:
    """A `Preparer` that asks the part ``memory``."""

    def __init__(self, url: str):
        self._client = httpx.AsyncClient(base_url=url, timeout=_ANSWER_SECONDS)

    async def prepare(self, workspace_id: str, drafts: Sequence[Draft]) -> list[Prepared]:
        """See `Preparer.prepare`."""
        body = _Drafts(workspace_id=workspace_id, drafts=list(drafts)).model_dump_json()
        try:
            answer = await self._client.post("/prepare", content=body)
            answer.raise_for_status()
            return _PREPARED.validate_json(answer.content)
        except (httpx.HTTPError, ValidationError) as error:
            raise unavailable() from error

    async def question(self, text: str) -> Vector | None:
        """See `Preparer.question`."""
        try:
            body = _Question(text=text).model_dump_json()
            answer = await self._client.post("/question", content=body, timeout=_QUESTION_SECONDS)
            answer.raise_for_status()
            return _VECTOR.validate_json(answer.content)
        except (httpx.HTTPError, ValidationError):
            return None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
