"""What a session asked of models, as its owner reads it."""

from decimal import Decimal
from typing import Any

import httpx
import pytest
import zstandard
from anthropic.types.beta import BetaManagedAgentsSession
from psycopg.types.json import Jsonb

from controlplane.ids import new_id
from controlplane.store import model_requests
from controlplane.store.model_requests import KeptExchange
from harness_adapters.contract import Usage

from .conftest import WORKSPACE, Api

USAGE = Usage(input_tokens=1, cache_read_input_tokens=2, output_tokens=3)
BODY = b'{ "model":"m" }'
ANSWER = b'data: {"a": 1}\n\n'


async def made(
    api: Api, session_id: str, *, state: str = "metered", kept: bool = True, answer: bytes = ANSWER, **more: Any
) -> str:
    """Record a model request as the gateway does."""
    request_id = new_id("sevt")
    columns: dict[str, Any] = {
        "model": "m",
        "provider": "p",
        "state": state,
        "usage": Jsonb(USAGE.model_dump()),
        "cost_usd": Decimal("0.0120"),
        "first_byte_ms": 12,
        "status": 200,
        "fallback_for": None,
        **more,
    }
    async with api.database.transaction(WORKSPACE) as connection:
        await connection.execute(
            "INSERT INTO model_requests (id, workspace_id, session_id, turn_id, model, provider, state, usage,"
            " cost_usd, first_byte_ms, status, fallback_for, reserved_usd, reserved_tokens, spending)"
            " VALUES (%s, %s, %s, 'turn_1', %s, %s, %s, %s, %s, %s, %s, %s, 0, 0, '[]')",
            (request_id, WORKSPACE, session_id, *columns.values()),
        )
        if kept:
            pack = zstandard.compress
            exchange = KeptExchange(request_id, pack(BODY), pack(answer), "text/event-stream" if answer else "")
            await model_requests.keep(connection, exchange)
    return request_id


async def test_requests_are_listed_in_order_and_by_pages(
    api: Api, http: httpx.AsyncClient, session: BetaManagedAgentsSession
):
    path = f"/v1/sessions/{session.id}/model_requests"
    ids = [
        await made(api, session.id),
        await made(api, session.id, model="n", fallback_for="m", kept=False),
        await made(api, session.id, state="running", usage=None, cost_usd=None, first_byte_ms=None, status=None),
    ]
    first = (await http.get(path, params={"limit": 2})).json()
    second = (await http.get(path, params={"limit": 2, "page": first["next_page"]})).json()
    found = [*first["data"], *second["data"]]
    assert ([each["id"] for each in found], second["next_page"]) == (ids, None)
    one = found[0]
    assert (one["type"], one["model"], one["provider"], one["state"]) == ("model_request", "m", "p", "metered")
    assert (one["usage"], one["cost_usd"], one["first_byte_ms"]) == (USAGE.model_dump(), "0.012", 12)
    assert (one["status"], one["logged"], one["usage_estimated"]) == (200, True, False)
    assert [(each["fallback_for"], each["logged"]) for each in found[1:]] == [("m", False), (None, True)]
    assert (found[2]["usage"], found[2]["cost_usd"], found[2]["ended_at"]) == (None, None, None)


async def test_bodies_come_back_byte_for_byte(api: Api, http: httpx.AsyncClient, session: BetaManagedAgentsSession):
    path = f"/v1/sessions/{session.id}/model_requests/{await made(api, session.id)}"
    request, response = await http.get(f"{path}/request"), await http.get(f"{path}/response")
    assert (request.content, request.headers["content-type"]) == (BODY, "application/json")
    assert (response.content, response.headers["content-type"].split(";")[0]) == (ANSWER, "text/event-stream")
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("how", "code"), [({"kept": False}, "model_request_not_kept"), ({"answer": b""}, "model_request_unanswered")]
)
async def test_what_is_not_kept_is_a_404_that_says_so(
    api: Api, http: httpx.AsyncClient, session: BetaManagedAgentsSession, how: dict[str, Any], code: str
):
    path = f"/v1/sessions/{session.id}/model_requests/{await made(api, session.id, **how)}"
    answer = await http.get(f"{path}/response")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, code)


async def test_a_request_belongs_to_its_session(api: Api, http: httpx.AsyncClient, session: BetaManagedAgentsSession):
    body = {"agent": session.agent.id, "environment_id": session.environment_id}
    other = (await http.post("/v1/sessions", json=body)).json()["id"]
    request_id = await made(api, session.id)
    answer = await http.get(f"/v1/sessions/{other}/model_requests/{request_id}/request")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_request_not_found")
    assert (await http.get(f"/v1/sessions/{other}/model_requests")).json()["data"] == []
    for path in ("", f"/{request_id}/request"):
        answer = await http.get(f"/v1/sessions/sesn_none/model_requests{path}")
        assert answer.json()["error"]["code"] == "session_not_found"


async def test_the_requests_go_with_their_session(
    api: Api, http: httpx.AsyncClient, session: BetaManagedAgentsSession
):
    request_id = await made(api, session.id)
    assert (await http.delete(f"/v1/sessions/{session.id}")).status_code == 200
    async with api.database.transaction(WORKSPACE) as connection:
        found = await connection.execute("SELECT FROM model_exchanges WHERE request_id = %s", (request_id,))
        assert await found.fetchone() is None


async def test_an_agents_fallbacks_are_kept_and_bounded(http: httpx.AsyncClient):
    model = {"id": "a", "fallbacks": ["b", "c", "b", "a"]}
    agent = (await http.post("/v1/agents", json={"name": "n", "model": model})).json()
    assert agent["model"]["fallbacks"] == ["b", "c"]
    path = f"/v1/agents/{agent['id']}"
    renamed = (await http.post(path, json={"model": "d"})).json()
    assert (renamed["model"]["id"], renamed["model"]["fallbacks"]) == ("d", ["b", "c"])
    cleared = (await http.post(path, json={"model": {"id": "d", "fallbacks": None}})).json()
    assert cleared["model"]["fallbacks"] == []
    refused = await http.post(path, json={"model": {"id": "d", "fallbacks": list("abcefg")}})
    assert refused.status_code == 400
    assert refused.json()["error"]["field"].startswith("model.fallbacks")
    assert (await http.post("/v1/agents", json={"name": "n", "model": "m"})).json()["model"]["fallbacks"] == []
