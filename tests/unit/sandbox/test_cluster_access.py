"""What is said, and left, of a kubeconfig that is no way to a cluster."""

import base64
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from sandbox.contract import SandboxError
from sandbox.kubernetes.access import find_access

_SECRET = "not-for-anybodys-eyes"


def _config(cluster: dict[str, Any], user: dict[str, Any]) -> str:
    return json.dumps(
        {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1", **cluster}}],
            "users": [{"name": "u", **user}],
        }
    )


_BROKEN = {"certificate-authority-data": base64.b64encode(b"no certificate").decode()}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (_config({}, {"token": _SECRET}), "Expected key user"),
        (_config(_BROKEN, {"user": {"token": _SECRET, "client-key-data": _SECRET}}), "no way to a Kubernetes"),
        (_config({}, {"user": {}}), "no token and no certificate"),
        (f"{_SECRET}: [", "not YAML"),
    ],
)
async def test_a_kubeconfig_that_is_no_way_is_not_quoted_and_leaves_no_key(
    config: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "config").write_text(config)
    (tmp_path / "files").mkdir()
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "files"))
    with pytest.raises(SandboxError, match=said) as caught:
        await find_access()
    assert caught.value.code == "engine_away"
    assert _SECRET not in str(caught.value) + caplog.text
    assert not list((tmp_path / "files").iterdir())


async def test_what_a_failing_program_was_given_is_not_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    program = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "true",
        "env": [{"name": "KEY", "value": _SECRET}, {"name": "EMPTY", "value": None}],
    }
    (tmp_path / "config").write_text(_config({}, {"user": {"exec": program}}))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with pytest.raises(SandboxError, match="the program that gives them failed"):
        await find_access()
    assert caplog.text
    assert _SECRET not in caplog.text
