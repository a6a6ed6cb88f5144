"""What was said word for word: kept behind the requests' backs, for so long and no longer."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
import zstandard
from starlette.responses import JSONResponse, Response, StreamingResponse

from controlplane.models import ModelLog
from controlplane.models.log import PRUNED_AT_ONCE
from controlplane.store import model_requests
from controlplane.store.pool import ALL_WORKSPACES, Database, rows
from tests.integration.models.conftest import Gateway, OpenGateway
from tests.integration.models.fake_provider import fake_provider
from tests.integration.models.test_accounting import PATHS, STREAMS, WHOLE, asked, provider, streamed

MESSAGES = PATHS["anthropic"]
KEY = "sk-a-real-secret"


async def kept(gateway: Gateway) -> list[dict[str, Any]]:
    async with gateway.database.transaction(ALL_WORKSPACES) as connection:
        return await rows(connection, "SELECT * FROM model_exchanges ORDER BY kept_at", {})


async def written(gateway: Gateway, *, exchanges: int) -> list[tuple[bytes, bytes, str]]:
    """Return what is kept, unpacked, once there is so much of it."""
    async with asyncio.timeout(10):
        while len(await kept(gateway)) < exchanges:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    unpack = zstandard.ZstdDecompressor().decompress
    return [
        (unpack(each["request"]), unpack(each["response"]), each["response_type"]) for each in await kept(gateway)
    ]


async def test_request_and_answer_are_kept_byte_for_byte_and_packed(open_gateway: OpenGateway):
    text = "the same again " * 5000
    async with (
        fake_provider(streamed(STREAMS["anthropic"])) as fake,
        open_gateway({"a": provider(fake.url)}) as gateway,
    ):
        body = asked(stream=True, text=text)
        await gateway.http.post(gateway.url + MESSAGES, json=body, headers=gateway.key)
        ((request, response, kind),) = await written(gateway, exchanges=1)
        packed = await kept(gateway)
    assert request == fake.asked[0].body
    assert (response, kind) == (STREAMS["anthropic"], "text/event-stream; charset=utf-8")
    assert len(packed[0]["request"]) < len(request) / 20


@pytest.mark.parametrize("status", [200, 400])
async def test_a_providers_key_is_not_in_the_log(open_gateway: OpenGateway, status: int):
    async with (
        fake_provider(JSONResponse({"you sent": KEY}, status_code=status)) as fake,
        open_gateway({"a": provider(fake.url)}) as gateway,
    ):
        await gateway.http.post(gateway.url + MESSAGES, json=asked(text=f"my key is {KEY}"), headers=gateway.key)
        ((request, response, _),) = await written(gateway, exchanges=1)
    assert (b"my key is" in request, b"you sent" in response) == (True, True)
    assert KEY.encode() not in request + response


async def test_what_broke_off_is_kept_as_far_as_it_came(open_gateway: OpenGateway):
    broken = Response(STREAMS["anthropic"][:90], headers={"content-length": "1000"}, media_type="text/event-stream")
    async with fake_provider(broken) as fake, open_gateway({"a": provider(fake.url)}) as gateway:
        with pytest.raises(Exception, match="closed"):
            await gateway.http.post(gateway.url + MESSAGES, json=asked(stream=True), headers=gateway.key)
        ((_, response, _),) = await written(gateway, exchanges=1)
    assert response == STREAMS["anthropic"][:90]


async def test_nothing_is_kept_where_the_days_are_none(open_gateway: OpenGateway):
    async with (
        fake_provider(JSONResponse(WHOLE["anthropic"])) as fake,
        open_gateway({"a": provider(fake.url)}, log_days=0) as gateway,
    ):
        await gateway.http.post(gateway.url + MESSAGES, json=asked(), headers=gateway.key)
    assert await kept(gateway) == []


@pytest.mark.parametrize("where", ["request", "answer"])
async def test_what_finds_no_room_is_dropped_and_the_request_goes_on(open_gateway: OpenGateway, where: str):
    large = "x" * 20_000
    answer = {**WHOLE["anthropic"], "text": large if where == "answer" else ""}
    async with (
        fake_provider(JSONResponse(answer)) as fake,
        open_gateway({"a": provider(fake.url)}, log_bytes=10_000) as gateway,
    ):
        body = asked(text=large if where == "request" else "hi")
        got = await gateway.http.post(gateway.url + MESSAGES, json=body, headers=gateway.key)
        fake.response = JSONResponse(WHOLE["anthropic"])
        await gateway.http.post(gateway.url + MESSAGES, json=asked(text="small"), headers=gateway.key)
        ((request, _, _),) = await written(gateway, exchanges=1)
    assert got.json() == answer
    assert b"small" in request, "the room was given back"


async def test_a_database_that_takes_no_log_keeps_no_answer_up(open_gateway: OpenGateway):
    async with (
        fake_provider(JSONResponse(WHOLE["anthropic"])) as fake,
        open_gateway({"a": provider(fake.url)}, log_bytes=20_000) as gateway,
    ):
        locker = await psycopg.AsyncConnection.connect(gateway.database.url)
        await locker.execute("LOCK TABLE model_exchanges IN ACCESS EXCLUSIVE MODE")
        got = [
            await gateway.http.post(gateway.url + MESSAGES, json=asked(text="x" * 4000), headers=gateway.key)
            for _ in range(5)
        ]
        await locker.close()
        found = await written(gateway, exchanges=2)
    assert [each.status_code for each in got] == [200] * 5
    assert len(found) == 2, "the queue had room for two"


async def test_of_models_that_stand_in_the_one_that_answered_is_kept(open_gateway: OpenGateway):
    async with (
        fake_provider(JSONResponse({}, status_code=529)) as first,
        fake_provider(JSONResponse(WHOLE["anthropic"])) as second,
        open_gateway({"a": provider(first.url, "a"), "b": provider(second.url, "b")}, models=["a", "b"]) as gateway,
    ):
        await gateway.http.post(gateway.url + MESSAGES, json=asked("a"), headers=gateway.key)
        second.response = JSONResponse({"second": 1}, status_code=500)
        await gateway.http.post(gateway.url + MESSAGES, json=asked("a"), headers=gateway.key)
        answered, failed = await written(gateway, exchanges=2)
    assert (b'"model": "b"' in answered[0], b"usage" in answered[1]) == (True, True)
    assert (b'"a"' in failed[0], failed[1]) == (True, b"{}")


async def test_what_is_old_goes_some_at_a_time_and_all_with_its_session(
    open_gateway: OpenGateway, database: Database
):
    async with (
        fake_provider(JSONResponse(WHOLE["anthropic"])) as fake,
        open_gateway({"a": provider(fake.url)}, log_days=7) as gateway,
    ):
        for _ in range(3):
            await gateway.http.post(gateway.url + MESSAGES, json=asked(), headers=gateway.key)
        await written(gateway, exchanges=3)
        async with database.transaction(ALL_WORKSPACES) as connection:
            oldest = "SELECT request_id FROM model_exchanges ORDER BY kept_at LIMIT 2"
            await connection.execute(
                f"UPDATE model_exchanges SET kept_at = now() - interval '8 days' WHERE request_id IN ({oldest})"  # noqa: S608
            )
        async with database.transaction(ALL_WORKSPACES) as connection:
            assert await model_requests.prune(connection, older_than=timedelta(days=7), limit=1) == 1
        assert PRUNED_AT_ONCE > 1
        await gateway.log.prune()
        assert len(await kept(gateway)) == 1
        await ModelLog(database, days=0).prune()
        assert await kept(gateway) == []
        await gateway.http.post(gateway.url + MESSAGES, json=asked(), headers=gateway.key)
        await written(gateway, exchanges=1)
        async with database.transaction(ALL_WORKSPACES) as connection:
            await connection.execute("DELETE FROM sessions")
        assert await kept(gateway) == []


async def test_the_log_of_another_workspace_is_out_of_sight(open_gateway: OpenGateway, database: Database):
    async with (
        fake_provider(JSONResponse(WHOLE["anthropic"])) as fake,
        open_gateway({"a": provider(fake.url)}) as gateway,
    ):
        await gateway.http.post(gateway.url + MESSAGES, json=asked(), headers=gateway.key)
        await written(gateway, exchanges=1)
        for workspace, seen in (("wrkspc_default", 1), ("wrkspc_other", 0)):
            async with database.transaction(workspace) as connection:
                assert len(await rows(connection, "SELECT request_id FROM model_exchanges", {})) == seen


async def test_a_client_that_leaves_early_leaves_its_request_in_the_log(open_gateway: OpenGateway):
    async def endless() -> AsyncGenerator[bytes]:
        yield b"data: 1\n\n"
        await asyncio.sleep(30)

    async with (
        fake_provider(StreamingResponse(endless())) as fake,
        open_gateway({"a": provider(fake.url)}) as gateway,
    ):
        request = gateway.http.stream("POST", gateway.url + MESSAGES, json=asked(stream=True), headers=gateway.key)
        async with request as answer:
            await anext(answer.aiter_bytes())
        ((_, response, _),) = await written(gateway, exchanges=1)
    assert response == b"data: 1\n\n"
