"""Requests that no SDK would send: always a 4xx that says what is wrong, never a 5xx, and nothing half done."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

AGENT = {"name": "n", "model": "m"}


def assert_refused(answer: httpx.Response, *, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["type"] == "error"
    assert body["request_id"] == answer.headers["request-id"]
    assert body["error"]["details"]["error_code"] == body["error"]["code"]
    assert body["error"]["message"]
    return body["error"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"{}}",
        b"nope",
        b"{'name': 'n'}",
        b'{"name": NaN, "model": "m"}',
        b'{"name": Infinity, "model": "m"}',
        b"\xff\xfe{}",
        b'{"name": "\xc3\x28", "model": "m"}',
        b'{"name": "n", "model": "m", "metadata": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
        b"[" * 100_000,
        b'{"name": "n", "model": "m", "tools": ' + b"[" * 200 + b"]" * 200 + b"}",
        b'{"name": ' + b"9" * 5000 + b', "model": "m"}',
    ],
    ids=lambda body: body[:24],
)
async def test_what_is_no_json_is_refused(http: httpx.AsyncClient, body: bytes):
    answer = await http.post("/v1/agents", content=body, headers={"content-type": "application/json"})
    assert assert_refused(answer)["code"] == "malformed_json"


@pytest.mark.parametrize("body", [[], "text", 5, None, True, 1.5])
async def test_a_body_that_is_no_object_is_refused(http: httpx.AsyncClient, body: Any):
    assert_refused(await http.post("/v1/agents", json=body))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"name": "a\\u0000b", "model": "m"}', "name"),
        (b'{"name": "a\\ud800b", "model": "m"}', "name"),
        (b'{"name": "n", "model": "m", "metadata": {"k": "\\u0000"}}', "metadata.k"),
        (b'{"name": "n", "model": "m", "x\\u0000": 1}', None),
        (b'{"name": "n", "model": "m", "tools": [{"type": "custom", "name": "t", "description": "d",'
         b' "input_schema": {"type": "object", "x": 1e999}}]}', "tools.0.input_schema.x"),
        (b'{"name": "n", "model": "m", "tools": [{"type": "custom", "name": "t", "description": "d",'
         b' "input_schema": {"type": "object", "x": "\\udfff"}}]}', "tools.0.input_schema.x"),
    ],
)  # fmt: skip
async def test_what_postgres_cannot_keep_is_refused_before_it_is_asked(
    http: httpx.AsyncClient, body: bytes, field: str | None
):
    answer = await http.post("/v1/agents", content=body, headers={"content-type": "application/json"})
    error = assert_refused(answer)
    assert (error["code"], error["field"]) == ("invalid_value", field)


@pytest.mark.parametrize("number", [10**400, -(10**30), 1e-300, 0.1])
async def test_any_finite_number_is_kept_in_a_schema(http: httpx.AsyncClient, number: Any):
    schema = {"type": "object", "properties": {"x": {"maximum": number}}}
    tool = {"type": "custom", "name": "t", "description": "d", "input_schema": schema}
    answer = await http.post("/v1/agents", json={**AGENT, "tools": [tool]})
    assert answer.status_code == 200, answer.text
    assert answer.json()["tools"][0]["input_schema"] == schema


@pytest.mark.parametrize("version", [2**31, 2**63, 10**30, -1, 1.0, "1", True])
async def test_a_version_that_is_none_is_refused(http: httpx.AsyncClient, version: Any):
    agent = (await http.post("/v1/agents", json=AGENT)).json()
    error = assert_refused(await http.post(f"/v1/agents/{agent['id']}", json={"version": version}))
    assert error["field"] == "version"


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "multipart/form-data; boundary=x", "json"])
async def test_a_body_that_does_not_say_it_is_json_is_refused(http: httpx.AsyncClient, content_type: str):
    answer = await http.post("/v1/agents", content=json.dumps(AGENT).encode(), headers={"content-type": content_type})
    assert assert_refused(answer)["code"] == "unsupported_media_type"


async def test_json_with_a_charset_is_json(http: httpx.AsyncClient):
    headers = {"content-type": "application/json; charset=utf-8"}
    assert (await http.post("/v1/agents", content=json.dumps(AGENT).encode(), headers=headers)).status_code == 200


async def test_a_body_of_twenty_megabytes_is_too_large(http: httpx.AsyncClient):
    body = json.dumps({**AGENT, "system": "x" * 20_000_000}).encode()
    answer = await http.post("/v1/agents", content=body, headers={"content-type": "application/json"})
    assert assert_refused(answer, status=413)["type"] == "request_too_large"


async def test_a_large_body_without_a_length_is_too_large_as_well(http: httpx.AsyncClient):
    async def body() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 1_000_000

    answer = await http.post("/v1/agents", content=body(), headers={"content-type": "application/json"})
    assert_refused(answer, status=413)


@pytest.mark.slow
async def test_nine_megabytes_of_message_are_taken(http: httpx.AsyncClient, session: Any):
    body = {"events": [{"type": "user.message", "content": [{"type": "text", "text": "é" * 4_500_000}]}]}
    content = json.dumps(body, ensure_ascii=False).encode()
    answer = await http.post(
        f"/v1/sessions/{session.id}/events", content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/agents",
        "/v1/environments",
        "/v1/sessions",
        "/v1/files",
    ],
)
@pytest.mark.parametrize(
    "page",
    [
        "x",
        "page_",
        "page_!!!",
        "page_e30",
        "page_eyJvZiI6ImFnZW50cyIsImlkIjoiJyBPUiAxPTEifQ",
        "é",
        "page_" + "A" * 1000,
    ],
)
async def test_a_cursor_that_nobody_gave_out_is_refused(http: httpx.AsyncClient, path: str, page: str):
    error = assert_refused(await http.get(path, params={"page": page}))
    assert (error["code"], error["field"]) == ("bad_cursor", "page")


@pytest.mark.parametrize(
    ("path", "parameters", "field"),
    [
        ("/v1/sessions", {"limit": "many"}, "limit"),
        ("/v1/sessions", {"limit": "9" * 5000}, "limit"),
        ("/v1/sessions", {"order": "sideways"}, "order"),
        ("/v1/sessions", {"statuses[]": "asleep"}, "statuses[].0"),
        ("/v1/sessions", {"agent_version": "99999999999999999999"}, "agent_version"),
        ("/v1/sessions", {"created_at[gt]": "yesterday"}, "created_at[gt]"),
        ("/v1/agents", {"created_at[gte]": "2026-13-01"}, "created_at[gte]"),
        ("/v1/agents", {"include_archived": "perhaps"}, "include_archived"),
        ("/v1/files", {"limit": "1001"}, "limit"),
    ],
)
async def test_a_parameter_that_cannot_be_is_refused_with_its_name(
    http: httpx.AsyncClient, path: str, parameters: dict[str, str], field: str
):
    assert assert_refused(await http.get(path, params=parameters))["field"] == field


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "1e10", "-1"])
async def test_times_at_the_edge_are_no_error_of_ours(http: httpx.AsyncClient, moment: str):
    for path in ("/v1/sessions", "/v1/agents"):
        assert (await http.get(path, params={"created_at[lte]": moment})).status_code in (200, 400)


async def test_unknown_parameters_are_ignored(http: httpx.AsyncClient):
    assert (await http.get("/v1/sessions", params={"beta": "true", "abacus": "1"})).status_code == 200


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/agents/%00", "agent_id"),
        ("/v1/agents?page=%00", "page"),
        ("/v1/sessions?agent_id=a%00b", "agent_id"),
        ("/v1/files?scope_id=%00", "scope_id"),
        ("/v1/sessions/sesn_%00/events", "session_id"),
        ("/v1/sessions/sesn_x/model_requests/%00/request", "request_id"),
        ("/v1/vaults/%00", "vault_id"),
    ],
)
async def test_a_nul_in_the_url_is_refused(http: httpx.AsyncClient, path: str, field: str):
    assert assert_refused(await http.get(path))["field"] == field


async def test_what_is_no_object_is_refused_in_words_of_the_wire(http: httpx.AsyncClient):
    refused = assert_refused(await http.post("/v1/agents", json={"name": "a", "model": ["claude-opus-4-6"]}))
    assert (refused["field"], refused["message"]) == ("model", "model: an object is expected here")


@pytest.mark.parametrize("agent_id", ["x", "%ff", "%ed%a0%80", "' OR 1=1 --", "a" * 4000, "%F0%9F%92%A9", "..%2f.."])
async def test_an_id_that_cannot_be_is_not_found(http: httpx.AsyncClient, agent_id: str):
    assert_refused(await http.get(f"/v1/agents/{agent_id}"), status=404)


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/abacus", "/v1/agents/", "/v2/agents", "/v1/sessions/x/events/y"])
async def test_an_endpoint_that_is_not_there_says_so(http: httpx.AsyncClient, path: str):
    assert assert_refused(await http.get(path), status=404)["code"] == "endpoint_not_found"


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/v1/agents"), ("DELETE", "/v1/agents/x"), ("PATCH", "/v1/files")]
)
async def test_a_method_that_is_not_there_says_so(http: httpx.AsyncClient, method: str, path: str):
    answer = await http.request(method, path)
    assert assert_refused(answer, status=405)["code"] == "method_not_allowed"
    assert answer.headers["allow"]
