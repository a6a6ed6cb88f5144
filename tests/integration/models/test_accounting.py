"""What a model request is booked as, as the gateway sees its answer pass."""

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.responses import JSONResponse, Response

from controlplane.models.listening import listening
from controlplane.models.scripted import create_scripted, scripted_providers
from controlplane.prices import Price, Rate
from controlplane.settings import ModelProvider
from controlplane.store import prices
from harness_adapters.contract import Usage, WireFormat
from tests.integration.models.conftest import SCRIPTED, Gateway, OpenGateway
from tests.integration.models.fake_provider import fake_provider
from tests.integration.models.test_scripted import script

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


async def only(gateway: Gateway) -> dict[str, Any]:
    """Return the one request that is on record, once it has ended."""
    async with asyncio.timeout(10):
        while True:
            found = await gateway.booked()
            if len(found) == 1 and found[0]["state"] != "running":
                return found[0]
            await asyncio.sleep(0.02)


async def price(gateway: Gateway, model: str, per_token: int) -> None:
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
        await price(gateway, "m", 1)
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
