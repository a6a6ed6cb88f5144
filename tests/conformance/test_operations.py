"""Health, measures and documentation."""

import re
from collections.abc import AsyncGenerator

import httpx
import pytest

from controlplane.api import ApiServer, create_app
from controlplane.store.pool import Database

from .conftest import Api, NoWorkflow, serving


@pytest.fixture
async def anyone(api: Api) -> AsyncGenerator[httpx.AsyncClient]:
    """Somebody without a key."""
    async with httpx.AsyncClient(base_url=api.url) as opened:
        yield opened


async def test_health_needs_no_key(anyone: httpx.AsyncClient):
    answer = await anyone.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "version": "0.0.test"})


async def test_readiness_names_the_parts(anyone: httpx.AsyncClient):
    answer = await anyone.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready", "parts": {"postgres": "ok"}})


async def half_ready() -> dict[str, str | None]:
    """A readiness with a part that is not."""
    return {"postgres": None, "temporal": "connection refused"}


async def test_what_is_not_ready_says_why(api: Api):
    app = create_app(database=api.database, submitter=NoWorkflow(), readiness=half_ready, version="t")
    async with serving(app) as url, httpx.AsyncClient(base_url=url) as http:
        answer = await http.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["parts"] == {"postgres": "ok", "temporal": "connection refused"}


async def test_without_postgres_requests_are_to_be_repeated():
    database = Database("postgresql://nobody@127.0.0.1:1/nothing", wait_seconds=0.2)
    await database.open()
    app = create_app(database=database, submitter=NoWorkflow(), readiness=half_ready, version="t")
    async with serving(app) as url, httpx.AsyncClient(base_url=url, headers={"x-api-key": "bhk_x"}) as http:
        answer = await http.get("/v1/agents")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["error"]["code"] == "database_unavailable"
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/metrics")).status_code == 200
    await database.close()


async def test_measures_count_requests_by_route(anyone: httpx.AsyncClient, http: httpx.AsyncClient):
    await http.get("/v1/agents/agent_nobody")
    text = (await anyone.get("/metrics")).text
    counted = r'bulkhead_http_requests_total\{method="GET",route="/v1/agents/\{agent_id\}",status="404"\} \d'
    assert re.search(counted, text)
    assert 'bulkhead_sessions{status="idle"}' in text
    assert "bulkhead_streams_open" in text


async def test_every_answer_has_an_id_of_its_own(anyone: httpx.AsyncClient):
    ids = [(await anyone.get(path)).headers["request-id"] for path in ("/healthz", "/v1/agents", "/nowhere")]
    assert len(set(ids)) == 3
    assert all(request_id.startswith("req_") for request_id in ids)


async def test_the_documentation_loads_nothing_from_elsewhere(anyone: httpx.AsyncClient):
    answer = await anyone.get("/docs")
    assert answer.status_code == 200
    assert not re.search(r"<(script|link|img|iframe)|url\(|@import|https?://", answer.text)
    assert "/v1/sessions/{session_id}/events/stream" in answer.text


async def test_the_openapi_describes_bodies_keys_and_errors(anyone: httpx.AsyncClient):
    document = (await anyone.get("/openapi.json")).json()
    create = document["paths"]["/v1/sessions"]["post"]
    assert create["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/SessionCreate")
    assert create["security"]
    assert "Idempotency-Key" in [parameter["name"] for parameter in create["parameters"]]
    assert create["responses"]["default"]["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorEnvelope")
    for item in document["paths"].values():
        for operation in item.values():
            assert operation["description"], operation["operationId"]
            assert "422" not in operation["responses"]


async def test_a_server_that_stops_ends_its_streams(api: Api):
    app = create_app(database=api.database, submitter=NoWorkflow(), readiness=half_ready, version="t")
    headers = {"x-api-key": api.api_key}
    async with httpx.AsyncClient(headers=headers, timeout=30) as http, serving(app) as url:
        agent = (await http.post(f"{url}/v1/agents", json={"name": "n", "model": "m"})).json()["id"]
        environment = (await http.post(f"{url}/v1/environments", json={"name": "n"})).json()["id"]
        body = {"agent": agent, "environment_id": environment}
        session = (await http.post(f"{url}/v1/sessions", json=body)).json()["id"]
        async with http.stream("GET", f"{url}/v1/sessions/{session}/events/stream") as stream:
            lines = stream.aiter_lines()
            assert (await anext(lines)).startswith(":")
            app.state.parts.hub.end_streams()
            assert [line async for line in lines if line and not line.startswith(":")] == []


def test_the_server_writes_no_log_of_its_own(api: Api):
    app = create_app(database=api.database, submitter=NoWorkflow(), readiness=half_ready, version="t")
    server = ApiServer(app, host="x", port=0)
    assert (server.config.log_config, server.config.access_log) == (None, False)
