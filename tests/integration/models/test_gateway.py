"""The gateway: who may pass, where to, and that nothing is changed on the way."""

import asyncio
import gzip
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from starlette.responses import JSONResponse, Response, StreamingResponse

from controlplane.models import ModelLog, TurnGate, create_gateway
from controlplane.models.listening import listening
from controlplane.models.upstream import create_client
from controlplane.settings import ModelProvider
from controlplane.store.pool import ALL_WORKSPACES, Database
from tests.integration.models.conftest import Gateway, OpenGateway
from tests.integration.models.fake_provider import fake_provider
from tests.support.canary import Canary, Seeker

KEY = "sk-a-real-secret"
MESSAGES, COMPLETIONS = "/v1/messages", "/v1/chat/completions"


def _body(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}], **more}


def _provider(
    url: str, *models: str, wire_format: Any = "anthropic", limit: int = 64, key: str = KEY
) -> ModelProvider:
    return ModelProvider(
        format=wire_format,
        base_url=url,
        api_key=SecretStr(key),
        models=list(models),
        max_concurrent_requests=limit,
    )


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "wrong"}, {"authorization": "Bearer wrong"}])
async def test_a_request_without_a_running_turns_token_is_refused(gateway: Gateway, headers: dict[str, str]):
    answer = await gateway.http.post(gateway.url + MESSAGES, json=_body("scripted/x"), headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
async def test_a_turns_token_passes_in_either_header_and_only_while_the_turn_runs(gateway: Gateway, header: str):
    value = gateway.token if header == "x-api-key" else f"Bearer {gateway.token}"
    first = await gateway.http.post(gateway.url + MESSAGES, json=_body("scripted/x"), headers={header: value})
    await gateway.end_turn()
    second = await gateway.http.post(gateway.url + MESSAGES, json=_body("scripted/x"), headers={header: value})
    assert (first.status_code, second.status_code) == (200, 401)


async def test_a_strangers_body_is_not_read(gateway: Gateway):
    url = httpx.URL(gateway.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nX-Api-Key: wrong\r\nContent-Length: 60000000\r\n\r\n{")
    await writer.drain()
    assert b"401" in await asyncio.wait_for(reader.readline(), 10)
    writer.close()


async def test_a_token_that_is_superseded_while_the_body_comes_does_not_pass(gateway: Gateway):
    """The first look at the token is cheap and early; the second, where the request is reserved, decides."""
    url, body = httpx.URL(gateway.url), json.dumps(_body("scripted/x")).encode()
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = f"POST {MESSAGES} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {gateway.token}\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body[:5])
    await writer.drain()
    await asyncio.sleep(0.3)
    async with gateway.database.transaction(ALL_WORKSPACES) as connection:
        await connection.execute("UPDATE turns SET model_token_hash = 'the next attempt', attempt = attempt + 1")
    writer.write(body[5:])
    assert b"401" in await asyncio.wait_for(reader.readline(), 10)
    assert await gateway.booked() == []
    writer.close()


async def test_a_token_that_cannot_be_checked_does_not_pass():
    nowhere = Database("postgresql://127.0.0.1:1/none", wait_seconds=0.2)
    await nowhere.open()
    async with (
        create_client() as client,
        httpx.AsyncClient(trust_env=False) as http,
        listening(create_gateway({}, gate=TurnGate(nowhere), client=client, log=ModelLog(nowhere, days=0))) as url,
    ):
        answer = await http.post(url + MESSAGES, json=_body("scripted/x"), headers={"x-api-key": "t"})
    await nowhere.close()
    assert answer.status_code == 503
    assert answer.json()["error"]["type"] == "overloaded_error"


async def test_routes_say_who_serves_a_model_and_in_which_format(gateway: Gateway):
    answers = [
        (await gateway.http.get(gateway.url + "/v1/routes", params={"model": model})).json()
        for model in ("scripted/demo", "scripted/openai-demo")
    ]
    assert answers == [
        {"model": "scripted/demo", "provider": "scripted-anthropic", "formats": ["anthropic"]},
        {"model": "scripted/openai-demo", "provider": "scripted-openai", "formats": ["openai"]},
    ]


async def test_a_model_that_nobody_serves_is_a_404_that_names_the_settings(gateway: Gateway):
    route = await gateway.http.get(gateway.url + "/v1/routes", params={"model": "gpt-5"})
    request = await gateway.http.post(gateway.url + COMPLETIONS, json=_body("gpt-5"), headers=gateway.key)
    assert (route.status_code, request.status_code) == (404, 404)
    for setting in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "bulkhead.toml"):
        assert setting in route.json()["error"]["message"]
        assert setting in request.json()["error"]["message"]


@pytest.mark.parametrize(("path", "model"), [(MESSAGES, "scripted/openai-demo"), (COMPLETIONS, "scripted/x")])
async def test_a_format_that_the_provider_does_not_speak_is_refused(gateway: Gateway, path: str, model: str):
    answer = await gateway.http.post(gateway.url + path, json=_body(model), headers=gateway.key)
    assert answer.status_code == 400
    assert "which speaks" in answer.json()["error"]["message"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"model": 5}', b"\xff", b"[" * 100_000])
async def test_a_body_without_a_model_is_refused(gateway: Gateway, content: bytes):
    answer = await gateway.http.post(gateway.url + MESSAGES, content=content, headers=gateway.key)
    assert answer.status_code == 400


async def test_request_and_answer_pass_unchanged_and_with_the_providers_key_alone(open_gateway: OpenGateway):
    sent = b'{ "messages":[],\t"model" : "claude-x", "odd": 1e2, "u": "\\u00e9" }'
    response = Response(b'{"ok": 1.50}', headers={"request-id": "req_1", "set-cookie": "a=b"})
    async with (
        fake_provider(response) as fake,
        open_gateway({"a": _provider(fake.url, "claude-*")}, models=["claude-x"]) as gateway,
    ):
        answer = await gateway.http.post(
            f"{gateway.url}{MESSAGES}?beta=true",
            content=sent,
            headers={**gateway.key, "content-type": "application/json", "anthropic-beta": "b", "cookie": "c=d"},
        )
    asked = fake.asked[0]
    assert (asked.path, asked.query, asked.body) == (MESSAGES, "beta=true", sent)
    assert asked.headers["x-api-key"] == KEY
    assert asked.headers["anthropic-beta"] == "b"
    assert asked.headers["anthropic-version"] == "2023-06-01"
    assert gateway.token not in str(asked.headers)
    assert "cookie" not in asked.headers
    assert (answer.content, answer.headers["request-id"]) == (b'{"ok": 1.50}', "req_1")
    assert "set-cookie" not in answer.headers


async def test_openai_gets_its_key_as_a_bearer_and_a_model_without_its_prefix(open_gateway: OpenGateway):
    async with fake_provider(JSONResponse({})) as fake:
        providers = {"openai": _provider(f"{fake.url}/v1", "openai/*", wire_format="openai")}
        async with open_gateway(providers, models=["openai/gpt-5"]) as gateway:
            await gateway.http.post(gateway.url + COMPLETIONS, json=_body("openai/gpt-5", n=1), headers=gateway.key)
    asked = fake.asked[0]
    assert asked.path == COMPLETIONS
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert json.loads(asked.body) == _body("gpt-5", n=1)


async def test_an_upstream_error_passes_with_its_status_headers_and_body(open_gateway: OpenGateway):
    body = {"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}
    response = JSONResponse(body, status_code=429, headers={"retry-after": "7", "request-id": "req_2"})
    async with fake_provider(response) as fake, open_gateway({"a": _provider(fake.url, "*")}) as gateway:
        answer = await gateway.http.post(gateway.url + MESSAGES, json=_body("m"), headers=gateway.key)
    assert (answer.status_code, answer.headers["retry-after"], answer.headers["request-id"]) == (429, "7", "req_2")
    assert answer.json() == body


@pytest.mark.parametrize(
    ("status", "form", "packed"),
    [(401, "raw", False), (200, "raw", True), (401, "json", True), (500, "url", False), (200, "base64 at 1", False)],
)
async def test_a_key_that_its_provider_quotes_is_taken_out(
    open_gateway: OpenGateway, status: int, form: str, packed: bool
):
    key = Canary("the provider", special='/+"&%')
    quoted = key.forms()[form]
    body = b"you sent " + quoted + b"!"

    async def in_pieces() -> AsyncGenerator[bytes]:
        sent = gzip.compress(body) if packed else body
        for at in range(0, len(sent), 5):
            yield sent[at : at + 5]

    headers = {"x-you-sent": quoted.decode(), **({"content-encoding": "gzip"} if packed else {})}
    response = StreamingResponse(in_pieces(), status_code=status, headers=headers)
    async with fake_provider(response) as fake:
        provider = _provider(fake.url, "*", key=key.value)
        async with open_gateway({"a": provider}) as gateway:
            answer = await gateway.http.post(gateway.url + MESSAGES, json=_body("m"), headers=gateway.key)
    assert fake.asked[0].headers["x-api-key"] == key.value
    assert (answer.status_code, answer.content[:9], answer.content[-1:]) == (status, b"you sent ", b"!")
    seeker = Seeker(key)
    seeker.look("answer", repr(answer.headers.raw).encode() + answer.content)
    seeker.verdict()


async def test_an_answer_in_which_a_key_could_not_be_seen_is_none(open_gateway: OpenGateway):
    packed = Response(b"\x0b\x02\x80secret\x03", headers={"content-encoding": "br"})
    async with fake_provider(packed) as fake, open_gateway({"a": _provider(fake.url, "*")}) as gateway:
        asked_for = {**gateway.key, "accept-encoding": "br"}
        answer = await gateway.http.post(gateway.url + MESSAGES, json=_body("m"), headers=asked_for)
    assert fake.asked[0].headers["accept-encoding"] == "identity"
    assert (answer.status_code, b"secret" in answer.content) == (502, False)


async def test_a_word_that_stands_in_for_a_key_may_be_in_an_answer(open_gateway: OpenGateway):
    said = {"said": "ollama runs models"}
    async with (
        fake_provider(JSONResponse(said)) as fake,
        open_gateway({"a": _provider(fake.url, "*", key="ollama")}) as gateway,
    ):
        answer = await gateway.http.post(gateway.url + MESSAGES, json=_body("m"), headers=gateway.key)
    assert answer.json() == said


@pytest.mark.parametrize(("wire_format", "path"), [("anthropic", MESSAGES), ("openai", COMPLETIONS)])
async def test_a_provider_that_is_not_there_is_a_502_without_its_address(
    open_gateway: OpenGateway, wire_format: str, path: str
):
    provider = _provider("http://user:pass@127.0.0.1:9", "*", wire_format=wire_format)
    async with open_gateway({"a": provider}) as gateway:
        answer = await gateway.http.post(gateway.url + path, json=_body("m"), headers=gateway.key)
    assert answer.status_code == 502
    assert "'a'" in answer.json()["error"]["message"]
    assert "user:pass" not in answer.text
    assert KEY not in answer.text


class _Steps:
    """A stream that goes on only when the test lets it."""

    def __init__(self) -> None:
        self.next = asyncio.Semaphore(0)
        self.closed = asyncio.Event()

    async def body(self) -> AsyncGenerator[bytes]:
        try:
            for number in range(100):
                yield b"data: %d\n\n" % number
                await self.next.acquire()
        finally:
            self.closed.set()


async def test_each_piece_of_a_stream_passes_before_the_next_is_made(open_gateway: OpenGateway):
    steps = _Steps()
    async with (
        fake_provider(StreamingResponse(steps.body())) as fake,
        open_gateway({"a": _provider(fake.url, "*")}) as gateway,
    ):
        request = gateway.http.stream("POST", gateway.url + MESSAGES, json=_body("m"), headers=gateway.key)
        async with request as answer:
            pieces = answer.aiter_raw()
            assert await anext(pieces) == b"data: 0\n\n"
            steps.next.release()
            assert await anext(pieces) == b"data: 1\n\n"


async def test_a_client_that_leaves_ends_the_request_upstream(open_gateway: OpenGateway):
    steps = _Steps()
    async with (
        fake_provider(StreamingResponse(steps.body())) as fake,
        open_gateway({"a": _provider(fake.url, "*")}) as gateway,
    ):
        request = gateway.http.stream("POST", gateway.url + MESSAGES, json=_body("m"), headers=gateway.key)
        async with request as answer:
            await anext(answer.aiter_raw())
        await asyncio.wait_for(steps.closed.wait(), 10)


async def test_requests_beyond_a_providers_limit_wait_for_their_turn(open_gateway: OpenGateway):
    steps = _Steps()
    async with (
        fake_provider(StreamingResponse(steps.body())) as fake,
        open_gateway({"a": _provider(fake.url, "*", limit=1)}) as gateway,
    ):
        request = gateway.http.stream("POST", gateway.url + MESSAGES, json=_body("m"), headers=gateway.key)
        async with request as answer:
            pieces = answer.aiter_raw()
            await anext(pieces)
            second = asyncio.create_task(
                gateway.http.post(gateway.url + MESSAGES, json=_body("m"), headers=gateway.key)
            )
            await gateway.http.get(gateway.url + "/healthz")
            await asyncio.sleep(0.1)
            assert len(fake.asked) == 1
            await pieces.aclose()
        for _ in range(200):
            steps.next.release()
        fake.response = JSONResponse({})
        assert (await second).status_code == 200
        assert len(fake.asked) == 2


async def test_the_formats_of_a_provider_share_its_limit(open_gateway: OpenGateway):
    steps = _Steps()
    async with fake_provider(StreamingResponse(steps.body())) as fake:
        both = _provider(fake.url, "*", wire_format=["anthropic", "openai"], limit=1)
        async with open_gateway({"a": both}) as gateway:
            request = gateway.http.stream("POST", gateway.url + MESSAGES, json=_body("m"), headers=gateway.key)
            async with request as answer:
                pieces = answer.aiter_raw()
                await anext(pieces)
                with pytest.raises(httpx.ReadTimeout):
                    await gateway.http.post(
                        gateway.url + COMPLETIONS, json=_body("m"), headers=gateway.key, timeout=0.3
                    )
                assert len(fake.asked) == 1
                await pieces.aclose()


async def test_a_stream_that_breaks_off_upstream_breaks_off_here(open_gateway: OpenGateway):
    broken = Response(b"data: 0\n\n", headers={"content-length": "1000"})
    async with fake_provider(broken) as fake, open_gateway({"a": _provider(fake.url, "*")}) as gateway:
        with pytest.raises(httpx.RemoteProtocolError):
            await gateway.http.post(gateway.url + MESSAGES, json=_body("m"), headers=gateway.key)


async def test_it_is_healthy_without_a_token(gateway: Gateway):
    assert (await gateway.http.get(gateway.url + "/healthz")).status_code == 200
