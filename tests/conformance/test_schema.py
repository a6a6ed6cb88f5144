"""Whatever the OpenAPI document allows, and what it does not: no server error, and every answer as described."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.errors import InvalidSchema
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from controlplane.api import create_app
from controlplane.store.pool import Database

from .conftest import Api, NoWorkflow, everything_is_ready

pytestmark = pytest.mark.slow

EXAMPLES = 15
"""Per operation and kind of data; there are more than 150 of these."""

CHECKS = [not_a_server_error, response_schema_conformance, content_type_conformance]
SPARED = ("archive", "revoke", "stream")
FRAMING = frozenset({"content-length", "transfer-encoding", "host", "connection", "upgrade", "expect"})
"""What a server reads before there is a request; what becomes of those that are wrong is text, said by uvicorn."""


def cases() -> Iterator[Any]:
    """Yield every operation of the API with data as described, and with data that is not, where it takes any."""
    app = create_app(
        database=Database("postgresql://never-opened"),
        submitter=NoWorkflow(),
        readiness=everything_is_ready,
        version="t",
    )
    for found in schemathesis.openapi.from_dict(app.openapi()).get_all_operations():
        operation = found.ok()
        yield pytest.param(operation, "positive", id=f"{operation.label}-as-described")
        if operation.body or operation.query or operation.headers or operation.path_parameters:
            yield pytest.param(operation, "negative", id=f"{operation.label}-otherwise")


@pytest.fixture(scope="module")
async def ids(http: httpx.AsyncClient) -> dict[str, str]:
    """An object of each kind, by the name of its path parameter."""

    async def made(path: str, **body: Any) -> str:
        answer = await http.post(path, **body)
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    agent = await made("/v1/agents", json={"name": "n", "model": "m"})
    environment = await made("/v1/environments", json={"name": "n"})
    session = await made("/v1/sessions", json={"agent": agent, "environment_id": environment})
    file = await made("/v1/files", files={"file": ("a.txt", b"x")})
    vault = await made("/v1/vaults", json={"display_name": "v"})
    secret = {
        "type": "environment_variable",
        "secret_name": "A_TOKEN",
        "secret_value": "0123456789",
        "networking": {"type": "limited", "allowed_hosts": ["api.example.com"]},
    }
    mount = {"type": "file", "file_id": file}
    hello = {"type": "user.message", "content": [{"type": "text", "text": "hello"}]}
    deployed = {"name": "n", "agent": agent, "environment_id": environment, "initial_events": [hello]}
    deployment = await made("/v1/deployments", json=deployed)
    return {
        "agent_id": agent,
        "environment_id": environment,
        "session_id": session,
        "file_id": file,
        "resource_id": await made(f"/v1/sessions/{session}/resources", json=mount),
        "vault_id": vault,
        "credential_id": await made(f"/v1/vaults/{vault}/credentials", json={"auth": secret}),
        "rule_id": await made("/v1/rules", json={"scope": session, "tool": "bash", "verdict": "deny"}),
        "deployment_id": deployment,
        "deployment_run_id": await made(f"/v1/deployments/{deployment}/run"),
        "thread_id": "sthr_" + session.removeprefix("sesn_"),
    }


def drawn(data: Any, strategy: Any) -> Any:
    """Draw a case; one that schemathesis cannot make up from a schema that is in order is passed over."""
    try:
        return data.draw(strategy)
    except InvalidSchema:
        return reject()


@pytest.mark.parametrize(("operation", "mode"), list(cases()))
async def test_the_api_answers_as_its_description_says(api: Api, ids: dict[str, str], operation: Any, mode: str):
    strategy = operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode))
    spared = operation.method == "delete" or operation.path.endswith(SPARED)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data(), real=st.booleans())
    def check(data: Any, real: bool) -> None:
        case = drawn(data, strategy)
        case.headers = {name: value for name, value in (case.headers or {}).items() if name.lower() not in FRAMING}
        if real and not spared:
            case.path_parameters.update({name: ids[name] for name in case.path_parameters if name in ids})
        case.call_and_validate(base_url=api.url, headers={"x-api-key": api.api_key}, checks=CHECKS, timeout=30)

    await asyncio.to_thread(check)
