"""Models that stand in for one another."""

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from controlplane.ids import new_id
from harness_adapters.contract import REQUEST_ID_HEADER
from tests.integration.models.conftest import Gateway, OpenGateway
from tests.integration.models.fake_provider import FakeProvider, fake_provider
from tests.integration.models.test_accounting import MONEY, PATHS, STREAMS, WHOLE, asked, price, provider, streamed

pytestmark = pytest.mark.slow

MESSAGES = PATHS["anthropic"]


class Dropping(Response):
    """An answer that breaks off before its first byte."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})


class Silent(Response):
    """An answer that begins, and never says a byte."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await Request(scope, receive).is_disconnected()
        await asyncio.sleep(30)


def failing(status: int, *, after: str = "7") -> JSONResponse:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": f"first: {status}"}}
    return JSONResponse(error, status_code=status, headers={"retry-after": after})


async def post(gateway: Gateway, **more: Any) -> Any:
    return await gateway.http.post(
        gateway.url + MESSAGES, json=asked("one", **more), headers={**gateway.key, REQUEST_ID_HEADER: new_id("sevt")}
    )


async def three(open_now: AsyncExitStack, *answers: Response) -> list[FakeProvider]:
    return [await open_now.enter_async_context(fake_provider(each)) for each in answers]


NAMES = ("one", "two", "three")


@pytest.mark.parametrize("first", [failing(429), failing(500), failing(503), failing(529), Dropping()])
async def test_another_model_answers_where_the_first_does_not(open_gateway: OpenGateway, first: Response):
    async with AsyncExitStack() as open_now:
        fakes = await three(open_now, first, JSONResponse(WHOLE["anthropic"]), JSONResponse(WHOLE["anthropic"]))
        providers = {name: provider(fake.url, name) for name, fake in zip(NAMES, fakes, strict=True)}
        gateway = await open_now.enter_async_context(open_gateway(providers, models=NAMES))
        await price(gateway, "one", "0.5")
        await price(gateway, "two", "1")
        got = await post(gateway)
        booked = await gateway.booked()
    assert (got.status_code, got.json(), got.headers["x-bulkhead-model"]) == (200, WHOLE["anthropic"], "two")
    assert [len(fake.asked) for fake in fakes] == [1, 1, 0]
    assert json.loads(fakes[1].asked[0].body) == asked("two")
    row = booked[-1]
    assert (row["model"], row["provider"], row["fallback_for"], row["state"]) == ("two", "two", "one", "metered")
    assert row["cost_usd"] == 42
    left = [(each["model"], each["state"]) for each in booked[:-1]]
    assert left == ([("one", "lost")] if isinstance(first, Dropping) else [])


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413])
async def test_a_request_that_is_wrong_is_wrong_for_every_model(open_gateway: OpenGateway, status: int):
    async with AsyncExitStack() as open_now:
        fakes = await three(open_now, failing(status), JSONResponse(WHOLE["anthropic"]))
        providers = {name: provider(fake.url, name) for name, fake in zip(NAMES, fakes, strict=False)}
        gateway = await open_now.enter_async_context(open_gateway(providers, models=NAMES[:2]))
        got = await post(gateway)
    assert (got.status_code, len(fakes[1].asked)) == (status, 0)


async def test_a_provider_that_is_not_there_or_says_nothing_is_passed_over(open_gateway: OpenGateway):
    async with AsyncExitStack() as open_now:
        silent, last = await three(open_now, Silent(), streamed(STREAMS["anthropic"]))
        urls = ["http://127.0.0.1:9", silent.url, last.url]
        providers = {name: provider(url, name) for name, url in zip(NAMES, urls, strict=True)}
        opened = open_gateway(providers, models=NAMES, first_byte_seconds=0.3)
        gateway = await open_now.enter_async_context(opened)
        got = await post(gateway, stream=True)
        booked = await gateway.booked()
    assert (got.content, got.headers["x-bulkhead-model"]) == (STREAMS["anthropic"], "three")
    assert [(each["model"], each["state"]) for each in booked] == [("two", "lost"), ("three", "metered")]


async def test_when_all_fail_the_first_ones_error_is_passed_on_and_nothing_is_booked(open_gateway: OpenGateway):
    async with AsyncExitStack() as open_now:
        fakes = await three(open_now, failing(529), failing(400, after="1"), failing(500, after="2"))
        providers = {name: provider(fake.url, name) for name, fake in zip(NAMES, fakes, strict=True)}
        gateway = await open_now.enter_async_context(open_gateway(providers, models=NAMES))
        got = await post(gateway)
        booked = await gateway.booked()
    assert [len(fake.asked) for fake in fakes] == [1, 1, 1]
    assert (got.status_code, got.headers["retry-after"]) == (529, "7")
    assert got.json()["error"]["message"] == "first: 529"
    assert got.headers["x-bulkhead-model"] == "one"
    assert [(each["state"], each["cost_usd"]) for each in booked] == [("free", None)]


async def test_only_models_of_the_same_format_and_after_the_one_asked_stand_in(open_gateway: OpenGateway):
    async with AsyncExitStack() as open_now:
        fakes = await three(open_now, *[JSONResponse(WHOLE["anthropic"])] * 2, failing(500))
        providers = {
            "two": provider(fakes[0].url, "two"),
            "three": provider(fakes[1].url, "three", wire_format="openai"),
            "one": provider(fakes[2].url, "one"),
        }
        gateway = await open_now.enter_async_context(open_gateway(providers, models=["two", "one", "three"]))
        got = await post(gateway)
    assert (got.status_code, len(fakes[0].asked), len(fakes[1].asked)) == (500, 0, 0)


async def test_a_model_that_the_budget_does_not_pay_for_does_not_stand_in(open_gateway: OpenGateway):
    """Of two that could, one has no price under a budget in money; the other has, and its price is what is booked."""
    async with AsyncExitStack() as open_now:
        fakes = await three(open_now, failing(500), *[JSONResponse(WHOLE["anthropic"])] * 2)
        providers = {name: provider(fake.url, name) for name, fake in zip(NAMES, fakes, strict=True)}
        gateway = await open_now.enter_async_context(open_gateway(providers, models=NAMES, budget=MONEY))
        await price(gateway, "one", "0")
        await price(gateway, "three", "0.5")
        got = await post(gateway)
        booked, spent = await gateway.booked(), (await gateway.session())["cost_usd"]
        again = await post(gateway)
    assert (got.headers["x-bulkhead-model"], len(fakes[1].asked)) == ("three", 0)
    assert [(each["model"], each["cost_usd"]) for each in booked] == [("three", 21)]
    assert spent == 21
    assert again.status_code == 402, "the budget of a dollar is spent, by the price of the model that answered"
    assert len(fakes[0].asked) == 1


async def test_a_stream_that_has_begun_goes_on_with_no_other_model(open_gateway: OpenGateway):
    broken = Response(STREAMS["anthropic"][:60], headers={"content-length": "1000"}, media_type="text/event-stream")
    async with AsyncExitStack() as open_now:
        fakes = await three(open_now, broken, streamed(STREAMS["anthropic"]))
        providers = {name: provider(fake.url, name) for name, fake in zip(NAMES, fakes, strict=False)}
        gateway = await open_now.enter_async_context(open_gateway(providers, models=NAMES[:2]))
        with pytest.raises(Exception, match="closed"):
            await post(gateway, stream=True)
        assert len(fakes[1].asked) == 0
        assert [each["state"] for each in await gateway.booked()] == ["lost"]
