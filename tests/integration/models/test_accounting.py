"""What a model request is booked as, as the gateway sees its answer pass."""

import asyncio
import json
from collections.abc import AsyncGenerator
from decimal import Decimal
from typing import Any

import httpx
import psycopg
import pytest
from pydantic import SecretStr
from starlette.responses import JSONResponse, Response, StreamingResponse

from controlplane.ids import new_id
from controlplane.models.listening import listening
from controlplane.models.scripted import create_scripted, scripted_providers
from controlplane.prices import Price, Rate
from controlplane.settings import ModelProvider
from controlplane.store import prices
from harness_adapters.contract import REQUEST_ID_HEADER, Usage, WireFormat
from tests.integration.models.conftest import SCRIPTED, Gateway, OpenGateway
from tests.integration.models.fake_provider import fake_provider
from tests.integration.models.test_scripted import script

pytestmark = pytest.mark.slow

PATHS: dict[WireFormat, str] = {
    "anthropic": "/v1/messages",
    "openai": "/v1/chat/completions",
    "openai-responses": "/v1/responses",
}
WORKSPACE = "wrkspc_default"
MONEY = {"type": "limit", "max_list_cost": {"amount": "100", "currency": "USD"}}
EVERYTHING = Usage(
    input_tokens=10,
    cache_read_input_tokens=20,
    cache_creation_input_tokens=5,
    output_tokens=7,
    reasoning_tokens=3,
)
ANTHROPIC_USAGE = {
    "input_tokens": 10,
    "cache_read_input_tokens": 20,
    "cache_creation_input_tokens": 5,
    "output_tokens": 7,
    "output_tokens_details": {"thinking_tokens": 3},
}
OPENAI_USAGE = {
    "prompt_tokens": 35,
    "completion_tokens": 7,
    "prompt_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 5},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
RESPONSES_USAGE = {
    "input_tokens": 35,
    "output_tokens": 7,
    "input_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 5},
    "output_tokens_details": {"reasoning_tokens": 3},
}


def provider(
    url: str, *models: str, wire_format: WireFormat = "anthropic", limit: int = 64, free: bool = False
) -> ModelProvider:
    base = url if wire_format == "anthropic" else f"{url}/v1"
    return ModelProvider(
        format=wire_format,
        base_url=base,
        api_key=SecretStr("sk-a-real-secret"),
        models=list(models or ("*",)),
        max_concurrent_requests=limit,
        free=free,
    )


def asked(model: str = "m", *, text: str = "hi", **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": model, "max_tokens": 10, "messages": messages, "input": messages, **more}


def events(*said: dict[str, Any] | str) -> bytes:
    lines = [each if isinstance(each, str) else json.dumps(each) for each in said]
    return b"".join(f"data: {line}\n\n".encode() for line in lines)


STREAMS: dict[WireFormat, bytes] = {
    "anthropic": events(
        {"type": "message_start", "message": {"usage": {**ANTHROPIC_USAGE, "output_tokens": 1}}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": '"usage"'}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}},
        {"type": "message_stop"},
    ),
    "openai": events(
        {"choices": [{"delta": {"content": "hello"}, "finish_reason": None}], "usage": None},
        {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": None},
        {"choices": [], "usage": OPENAI_USAGE},
        "[DONE]",
    ),
    "openai-responses": events(
        {"type": "response.created", "response": {"usage": None}},
        {"type": "response.output_text.delta", "output_index": 0, "delta": "hello"},
        {"type": "response.completed", "response": {"status": "completed", "usage": RESPONSES_USAGE}},
    ),
}
WHOLE: dict[WireFormat, dict[str, Any]] = {
    "anthropic": {"type": "message", "content": [], "usage": ANTHROPIC_USAGE},
    "openai": {"object": "chat.completion", "choices": [], "usage": OPENAI_USAGE},
    "openai-responses": {"object": "response", "status": "completed", "output": [], "usage": RESPONSES_USAGE},
}


def streamed(body: bytes) -> Response:
    return Response(body, media_type="text/event-stream")


async def ended(gateway: Gateway, *, requests: int) -> list[dict[str, Any]]:
    """Return the requests that are on record, once so many have ended."""
    async with asyncio.timeout(10):
        while sum(each["state"] != "running" for each in await gateway.booked()) < requests:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return await gateway.booked()


async def only(gateway: Gateway) -> dict[str, Any]:
    """Return the one request that is on record, once it has ended."""
    (found,) = await ended(gateway, requests=1)
    return found


async def price(gateway: Gateway, model: str, per_token: str) -> None:
    """Set what a token of a model costs, in dollars."""
    rate = Rate(base=Decimal(per_token) * 1_000_000)
    async with gateway.database.transaction(WORKSPACE) as connection:
        await prices.put(connection, WORKSPACE, model=model, price=Price(input=rate, output=rate))


@pytest.mark.parametrize("wire_format", PATHS)
@pytest.mark.parametrize("is_streamed", [True, False])
async def test_every_format_is_metered_streamed_and_whole(
    open_gateway: OpenGateway, wire_format: WireFormat, is_streamed: bool
):
    answer = streamed(STREAMS[wire_format]) if is_streamed else JSONResponse(WHOLE[wire_format])
    more: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if is_streamed else {}
    async with (
        fake_provider(answer) as fake,
        open_gateway({"a": provider(fake.url, wire_format=wire_format)}) as gateway,
    ):
        await price(gateway, "m", "1")
        got = await gateway.http.post(gateway.url + PATHS[wire_format], json=asked(**more), headers=gateway.key)
        booked, session = await only(gateway), await gateway.session()
    assert got.content == (
        STREAMS[wire_format] if is_streamed else json.dumps(WHOLE[wire_format], separators=(",", ":")).encode()
    )
    assert (booked["state"], booked["usage"], booked["usage_estimated"]) == (
        "metered",
        EVERYTHING.model_dump(),
        False,
    )
    assert (booked["cost_usd"], booked["tokens"], booked["status"]) == (42, 42, 200)
    assert booked["first_byte_ms"] is not None and booked["ended_at"] is not None
    assert (session["cost_usd"], session["tokens"]) == (42, 42)
    assert {name: session["usage"][name] for name in Usage.model_fields} == EVERYTHING.model_dump()


@pytest.mark.parametrize("model", SCRIPTED)
async def test_the_scripted_model_is_free_under_a_budget_in_money_in_every_format(
    open_gateway: OpenGateway, model: str
):
    formats = {"scripted/x": "anthropic", "scripted/openai-demo": "openai"}
    path = PATHS[formats.get(model, "openai-responses")]  # type: ignore[index]
    async with (
        listening(create_scripted()) as url,
        open_gateway(scripted_providers(url), models=[model], budget=MONEY) as gateway,
    ):
        body = asked(model, text=script({"text": "hello"}))
        answer = await gateway.http.post(gateway.url + path, json=body, headers=gateway.key)
        booked = await only(gateway)
    assert answer.status_code == 200, answer.text
    assert (booked["state"], booked["cost_usd"]) == ("metered", 0)


async def test_a_provider_that_is_not_free_needs_a_price_under_a_budget_in_money(open_gateway: OpenGateway):
    async with fake_provider(JSONResponse(WHOLE["anthropic"])) as fake:
        providers = {"scripted": provider(fake.url, "m"), "mine": provider(fake.url, "n", free=True)}
        async with open_gateway(providers, models=["m", "n"], budget=MONEY) as gateway:
            got = [
                await gateway.http.post(gateway.url + PATHS["anthropic"], json=asked(each), headers=gateway.key)
                for each in ("m", "n")
            ]
    assert [each.status_code for each in got] == [402, 200]
    assert got[0].json()["error"]["type"] == "unpriced"


class Steps:
    """A stream that goes on only when the test lets it."""

    def __init__(self, *pieces: bytes):
        self._pieces = pieces
        self.next = asyncio.Semaphore(0)

    async def body(self) -> AsyncGenerator[bytes]:
        for piece in self._pieces:
            yield piece
            await self.next.acquire()


def sse(steps: Steps) -> StreamingResponse:
    return StreamingResponse(steps.body(), media_type="text/event-stream")


async def test_an_answer_is_on_record_before_its_last_event_passes(open_gateway: OpenGateway):
    *first, last = STREAMS["anthropic"].split(b"\n\n")[:-1]
    steps = Steps(b"\n\n".join(first) + b"\n\n", last + b"\n\n")
    async with fake_provider(sse(steps)) as fake, open_gateway({"a": provider(fake.url)}) as gateway:
        body = asked(stream=True)
        request = gateway.http.stream("POST", gateway.url + PATHS["anthropic"], json=body, headers=gateway.key)
        async with request as answer:
            pieces = answer.aiter_bytes()
            await anext(pieces)
            assert (await gateway.booked())[0]["state"] == "running"
            steps.next.release()
            assert b"message_stop" in await anext(pieces)
            assert (await gateway.booked())[0]["state"] == "metered"
            steps.next.release()


@pytest.mark.parametrize(
    ("wire_format", "answer"),
    [
        ("anthropic", JSONResponse({"type": "message", "content": []})),
        ("openai", JSONResponse({"object": "chat.completion", "choices": [], "usage": {"prompt_tokens": 0}})),
        ("openai", JSONResponse({"object": "chat.completion", "choices": [], "usage": {"prompt_tokens": -5}})),
        ("openai-responses", streamed(events({"type": "response.completed", "response": {"usage": None}}))),
        ("anthropic", Response(b"", media_type="application/json")),
    ],
)
async def test_an_answer_without_usage_costs_its_reservation_and_never_nothing(
    open_gateway: OpenGateway, wire_format: WireFormat, answer: Response
):
    async with (
        fake_provider(answer) as fake,
        open_gateway({"a": provider(fake.url, wire_format=wire_format)}) as gateway,
    ):
        await price(gateway, "m", "1")
        got = await gateway.http.post(gateway.url + PATHS[wire_format], json=asked(), headers=gateway.key)
        booked = await only(gateway)
    assert got.status_code == 200
    assert (booked["state"], booked["cost_usd"]) == ("lost", booked["reserved_usd"])
    assert booked["reserved_usd"] > 0


async def test_a_completion_that_was_not_asked_for_its_usage_is_estimated_and_marked(open_gateway: OpenGateway):
    said = events(
        {"choices": [{"delta": {"content": "x" * 400}}]},
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
        "[DONE]",
    )
    async with (
        fake_provider(streamed(said)) as fake,
        open_gateway({"a": provider(fake.url, wire_format="openai")}) as gateway,
    ):
        await price(gateway, "m", "1")
        await gateway.http.post(gateway.url + PATHS["openai"], json=asked(stream=True), headers=gateway.key)
        booked, session = await only(gateway), await gateway.session()
    assert (booked["state"], booked["usage_estimated"]) == ("lost", True)
    assert booked["usage"]["output_tokens"] == 100
    assert booked["cost_usd"] == booked["reserved_tokens"] + 100
    assert session["usage"]["output_tokens"] == 100


@pytest.mark.parametrize(
    "body",
    [
        STREAMS["anthropic"][:-20],
        events({"type": "message_start", "message": {"usage": ANTHROPIC_USAGE}}),
        events({"type": "error", "error": {"type": "overloaded_error", "message": "m"}}),
    ],
)
async def test_an_answer_that_breaks_off_is_lost(open_gateway: OpenGateway, body: bytes):
    async with fake_provider(streamed(body)) as fake, open_gateway({"a": provider(fake.url)}) as gateway:
        await price(gateway, "m", "1")
        await gateway.http.post(gateway.url + PATHS["anthropic"], json=asked(stream=True), headers=gateway.key)
        booked = (await gateway.booked())[0]
    assert (booked["state"], booked["cost_usd"], booked["usage"]) == ("lost", booked["reserved_usd"], None)


async def test_a_connection_that_breaks_in_the_middle_is_lost_before_the_client_is_told(open_gateway: OpenGateway):
    broken = Response(STREAMS["anthropic"][:90], headers={"content-length": "1000"}, media_type="text/event-stream")
    async with fake_provider(broken) as fake, open_gateway({"a": provider(fake.url)}) as gateway:
        with pytest.raises(httpx.RemoteProtocolError):
            await gateway.http.post(gateway.url + PATHS["anthropic"], json=asked(stream=True), headers=gateway.key)
        assert (await gateway.booked())[0]["state"] == "lost"


async def test_a_client_that_leaves_in_the_middle_is_lost(open_gateway: OpenGateway):
    steps = Steps(STREAMS["anthropic"][:90], b"never")
    async with fake_provider(sse(steps)) as fake, open_gateway({"a": provider(fake.url)}) as gateway:
        body = asked(stream=True)
        request = gateway.http.stream("POST", gateway.url + PATHS["anthropic"], json=body, headers=gateway.key)
        async with request as answer:
            await anext(answer.aiter_bytes())
        assert (await only(gateway))["state"] == "lost"


@pytest.mark.parametrize("status", [400, 401, 429, 500, 529])
async def test_what_the_provider_refuses_is_free(open_gateway: OpenGateway, status: int):
    async with (
        fake_provider(JSONResponse({"error": {}}, status_code=status)) as fake,
        open_gateway({"a": provider(fake.url)}) as gateway,
    ):
        got = await gateway.http.post(gateway.url + PATHS["anthropic"], json=asked(), headers=gateway.key)
        booked, session = (await gateway.booked())[0], await gateway.session()
    assert got.status_code == status
    assert (booked["state"], booked["status"], booked["cost_usd"]) == ("free", status, None)
    assert session["tokens"] == 0


async def test_what_is_never_sent_is_free(open_gateway: OpenGateway):
    """A provider that is not there, and a client that leaves while it waits for a slot."""
    steps = Steps(STREAMS["anthropic"][:90], b"never")
    providers = {"away": provider("http://127.0.0.1:9", "away")}
    async with fake_provider(sse(steps)) as fake:
        providers["busy"] = provider(fake.url, "busy", limit=1)
        async with open_gateway(providers, models=["busy", "away"]) as gateway:
            url = gateway.url + PATHS["anthropic"]
            first = await gateway.http.post(url, json=asked("away", stream=False), headers=gateway.key)
            async with gateway.http.stream("POST", url, json=asked("busy", stream=True), headers=gateway.key):
                with pytest.raises(httpx.ReadTimeout):
                    await gateway.http.post(url, json=asked("busy"), headers=gateway.key, timeout=0.3)
                found = await ended(gateway, requests=2)
                steps.next.release()
            assert len(fake.asked) == 1
    assert first.status_code == 502
    assert sorted(each["state"] for each in found) == ["free", "free", "running"]


async def test_an_answer_whose_settlement_postgres_does_not_take_is_cut_and_its_row_stays_open(
    open_gateway: OpenGateway,
):
    *first, last = STREAMS["anthropic"].split(b"\n\n")[:-1]
    steps = Steps(b"\n\n".join(first) + b"\n\n", last + b"\n\n")
    async with fake_provider(sse(steps)) as fake, open_gateway({"a": provider(fake.url)}) as gateway:
        request = gateway.http.stream(
            "POST", gateway.url + PATHS["anthropic"], json=asked(stream=True), headers=gateway.key
        )
        came = b""
        async with request as answer:
            pieces = answer.aiter_bytes()
            came += await anext(pieces)
            await refuse_settlements(gateway)
            steps.next.release()
            with pytest.raises(httpx.RemoteProtocolError):
                async for piece in pieces:
                    came += piece
        assert b"message_stop" not in came
        assert (await gateway.booked())[0]["state"] == "running"


async def refuse_settlements(gateway: Gateway) -> None:
    """Have Postgres refuse the end of every request from now on."""
    async with await psycopg.AsyncConnection.connect(gateway.database.url, autocommit=True) as connection:
        await connection.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'the disk is full'; END $$"
        )
        await connection.execute(
            "CREATE TRIGGER refuse BEFORE UPDATE ON model_requests FOR EACH ROW EXECUTE FUNCTION refuse()"
        )


async def test_a_request_of_another_model_than_the_turns_is_refused_with_the_list(open_gateway: OpenGateway):
    async with fake_provider(JSONResponse(WHOLE["openai"])) as fake:
        providers = {"openai": provider(fake.url, "gpt-*", "openai/*", wire_format="openai")}
        async with open_gateway(providers, models=["openai/gpt-5", "gpt-4"]) as gateway:
            got = [
                await gateway.http.post(gateway.url + PATHS["openai"], json=asked(model), headers=gateway.key)
                for model in ("gpt-3", "openai/gpt-5", "gpt-5", "openai/gpt-4")
            ]
            booked = await gateway.booked()
    assert [each.status_code for each in got] == [403, 200, 200, 200]
    assert "openai/gpt-5, gpt-4" in got[0].json()["error"]["message"]
    assert [each["model"] for each in booked] == ["openai/gpt-5", "openai/gpt-5", "gpt-4"]
    assert [json.loads(each.body)["model"] for each in fake.asked] == ["gpt-5", "gpt-5", "gpt-4"]


async def test_pictures_are_reserved_by_their_number(open_gateway: OpenGateway):
    picture = "A" * 400_000
    source = {"type": "base64", "media_type": "image/png", "data": picture}
    url = f"data:image/png;base64,{picture}"
    contents: list[list[dict[str, Any]]] = [
        [{"type": "image", "source": source}],
        [{"type": "image_url", "image_url": {"url": url}}],
        [{"type": "input_image", "image_url": url}],
        [{"type": "text", "text": picture}],
    ]
    async with (
        fake_provider(JSONResponse(WHOLE["anthropic"])) as fake,
        open_gateway({"a": provider(fake.url)}) as gateway,
    ):
        for content in contents:
            body = asked() | {"messages": [{"role": "user", "content": content}]}
            await gateway.http.post(gateway.url + PATHS["anthropic"], json=body, headers=gateway.key)
        booked = [each["reserved_tokens"] for each in await gateway.booked()]
    assert all(1500 <= each < 1700 for each in booked[:3])
    assert booked[3] > 100_000


async def test_a_request_keeps_the_id_that_its_client_gave_it(open_gateway: OpenGateway):
    async with (
        fake_provider(JSONResponse(WHOLE["anthropic"])) as fake,
        open_gateway({"a": provider(fake.url)}) as gateway,
    ):
        headers = {**gateway.key, REQUEST_ID_HEADER: new_id("sevt")}
        got = [await gateway.http.post(gateway.url + PATHS["anthropic"], json=asked(), headers=headers) for _ in "ab"]
        other = await gateway.http.post(
            gateway.url + PATHS["anthropic"], json=asked(), headers={**gateway.key, REQUEST_ID_HEADER: "mine"}
        )
        booked = await gateway.booked()
    assert [each.status_code for each in got] == [200, 409]
    assert [each["id"] for each in booked] == [headers[REQUEST_ID_HEADER]]
    assert other.status_code == 400
