"""A fake of an OpenAI-compatible endpoint for embeddings, on a socket; its vectors are of the words of a text."""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


class FakeEmbeddings:
    """Gives vectors of ``dimension`` values after ``delay_seconds``, and keeps the texts that it is given.

    ``refused``: a word that no request may have in a text. ``odd``: what it gives for texts with a word, instead.
    """

    def __init__(self, dimension: int = 384, *, delay_seconds: float = 0.0):
        self.dimension = dimension
        self.texts: list[str] = []
        self.refused: str | None = None
        self.odd: dict[str, list[float]] = {}
        self._delay_seconds = delay_seconds

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[str]:
        """Serve, and yield the base URL."""
        app = Starlette(routes=[Route("/v1/embeddings", self._embeddings, methods=["POST"])])
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
        task = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - uvicorn has a flag and no event
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
        server.should_exit = True
        await task

    async def _embeddings(self, request: Request) -> Response:
        texts = (await request.json())["input"]
        self.texts += texts
        await asyncio.sleep(self._delay_seconds)
        if self.refused is not None and any(self.refused in text for text in texts):
            return JSONResponse({"error": {"message": "too long"}}, status_code=400)
        data = [{"index": n, "embedding": self._vector(each)} for n, each in enumerate(texts)]
        # Some servers write what JSON does not have.
        return Response(json.dumps({"data": data}), media_type="application/json")

    def _vector(self, given: str) -> list[float]:
        for word, odd in self.odd.items():
            if word in given:
                return odd
        values = [0.001] * self.dimension
        for word in given.lower().split():
            values[int(hashlib.sha256(word.encode()).hexdigest(), 16) % self.dimension] += 1.0
        return values
