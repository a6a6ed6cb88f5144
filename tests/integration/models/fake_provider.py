"""A fake of a third party's model API: it keeps what it is asked and answers what a test lays ready."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from controlplane.models.listening import listening


@dataclass
class Asked:
    """A request as the provider got it."""

    path: str
    query: str
    headers: dict[str, str]
    body: bytes


@dataclass
class FakeProvider:
    """Answers every request with the same response; ``asked`` is what has come."""

    response: Response
    url: str = ""
    asked: list[Asked] = field(default_factory=list[Asked])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Keep the request and answer it."""
        request = Request(scope, receive)
        body = await request.body()
        self.asked.append(Asked(request.url.path, request.url.query, dict(request.headers), body))
        await self.response(scope, receive, send)


@asynccontextmanager
async def fake_provider(response: Response) -> AsyncGenerator[FakeProvider]:
    """Serve a `FakeProvider` on loopback."""
    fake = FakeProvider(response)
    async with listening(fake) as url:
        fake.url = url
        yield fake
