"""The control plane's API as a front door asks it."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from controlplane.frontdoors.plane import Plane, RefusedError
from controlplane.models.listening import listening

Answer = Callable[[Request], Awaitable[Response]]

_CONFLICT = {"error": {"code": "concurrent_change", "message": "changed", "next_step": "repeat the request"}}


class Api:
    """Answers as it is told to."""

    def __init__(self, answer: Answer):
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._answer(Request(scope, receive))
        await answer(scope, receive, send)


async def test_a_conflict_that_passes_is_asked_again_and_one_that_stays_is_a_refusal() -> None:
    asked: list[str] = []

    async def answer(request: Request) -> Response:
        asked.append(request.url.path)
        if request.url.path == "/stays":
            return JSONResponse(_CONFLICT, 409, {"x-should-retry": "false"})
        return JSONResponse({"id": "x"}) if asked.count("/passes") == 3 else JSONResponse(_CONFLICT, 409)

    async with listening(Api(answer)) as url:
        plane = Plane(url, "key")
        assert await plane.post("/passes", {}, key="k") == {"id": "x"}
        with pytest.raises(RefusedError, match="changed"):
            await plane.post("/stays", {}, key="k")
        await plane.close()
    assert asked == ["/passes"] * 3 + ["/stays"]


async def test_a_request_is_the_same_in_whatever_order_its_names_are() -> None:
    asked: list[bytes] = []

    async def answer(request: Request) -> Response:
        asked.append(await request.body())
        return JSONResponse({})

    async with listening(Api(answer)) as url:
        plane = Plane(url, "key")
        await plane.post("/x", {"title": "é", "agent": {"id": 1, "a": 2}}, key="k")
        await plane.post("/x", {"agent": {"a": 2, "id": 1}, "title": "é"}, key="k")
        await plane.close()
    assert asked[0] == asked[1]


async def test_an_event_may_have_any_line_end_in_it() -> None:
    said = {"type": "agent.tool_result", "content": "one\u2028two\u2029three\x85four\x0bfive é 😀"}

    async def answer(_: Request) -> Response:
        data = json.dumps(said, ensure_ascii=False)
        return Response(f"id: 4\nevent: {said['type']}\ndata: {data}\n\n", media_type="text/event-stream")

    async with listening(Api(answer)) as url:
        plane = Plane(url, "key")
        stream = plane.follow("sesn_1", after=3, previews=False)
        assert await anext(stream) == (4, said)
        await stream.aclose()
        await plane.close()


async def test_however_many_sessions_are_followed_a_request_comes_through() -> None:
    followed, all_there = 0, asyncio.Event()

    async def silence(count: int) -> AsyncGenerator[bytes]:
        yield b": here\n\n"
        if count == 120:
            all_there.set()
        await asyncio.Event().wait()

    async def answer(request: Request) -> Response:
        nonlocal followed
        if request.url.path.endswith("/stream"):
            followed += 1
            return StreamingResponse(silence(followed), media_type="text/event-stream")
        return JSONResponse({"stopped": True})

    async with listening(Api(answer)) as url:
        plane = Plane(url, "key")

        async def follow(n: int) -> None:
            async for _ in plane.follow(f"sesn_{n}", after=0, previews=False):
                pass

        followers = [asyncio.create_task(follow(n)) for n in range(120)]
        async with asyncio.timeout(30):
            await all_there.wait()
            assert await plane.post("/stop", {}, key="k") == {"stopped": True}
        for task in followers:
            task.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
        await plane.close()
