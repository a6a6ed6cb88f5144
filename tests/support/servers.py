"""An installation of the chart beside a Postgres and a Temporal of somebody else's, in another namespace."""

import base64
import json
import secrets
from collections.abc import Generator
from contextlib import contextmanager

from tests.support.chart import CHART, Release, built_image, call, kubectl, on_the_nodes, render, require_cluster

HOST = "bulkhead-embedded"
"""Of Postgres and Temporal, in their namespace."""


@contextmanager
def installed(namespace: str) -> Generator[Release]:
    """Install the chart, its servers in ``NAMESPACE-servers``, and take all of it away again."""
    require_cluster()
    repository, _, tag = on_the_nodes(built_image()).partition(":")
    chosen = (f"--values={CHART.parent / 'trying.yaml'}", f"--set=image.repository={repository},image.tag={tag}")
    servers, sandboxes = f"{namespace}-servers", f"{namespace}-sandboxes"
    made = Release("bulkhead", namespace, sandboxes, api_key=f"bhk_{secrets.token_hex(20)}")
    try:
        _give_secrets(made, _start(servers, chosen), servers)
        said = made.helm("install", str(CHART), *chosen, *_named(servers, sandboxes), "--wait", "--timeout=4m")
        assert "WARNING" not in said, "it was said where Postgres and Temporal are"
        yield made
    finally:
        call("helm", "uninstall", made.name, f"--namespace={namespace}", "--ignore-not-found", check=False)
        spaces = (namespace, sandboxes, servers, made.visitors)
        kubectl("delete", "namespace", "--ignore-not-found", "--wait=false", *spaces)


def _start(servers: str, chosen: tuple[str, ...]) -> str:
    """Run the chart's Postgres and Temporal alone; return the password of Postgres."""
    little = "--set=embedded.resources.requests.cpu=50m"  # other tests' releases are on the same nodes
    found = render(*chosen, little, "--show-only=templates/embedded.yaml", namespace=servers)
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": servers}}
    kubectl("apply", "--filename=-", stdin=json.dumps(space))
    listing = {"apiVersion": "v1", "kind": "List", "items": found}
    kubectl("apply", f"--namespace={servers}", "--filename=-", stdin=json.dumps(listing))
    kubectl("rollout", "status", f"--namespace={servers}", f"statefulset/{HOST}", "--timeout=120s")
    [secret] = [each for each in found if each["kind"] == "Secret"]
    return base64.b64decode(secret["data"]["database-password"]).decode()


def _give_secrets(release: Release, password: str, servers: str) -> None:
    """Make what the chart is only told the name of."""
    keys = {
        "database-url": f"postgresql://bulkhead:{password}@{HOST}.{servers}:5432/postgres",
        "master-key": base64.b64encode(secrets.token_bytes(32)).decode(),
        "api-key": release.api_key,
        "sandbox-key": secrets.token_hex(20),
    }
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": release.namespace}}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": keys}
    kubectl("apply", "--filename=-", stdin=json.dumps(space))
    kubectl("apply", f"--namespace={release.namespace}", "--filename=-", stdin=json.dumps(secret))


def _named(servers: str, sandboxes: str) -> tuple[str, ...]:
    """Return the options that name the servers."""
    pods = json.dumps([{
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": servers}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/component": "embedded"}},
    }])  # fmt: skip
    named = ",".join(f"secrets.{each}.name=keys" for each in ("database", "masterKey", "apiKey", "sandboxKey"))
    return (
        f"--set=embedded.enabled=false,temporal.address={HOST}.{servers}:7233,sandbox.namespace={sandboxes},{named}",
        f"--set-json=database.to={pods}",
        f"--set-json=temporal.to={pods}",
    )
