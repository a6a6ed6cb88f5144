"""How this process proves to a cluster who it is, with a program that gives it tokens as those of clouds do."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandbox.contract import SandboxError
from sandbox.kubernetes.api import Api
from tests.support import cluster

pytestmark = pytest.mark.kubernetes


@pytest.fixture(autouse=True)
def _cluster() -> None:
    if (reason := cluster.obstacle()) is not None:
        pytest.skip(reason)


def _with_program(folder: Path, script: str) -> Path:
    """Return the tests' kubeconfig as a file in which a shell script gives the tokens."""
    config: dict[str, Any] = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    program = {"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", script]}
    for user in config["users"]:
        user["user"] = {"exec": program}
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    return path


def _credential(token: str) -> str:
    answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": token}}
    return f"echo '{json.dumps(answer)}'"


async def test_a_token_that_holds_no_more_is_asked_for_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api, account = Api(), "/api/v1/namespaces/default/serviceaccounts/default/token"
    token = (await api.ask("POST", account, {"spec": {"expirationSeconds": 600}}))["status"]["token"]
    await api.close()
    asked = tmp_path / "asked"
    script = f"if test -e {asked}; then {_credential(token)}; else {_credential('ended')}; fi; echo once >> {asked}"
    monkeypatch.setenv("KUBECONFIG", str(_with_program(tmp_path, script)))
    renewed = Api()
    try:
        assert "gitVersion" in await renewed.ask("GET", "/version")
        assert "gitVersion" in await renewed.ask("GET", "/version")
        assert asked.read_text() == "once\n" * 2
    finally:
        await renewed.close()


@pytest.mark.parametrize("script", ["echo no network >&2; exit 1", _credential("not a token")])
async def test_who_gets_no_token_that_holds_is_not_told_of_a_refusal(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(_with_program(tmp_path, script)))
    api = Api()
    try:
        with pytest.raises(SandboxError) as caught:
            await api.ask("GET", "/version")
        assert caught.value.code == "engine_away"
    finally:
        await api.close()
