"""Repeating a POST with its key, over plain HTTP."""

import asyncio
import json
import uuid
from typing import Any

import httpx
import pytest
from anthropic import AsyncAnthropic


@pytest.fixture
def key() -> dict[str, str]:
    """The header with a fresh key."""
    return {"Idempotency-Key": str(uuid.uuid4())}


def message(text: str = "hello") -> dict[str, Any]:
    return {"events": [{"type": "user.message", "content": [{"type": "text", "text": text}]}]}


async def count_events(client: AsyncAnthropic, session_id: str) -> int:
    return len([event async for event in client.beta.sessions.events.list(session_id)])


async def test_a_repeat_gets_the_first_answer_and_has_no_effect(
    client: AsyncAnthropic, http: httpx.AsyncClient, session: Any, key: dict[str, str]
):
    path = f"/v1/sessions/{session.id}/events"
    first = await http.post(path, json=message(), headers=key)
    again = await http.post(path, json=message(), headers=key)
    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert await count_events(client, session.id) == 1


async def test_another_body_with_the_same_key_is_refused(
    client: AsyncAnthropic, http: httpx.AsyncClient, session: Any, key: dict[str, str]
):
    path = f"/v1/sessions/{session.id}/events"
    await http.post(path, json=message("one"), headers=key)
    answer = await http.post(path, json=message("two"), headers=key)
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "idempotency_key_reused"
    assert await count_events(client, session.id) == 1


async def test_another_endpoint_with_the_same_key_is_refused(http: httpx.AsyncClient, key: dict[str, str]):
    body = {"name": "n", "model": "m"}
    assert (await http.post("/v1/agents", json=body, headers=key)).status_code == 200
    assert (await http.post("/v1/environments", json={"name": "n"}, headers=key)).status_code == 409


async def test_duplicates_at_the_same_time_have_one_effect(
    client: AsyncAnthropic, http: httpx.AsyncClient, session: Any, key: dict[str, str]
):
    path = f"/v1/sessions/{session.id}/events"
    answers = await asyncio.gather(*(http.post(path, json=message(), headers=key) for _ in range(12)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 11
    assert await count_events(client, session.id) == 1


async def test_a_refused_request_does_not_use_its_key_up(http: httpx.AsyncClient, session: Any, key: dict[str, str]):
    path = f"/v1/sessions/{session.id}/events"
    assert (await http.post(path, json=message(""), headers=key)).status_code == 400
    assert (await http.post(path, json={**message(), "expected_seq": 5}, headers=key)).status_code == 409
    assert (await http.post(path, json=message("good"), headers=key)).status_code == 200


async def test_an_upload_can_be_repeated(http: httpx.AsyncClient, key: dict[str, str]):
    content = b"x" * 3_000_000
    first = await http.post("/v1/files", files={"file": ("a.bin", content)}, headers=key)
    again = await http.post("/v1/files", files={"file": ("a.bin", content)}, headers=key)
    assert first.json() == again.json()
    other = await http.post("/v1/files", files={"file": ("a.bin", content + b"y")}, headers=key)
    renamed = await http.post("/v1/files", files={"file": ("b.bin", content)}, headers=key)
    assert (other.status_code, renamed.status_code) == (409, 409)


@pytest.mark.parametrize("action", ["update", "archive", "resource", "session", "environment"])
async def test_every_post_takes_a_key(http: httpx.AsyncClient, session: Any, key: dict[str, str], action: str):
    file = (await http.post("/v1/files", files={"file": ("a.txt", b"x")})).json()
    path, body = {
        "update": (f"/v1/sessions/{session.id}", {"title": "t"}),
        "archive": (f"/v1/sessions/{session.id}/archive", None),
        "resource": (f"/v1/sessions/{session.id}/resources", {"type": "file", "file_id": file["id"]}),
        "session": ("/v1/sessions", {"agent": session.agent.id, "environment_id": session.environment_id}),
        "environment": ("/v1/environments", {"name": "n"}),
    }[action]
    first = await http.post(path, json=body, headers=key)
    again = await http.post(path, json=body, headers=key)
    assert first.status_code == 200, first.text
    assert first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("value", ["", "x" * 256, "tab\there"])
async def test_a_key_that_is_none_is_refused(http: httpx.AsyncClient, value: str):
    answer = await http.post("/v1/agents", json={"name": "n", "model": "m"}, headers={"Idempotency-Key": value})
    assert answer.status_code == 400
    assert answer.json()["error"]["field"] == "Idempotency-Key"


async def test_the_sdk_can_send_a_key(client: AsyncAnthropic, key: dict[str, str]):
    first = await client.beta.agents.create(name="n", model="m", extra_headers=key)
    again = await client.beta.agents.create(name="n", model="m", extra_headers=key)
    assert first == again


async def test_the_secret_of_a_new_key_is_not_kept_for_a_repeat(http: httpx.AsyncClient, key: dict[str, str]):
    first = await http.post("/v1/api_keys", json={"name": "n"}, headers=key)
    again = await http.post("/v1/api_keys", json={"name": "n"}, headers=key)
    assert first.json()["key"] != again.json()["key"]
    assert json.dumps(first.json()) != json.dumps(again.json())
