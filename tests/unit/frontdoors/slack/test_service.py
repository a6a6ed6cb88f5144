"""Slack's Web API as a service, against a small stand-in of its files."""

from collections.abc import AsyncGenerator

import pytest
from slack_sdk.web.async_client import AsyncWebClient
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from controlplane.frontdoors.contract import AmbiguousError, DeclinedError, LimitedError, SharedFile
from controlplane.frontdoors.slack.service import SlackService
from controlplane.models.listening import listening


async def serve(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the status that the path names, with 250 MB, with what Slack says of a file, or with a page."""
    path = Request(scope).url.path.strip("/")
    match path:
        case "endless":
            answer: Response = StreamingResponse(endless())
        case "login":
            answer = RedirectResponse("/200", 302)
        case "page":
            answer = HTMLResponse("<h1>Log in</h1>")
        case "api/files.info":
            there = {
                "id": "F1",
                "name": "plan.txt",
                "mimetype": "text/plain",
                "url_private": "https://files.slack.com/x",
            }
            answer = JSONResponse({"ok": True, "file": there})
        case _:
            answer = Response(b"content", int(path))
    await answer(scope, receive, send)


async def endless() -> AsyncGenerator[bytes]:
    for _ in range(250):
        yield bytes(1_000_000)


def at(url: str, **changes: str) -> SharedFile:
    return SharedFile.model_validate(
        {"id": "F1", "name": "a", "media_type": "text/plain", "size_bytes": 7, "url": url, **changes}
    )


def service_at(url: str) -> SlackService:
    return SlackService(AsyncWebClient(token="xoxb-x", base_url=f"{url}/api/"), team="T1", bot_user="U0BOT")


async def fetched(path: str, **changes: str) -> bytes:
    async with listening(serve) as url:
        return await service_at(url).content(at(f"{url}/{path}", **changes))


async def test_a_files_content_may_come_later_or_never() -> None:
    assert await fetched("200") == b"content"
    with pytest.raises(LimitedError):
        await fetched("429")
    with pytest.raises(AmbiguousError):
        await fetched("503")
    with pytest.raises(DeclinedError):
        await fetched("404")


async def test_a_file_without_an_address_never_comes() -> None:
    with pytest.raises(DeclinedError, match="its address is none"):
        await service_at("https://slack.com").content(at("https://["))


async def test_a_file_that_is_larger_than_was_said_is_not_read_to_its_end() -> None:
    with pytest.raises(DeclinedError, match="larger than 200 MB"):
        await fetched("endless")


@pytest.mark.parametrize("path", ["login", "page"])
async def test_a_page_to_log_in_at_is_not_taken_for_the_file(path: str) -> None:
    with pytest.raises(DeclinedError, match="files:read"):
        await fetched(path)


async def test_a_page_that_somebody_shares_is_a_file() -> None:
    assert await fetched("page", media_type="text/html") == b"<h1>Log in</h1>"


@pytest.mark.parametrize(
    "url", ["http://files.slack.com/a", "http://slack.com/a", "https://slack.com.evil.example/a"]
)
async def test_the_token_goes_to_slack_alone_and_never_in_clear(url: str) -> None:
    with pytest.raises(DeclinedError, match=r"not https|not at Slack"):
        await service_at("https://slack.com").content(at(url))


async def test_what_slack_did_not_say_of_a_file_is_asked_for() -> None:
    async with listening(serve) as url:
        found = await service_at(url).described(at("", name="F1"))
        assert (found.name, found.media_type, found.url) == ("plan.txt", "text/plain", "https://files.slack.com/x")
        assert await service_at(url).described(at("https://y")) == at("https://y")


async def test_who_somebody_was_holds_for_a_name_while_slack_does_not_say_and_never_for_who_is_let_in() -> None:
    said = [429, "Alice Anderson", 429, 429, "Alice Baker"]

    async def people(scope: Scope, receive: Receive, send: Send) -> None:
        name = said.pop(0)
        user = {"ok": True, "user": {"real_name": name, "team_id": "T1"}}
        limited = JSONResponse({"ok": False, "error": "ratelimited"}, 429)
        await (limited if name == 429 else JSONResponse(user))(scope, receive, send)

    async with listening(people) as url:
        client = AsyncWebClient(token="xoxb-x", base_url=f"{url}/api/")
        service = SlackService(client, team="T1", bot_user="U0BOT", person_seconds=0.0)
        names = [(await service.names(["U1"]))["U1"] for _ in range(3)]
        assert names == ["U1", "Alice Anderson", "Alice Anderson"]
        with pytest.raises(LimitedError):
            await service.is_of_team("U1")
        assert await service.names(["U1"]) == {"U1": "Alice Baker"}, "nothing of it was kept for an answer"
