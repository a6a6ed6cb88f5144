"""Slack's Web API as a service, against a small stand-in of its files."""

from collections.abc import AsyncGenerator

import pytest
from slack_sdk.web.async_client import AsyncWebClient
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from controlplane.frontdoors.contract import AmbiguousError, DeclinedError, LimitedError, SharedFile
from controlplane.frontdoors.slack.service import SlackService
from controlplane.models.listening import listening


async def serve(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the status that the path names, or with 250 MB."""
    path = Request(scope).url.path.strip("/")
    answer = StreamingResponse(endless()) if path == "endless" else Response(b"content", int(path))
    await answer(scope, receive, send)


async def endless() -> AsyncGenerator[bytes]:
    for _ in range(250):
        yield bytes(1_000_000)


async def fetched(path: str) -> bytes:
    async with listening(serve) as url:
        service = SlackService(AsyncWebClient(token="xoxb-x", base_url=f"{url}/api/"), team="T1", bot_user="U0BOT")
        file = SharedFile(id="F1", name="a", media_type="text/plain", size_bytes=7, url=f"{url}/{path}")
        return await service.content(file)


async def test_a_files_content_may_come_later_or_never() -> None:
    assert await fetched("200") == b"content"
    with pytest.raises(LimitedError):
        await fetched("429")
    with pytest.raises(AmbiguousError):
        await fetched("503")
    with pytest.raises(DeclinedError):
        await fetched("404")


async def test_a_file_without_an_address_never_comes() -> None:
    service = SlackService(AsyncWebClient(token="xoxb-x"), team="T1", bot_user="U0BOT")
    file = SharedFile(id="F1", name="a", media_type="text/plain", size_bytes=7, url="https://[")
    with pytest.raises(DeclinedError, match="its address is none"):
        await service.content(file)


async def test_a_file_that_is_larger_than_was_said_is_not_read_to_its_end() -> None:
    with pytest.raises(DeclinedError, match="larger than 200 MB"):
        await fetched("endless")
