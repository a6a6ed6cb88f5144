"""Temporal behind TLS: a real development server behind a terminator that wants to be shown something."""

import asyncio
import ssl
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from controlplane.cli.doctor import external_temporal
from controlplane.errors import InvalidRequestError
from controlplane.settings import Settings
from controlplane.temporal import temporal_server
from tests.support.egress import RootAuthority
from tests.support.terminator import terminating
from workflows.connection import connect, connect_patiently, what_to_do

_NAME = "temporal.test"
_KEY = "0120120120012"
_PATIENCE_SECONDS = 20


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> RootAuthority:
    """The authority of Temporal and of its clients."""
    return RootAuthority(tmp_path_factory.mktemp("root"))


@pytest.fixture
async def guarded(temporal_address: str, root: RootAuthority) -> AsyncGenerator[dict[str, object]]:
    """Settings that fit a Temporal which demands a client certificate and an API key."""
    context = root.server_context(_NAME)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(root.file)
    async with terminating(temporal_address, context, api_key=_KEY) as address:
        own = root.certificate("client.test")
        yield {
            "temporal_address": address,
            "temporal_tls": "on",
            "temporal_api_key": f"{_KEY}\n",
            "temporal_client_cert_file": own,
            "temporal_client_key_file": own,
            "temporal_server_ca_file": root.file,
            "temporal_server_name": _NAME,
        }


async def test_what_temporal_demands_is_shown(guarded: dict[str, object]) -> None:
    server = temporal_server(Settings.model_validate(guarded))
    assert _KEY not in repr(server)
    async with asyncio.timeout(_PATIENCE_SECONDS):
        for client in (await connect_patiently(server), await connect(server)):
            assert [each async for each in client.list_workflows("WorkflowId = 'none'")] == []
        found = await external_temporal(Settings.model_validate(guarded))
    assert (found.state, found.next_step) == ("ok", "")
    assert "TLS, a client certificate, an API key" in found.detail


@pytest.mark.parametrize(
    ("lacking", "named"),
    [
        ({"temporal_server_ca_file": "other"}, "BULKHEAD_TEMPORAL_SERVER_CA_FILE"),
        ({"temporal_server_name": "other.test"}, "BULKHEAD_TEMPORAL_SERVER_NAME"),
        (
            {"temporal_client_cert_file": None, "temporal_client_key_file": None},
            "BULKHEAD_TEMPORAL_CLIENT_CERT_FILE",
        ),
        ({"temporal_api_key": None}, "BULKHEAD_TEMPORAL_API_KEY"),
        ({"temporal_api_key": "0000000000000"}, "BULKHEAD_TEMPORAL_API_KEY"),
    ],
)
async def test_what_is_not_shown_is_named(
    guarded: dict[str, object], lacking: dict[str, object], named: str, tmp_path: Path
) -> None:
    if "temporal_server_ca_file" in lacking:
        lacking = {"temporal_server_ca_file": RootAuthority(tmp_path).file}
    settings = Settings.model_validate(guarded | lacking)
    server = temporal_server(settings)
    async with asyncio.timeout(_PATIENCE_SECONDS):
        with pytest.raises(RuntimeError) as caught:
            await connect(server, lazy=False)
        found = await external_temporal(settings)
    assert named in what_to_do(server, caught.value)
    assert (found.state, named in found.next_step) == ("bad", True)
    assert str(lacking.get("temporal_api_key", _KEY)) not in f"{found} {caught.value}"


async def test_without_tls_it_says_that_tls_may_be_wanted(guarded: dict[str, object]) -> None:
    found = await external_temporal(Settings.model_validate({"temporal_address": guarded["temporal_address"]}))
    assert "BULKHEAD_TEMPORAL_TLS=on" in found.next_step


async def test_tls_where_there_is_none_is_named(temporal_address: str) -> None:
    found = await external_temporal(
        Settings.model_validate({"temporal_address": temporal_address, "temporal_tls": "on"})
    )
    assert "unset BULKHEAD_TEMPORAL_TLS" in found.next_step


async def test_a_namespace_that_is_not_there_is_named(temporal_address: str) -> None:
    found = await external_temporal(
        Settings.model_validate({"temporal_address": temporal_address, "temporal_namespace": "other"})
    )
    assert (found.state, found.next_step) == (
        "bad",
        "correct BULKHEAD_TEMPORAL_NAMESPACE, or what this installation may do in it",
    )


@pytest.mark.parametrize(
    ("variable", "given"),
    [
        ("API_KEY", {"temporal_tls": False, "temporal_api_key": "0120"}),
        ("SERVER_NAME", {"temporal_tls": False, "temporal_server_name": "x"}),
        ("API_KEY", {"temporal_api_key": "two words"}),
        ("CLIENT_CERT_FILE", {"temporal_client_cert_file": "own"}),
        ("CLIENT_KEY_FILE", {"temporal_client_key_file": "own"}),
        ("CLIENT_CERT_FILE", {"temporal_client_cert_file": "own", "temporal_client_key_file": "root"}),
        ("CLIENT_KEY_FILE", {"temporal_client_cert_file": "own", "temporal_client_key_file": "away"}),
        ("SERVER_CA_FILE", {"temporal_server_ca_file": "empty"}),
    ],
)
def test_what_does_not_go_together_is_refused(
    root: RootAuthority, tmp_path: Path, variable: str, given: dict[str, object]
) -> None:
    (tmp_path / "empty").touch()
    files = {"own": root.certificate("client.test"), "root": root.file, "empty": tmp_path / "empty", "away": "/away"}
    settings = {name: files.get(str(value), value) for name, value in given.items()}
    with pytest.raises(InvalidRequestError, match=f"BULKHEAD_TEMPORAL_{variable}: ") as caught:
        temporal_server(Settings.model_validate({"temporal_tls": True, **settings}))
    assert caught.value.field == f"BULKHEAD_TEMPORAL_{variable}"
    assert caught.value.next_step
    assert "two words" not in str(caught.value)
