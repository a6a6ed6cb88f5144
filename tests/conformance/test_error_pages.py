"""A secret in the wrong place of a request: the error page, which may be shown to others, does not repeat it."""

from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.support.canary import Canary, Seeker

pytestmark = pytest.mark.slow

MISSING = "0" * 26

SCHEMA = {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}
AGENT = {
    "name": "n",
    "model": "m",
    "harness": "builtin",
    "metadata": {"k": "v"},
    "mcp_servers": [{"type": "url", "name": "s", "url": "https://s.example.com"}],
    "tools": [
        {"type": "agent_toolset_20260401", "configs": [{"name": "bash", "enabled": True}]},
        {"type": "mcp_toolset", "mcp_server_name": "s"},
        {"type": "custom", "name": "t", "description": "d", "input_schema": SCHEMA},
    ],
}
ENVIRONMENT = {
    "name": "n",
    "config": {
        "type": "cloud",
        "provider": "namespace",
        "networking": {"type": "limited", "allowed_hosts": ["a.example.com"]},
    },
}
SESSION = {
    "agent": f"agent_{MISSING}",
    "environment_id": f"env_{MISSING}",
    "vault_ids": [f"vlt_{MISSING}"],
    "resources": [{"type": "file", "file_id": f"file_{MISSING}", "mount_path": "/a"}],
}
CREDENTIAL = {
    "display_name": "d",
    "auth": {
        "type": "environment_variable",
        "secret_name": "TOKEN",
        "secret_value": "x",
        "networking": {"type": "limited", "allowed_hosts": ["a.example.com"]},
        "methods": ["GET"],
        "path_prefixes": ["/a"],
        "injection_location": {"header": True, "body": False},
    },
}
EVENTS = {
    "events": [
        {"type": "user.message", "content": [{"type": "text", "text": "hi"}]},
        {
            "type": "user.message",
            "content": [{"type": "image", "source": {"type": "file", "file_id": f"file_{MISSING}"}}],
        },
        {"type": "user.custom_tool_result", "custom_tool_use_id": f"sevt_{MISSING}", "content": []},
        {"type": "user.tool_confirmation", "tool_use_id": f"sevt_{MISSING}", "result": "allow"},
    ]
}


def spoilt(value: Any, secret: str) -> Iterator[Any]:
    """Yield ``value`` once for each place in it, with the secret there, as a value or as a key."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from ({**value, key: each} for each in spoilt(inner, secret))
            yield {**{k: v for k, v in value.items() if k != key}, secret: inner}
        yield {**value, secret: 1}
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from ([*value[:index], each, *value[index + 1 :]] for each in spoilt(inner, secret))
        yield [*value, secret]
    yield secret


async def asked(http: httpx.AsyncClient, secret: str) -> AsyncIterator[httpx.Response]:
    """Send the secret in every part of every request that the API's own description names."""

    async def made(path: str, body: dict[str, Any]) -> str:
        answer = await http.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.json()["id"]

    agent = await made("/v1/agents", {"name": "n", "model": "m"})
    session = {"agent": agent, "environment_id": await made("/v1/environments", {"name": "n"})}
    ids = {
        "session": await made("/v1/sessions", session),
        "vault": await made("/v1/vaults", {"display_name": "v"}),
        "agent": agent,
    }
    bodies = {
        "/v1/agents": [AGENT, {**AGENT, "tools": AGENT["tools"] * 2}],
        "/v1/agents/{agent}": [{"version": 1, "name": "n"}],
        "/v1/environments": [ENVIRONMENT],
        "/v1/sessions": [SESSION, {**session, "resources": SESSION["resources"] * 2}],
        "/v1/vaults": [{"display_name": "v", "metadata": {"k": "v"}}],
        "/v1/vaults/{vault}/credentials": [CREDENTIAL],
        "/v1/sessions/{session}/events": [EVENTS, *({"events": [event]} for event in EVENTS["events"])],
    }
    for path, wholes in bodies.items():
        for whole in wholes:
            for body in spoilt(whole, secret):
                yield await http.post(path.format(**ids), json=body)
        yield await http.post(path.format(**ids), content=secret.encode(), headers={"content-type": "text/plain"})
        yield await http.post(
            path.format(**ids), content=secret.encode(), headers={"content-type": "application/json"}
        )
    in_url = quote(secret, safe="")
    for path, operations in (await http.get("/openapi.json")).json()["paths"].items():
        for method, operation in operations.items():
            names = [each["name"] for each in operation.get("parameters", []) if each["in"] == "path"]
            body = {"json": {}} if method in ("post", "put") else {}
            for name in names:
                others = {each: ids.get(each.removesuffix("_id"), f"x_{MISSING}") for each in names}
                yield await http.request(method, path.format(**{**others, name: in_url}), **body)
            if not names and method == "get":
                queries = [each["name"] for each in operation.get("parameters", []) if each["in"] == "query"]
                for name in queries:
                    yield await http.get(path, params={name: secret})
    for header in ("x-api-key", "authorization", "anthropic-workspace-id", "anthropic-beta", "last-event-id"):
        yield await http.get("/v1/agents", headers={header: secret.encode()})
    yield await http.get(f"/{in_url}")
    yield await http.get(f"/v1/sessions/{ids['session']}/events", params={"types[]": secret})


@pytest.mark.parametrize(
    "special",
    [
        pytest.param("", id="a token", marks=pytest.mark.thorough),
        pytest.param('+"&<é>%!\\~ ', id="of special characters"),
    ],
)
async def test_no_error_page_repeats_a_secret_that_was_sent_in_the_wrong_place(http: httpx.AsyncClient, special: str):
    secret = Canary("the caller", special=special)
    seeker = Seeker(secret)
    refused: set[str] = set()
    async for answer in asked(http, secret.value):
        assert answer.status_code < 500, answer.text
        if answer.is_error:
            error = answer.json()["error"]
            refused.add(f"{error['code']} {error['field']}")
            sent = f"{answer.request.method} {answer.request.url.path.replace(secret.value, '<secret>')}"
            seeker.look(f"{error['code']} after {sent}", repr(answer.headers.raw).encode() + answer.content)
    assert len(refused) > 50, sorted(refused)
    seeker.verdict()
