"""API keys: what lets a request in, and how keys are made and revoked."""

import asyncio
import time
from typing import Any

import httpx
import pytest
from anthropic import Anthropic, AsyncAnthropic, AuthenticationError

from controlplane.api.auth import CACHE_SECONDS
from controlplane.store import keys
from controlplane.store.pool import ALL_WORKSPACES, rows

from .conftest import WORKSPACE, Api

PATHS = [
    ("GET", "/v1/agents"),
    ("POST", "/v1/agents"),
    ("GET", "/v1/environments"),
    ("GET", "/v1/sessions"),
    ("POST", "/v1/sessions/x/events"),
    ("GET", "/v1/sessions/x/events/stream"),
    ("GET", "/v1/sessions/x/threads"),
    ("GET", "/v1/sessions/x/resources"),
    ("POST", "/v1/files"),
    ("GET", "/v1/files/x/content"),
    ("GET", "/v1/api_keys"),
]


@pytest.mark.parametrize(("method", "path"), PATHS)
@pytest.mark.parametrize(
    "headers",
    [{}, {"x-api-key": "bhk_wrong"}, {"authorization": "Bearer"}, {"authorization": "Basic eDp5"}],
    ids=["none", "wrong", "empty", "basic"],
)
async def test_nothing_is_shown_without_a_key_that_holds(api: Api, method: str, path: str, headers: dict[str, str]):
    async with httpx.AsyncClient(base_url=api.url) as http:
        answer = await http.request(method, path, headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"
    assert answer.json()["request_id"] == answer.headers["request-id"]


@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
async def test_both_headers_carry_a_key(api: Api, header: str):
    value = api.api_key if header == "x-api-key" else f"Bearer {api.api_key}"
    async with httpx.AsyncClient(base_url=api.url, headers={header: value}) as http:
        assert (await http.get("/v1/agents")).status_code == 200


async def test_the_sdk_sees_an_authentication_error(api: Api):
    async with AsyncAnthropic(base_url=api.url, api_key="bhk_wrong", max_retries=0) as client:
        with pytest.raises(AuthenticationError) as caught:
            await client.beta.agents.list()
    assert caught.value.error_code == "invalid_api_key"


async def test_the_blocking_sdk_works_as_well(api: Api):
    def list_agents() -> int:
        with Anthropic(base_url=api.url, api_key=api.api_key, _strict_response_validation=True) as client:
            return len(client.beta.agents.list(limit=1).data)

    import asyncio

    assert await asyncio.to_thread(list_agents) <= 1


async def test_a_key_of_this_workspace_is_none_of_another(http: httpx.AsyncClient):
    answer = await http.get("/v1/agents", headers={"anthropic-workspace-id": "wrkspc_other"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (403, "permission_error")
    assert (await http.get("/v1/agents", headers={"anthropic-workspace-id": WORKSPACE})).status_code == 200


async def test_a_key_is_made_used_and_revoked(api: Api, http: httpx.AsyncClient):
    made = (await http.post("/v1/api_keys", json={"name": "ci"})).json()
    assert made["key"].startswith("bhk_")
    assert made["key"].startswith(made["prefix"])
    listed = await _listed(http, made["id"])
    assert (listed["name"], listed["revoked_at"], "key" in listed) == ("ci", None, False)
    async with httpx.AsyncClient(base_url=api.url, headers={"x-api-key": made["key"]}) as other:
        assert (await other.get("/v1/agents")).status_code == 200
        assert (await _listed(http, made["id"]))["last_used_at"] is not None
        revoked = (await http.post(f"/v1/api_keys/{made['id']}/revoke")).json()
        assert revoked["revoked_at"] is not None
        deadline = time.monotonic() + CACHE_SECONDS
        while (answer := await other.get("/v1/agents")).status_code == 200:
            assert time.monotonic() < deadline + 5
        assert answer.status_code == 401
    assert (await http.post(f"/v1/api_keys/{made['id']}/revoke")).json()["revoked_at"] == revoked["revoked_at"]


async def test_a_key_is_kept_as_a_hash_only(api: Api, http: httpx.AsyncClient):
    made = (await http.post("/v1/api_keys", json={"name": "ci"})).json()
    async with api.database.transaction(ALL_WORKSPACES) as connection:
        cursor = await connection.execute("SELECT api_keys::text AS row FROM api_keys")
        found: Any = await cursor.fetchall()
    assert not any(made["key"] in row["row"] for row in found)


async def test_an_unknown_key_cannot_be_revoked(http: httpx.AsyncClient):
    answer = await http.post("/v1/api_keys/key_nobody/revoke")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "key_not_found")


async def test_ensuring_a_key_twice_is_one_key(api: Api):
    secret = keys.new_secret()
    async with api.database.transaction(WORKSPACE) as connection:
        first = await keys.ensure_key(connection, WORKSPACE, "again", secret)
        assert await keys.ensure_key(connection, WORKSPACE, "again", secret) == first


async def test_two_who_ensure_a_key_at_once_have_the_same(api: Api):
    secret = keys.new_secret()
    async with api.database.transaction(WORKSPACE) as connection:
        first = await keys.ensure_key(connection, WORKSPACE, "at once", secret)
        second = asyncio.create_task(_ensured(api, "at once", secret))
        await _somebody_waits(api)
    assert await second == first


async def test_a_revoked_key_does_not_come_back(api: Api):
    secret = keys.new_secret()
    async with api.database.transaction(WORKSPACE) as connection:
        record = await keys.ensure_key(connection, WORKSPACE, "gone", secret)
        await keys.revoke(connection, record.id)
        with pytest.raises(keys.ConflictError):
            await keys.ensure_key(connection, WORKSPACE, "gone", secret)


@pytest.mark.parametrize("secret", ["short", "with a space in it", "ümlaut-ümlaut-ümlaut", "new\nline-new\nline"])
async def test_a_weak_key_is_refused(api: Api, secret: str):
    async with api.database.transaction(WORKSPACE) as connection:
        with pytest.raises(keys.InvalidRequestError):
            await keys.ensure_key(connection, WORKSPACE, "weak", secret)


async def _ensured(api: Api, name: str, secret: str) -> keys.KeyRecord:
    async with api.database.transaction(WORKSPACE) as connection:
        return await keys.ensure_key(connection, WORKSPACE, name, secret)


async def _somebody_waits(api: Api) -> None:
    """Return once a transaction waits for another one."""
    async with asyncio.timeout(20), api.database.transaction(WORKSPACE) as connection:
        while not await rows(connection, "SELECT FROM pg_locks WHERE NOT granted", {}):  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)


async def _listed(http: httpx.AsyncClient, key_id: str) -> dict[str, Any]:
    listed = (await http.get("/v1/api_keys")).json()["data"]
    return next(key for key in listed if key["id"] == key_id)
