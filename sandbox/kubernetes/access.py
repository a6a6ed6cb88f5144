"""How this process reaches the API server: from inside a pod, or as a kubeconfig says.

The formats: https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/ and
https://kubernetes.io/docs/reference/config-api/client-authentication.v1/.
"""

import base64
import json
import os
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from sandbox.contract import SandboxError

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_HELPER_SECONDS = 60
"""A program that asks a cloud for a token may ask the network twice."""
_TOKEN_SECONDS = 60.0
"""How long a token from a file is used before it is read again; the kubelet renews it minutes before its end."""

Token = Callable[[], str | None]


@dataclass(frozen=True)
class Access:
    """An API server, and who this process is to it."""

    server: str
    tls: ssl.SSLContext | None
    token: Token

    def headers(self) -> dict[str, str]:
        """Return the headers of a request."""
        token = self.token()
        return {} if token is None else {"Authorization": f"Bearer {token}"}


def find_access(environment: Mapping[str, str] = os.environ) -> Access:
    """Return the way that this process has; raises `SandboxError` (``engine_away``) with the next step."""
    try:
        if "KUBECONFIG" not in environment and (_ACCOUNT / "token").exists():
            host, port = environment["KUBERNETES_SERVICE_HOST"], environment["KUBERNETES_SERVICE_PORT"]
            name = f"[{host}]" if ":" in host else host
            tls = ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt"))
            return Access(f"https://{name}:{port}", tls, _from_file(_ACCOUNT / "token"))
        return _from_kubeconfig(_kubeconfig(environment))
    except (OSError, KeyError, StopIteration, TypeError, ValueError, yaml.YAMLError) as error:
        raise SandboxError(
            f"no way to a Kubernetes API server: {type(error).__name__}: {error}; set KUBECONFIG to a file whose "
            "current context is a cluster, or run in a pod with a service account",
            code="engine_away",
        ) from error


def _kubeconfig(environment: Mapping[str, str]) -> Path:
    named = [Path(each) for each in environment.get("KUBECONFIG", "").split(":") if each]
    return next(each for each in [*named, Path.home() / ".kube" / "config"] if each.exists())


def _from_kubeconfig(path: Path) -> Access:
    config = yaml.safe_load(path.read_text())
    context = _named(config, "contexts", config["current-context"])["context"]
    cluster = _named(config, "clusters", context["cluster"])["cluster"]
    user = _named(config, "users", context["user"])["user"]
    server = cluster["server"].rstrip("/")
    if not server.startswith("https://"):
        return Access(server, None, _token_of(user, path.parent))
    tls = ssl.create_default_context(cadata=_text(cluster, "certificate-authority", path.parent))
    if cluster.get("insecure-skip-tls-verify"):
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    certificate, key = (_text(user, name, path.parent) for name in ("client-certificate", "client-key"))
    if certificate and key:
        _present(tls, certificate, key)
    return Access(server, tls, _token_of(user, path.parent))


def _named(config: Mapping[str, Any], kind: str, name: str) -> Mapping[str, Any]:
    return next(each for each in config[kind] if each["name"] == name)


def _text(source: Mapping[str, Any], name: str, folder: Path) -> str | None:
    if data := source.get(f"{name}-data"):
        return base64.b64decode(data).decode()
    return (folder / source[name]).read_text() if name in source else None


def _present(tls: ssl.SSLContext, certificate: str, key: str) -> None:
    # The library reads a chain from a file only; nobody else can open this one, and it is gone at once.
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(f"{certificate}\n{key}")
        file.flush()
        tls.load_cert_chain(file.name)


def _token_of(user: Mapping[str, Any], folder: Path) -> Token:
    if "exec" in user:
        return _Helper(user["exec"], folder).token
    if "tokenFile" in user:
        return _from_file(folder / user["tokenFile"])
    return lambda: user.get("token")


def _from_file(path: Path) -> Token:
    kept: list[tuple[float, str]] = []

    def token() -> str:
        if not kept or time.monotonic() - kept[-1][0] > _TOKEN_SECONDS:
            kept[:] = [(time.monotonic(), path.read_text().strip())]
        return kept[-1][1]

    return token


class _Helper:
    """A program that a kubeconfig names for tokens, as those of managed clusters do."""

    def __init__(self, told: Mapping[str, Any], folder: Path):
        self._told, self._folder = told, folder
        self._token: str | None = None
        self._until = 0.0

    def token(self) -> str | None:
        """Return a token that holds for now."""
        if self._token is None or time.time() > self._until:
            self._ask()
        return self._token

    def _ask(self) -> None:
        told = self._told
        info = {"apiVersion": told["apiVersion"], "kind": "ExecCredential", "spec": {"interactive": False}}
        more = {each["name"]: each["value"] for each in told.get("env") or []}
        answer = subprocess.run(
            [told["command"], *(told.get("args") or [])],
            env={**os.environ, **more, "KUBERNETES_EXEC_INFO": json.dumps(info)},
            cwd=self._folder,
            capture_output=True,
            check=True,
            timeout=_HELPER_SECONDS,
        )
        status = json.loads(answer.stdout)["status"]
        if "token" not in status:
            raise ValueError(f"{told['command']!r} gave no token; certificates from such programs are not taken")
        self._token = status["token"]
        end = status.get("expirationTimestamp")
        self._until = datetime.fromisoformat(end).timestamp() - _TOKEN_SECONDS if end else float("inf")
