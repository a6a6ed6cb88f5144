"""One installation of the chart beside a Postgres and a Temporal of somebody else's, in another namespace."""

import json
import time
from collections.abc import Generator
from typing import Any

import httpx
import pytest

from tests.support.chart import CHART, Release, call, kubectl, require_cluster
from tests.support.servers import HOST, installed

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(500)]

NAMESPACE, SANDBOXES = "bulkhead-external", "bulkhead-external-sandboxes"
SERVERS_HOST = f"{HOST}.{NAMESPACE}-servers"
PLACES = {
    "postgres": f"{SERVERS_HOST}/5432",
    "temporal": f"{SERVERS_HOST}/7233",
    "api": "bulkhead-api/8400",
    "gateway": "bulkhead-gateway/8401",
    "memory": "bulkhead-memory-worker/8402",
    "gate": "bulkhead-egress/3129",
    "kubernetes": "kubernetes.default/443",
}
REACHED = {
    "brain": {"postgres", "temporal", "gateway", "memory"},
    "sandboxes": {"postgres", "temporal", "memory", "gate", "kubernetes"},
    "check": {"api"},
}
"""The label of a part that no service sends anybody to → what it reaches."""
ENFORCED_SECONDS = 40


@pytest.fixture(scope="module")
def release() -> Generator[Release]:
    """The installation that the tests of this module share."""
    with installed(NAMESPACE) as made:
        yield made


def test_the_hook_brought_the_database_up_to_date(release: Release) -> None:
    with release.forwarded():
        said = httpx.get(f"{release.url}/v1/agents", headers={"x-api-key": release.api_key}, timeout=30)
        assert said.status_code == 200, "no init container migrates here, and the key is the one that the hook made"
        assert httpx.get(f"{release.url}/readyz", timeout=30).status_code == 200


def labelled(part: str, image: str) -> dict[str, Any]:
    """Return a pod that waits under the labels of a part, or of none."""
    own = {"app.kubernetes.io/name": "bulkhead", "app.kubernetes.io/instance": "bulkhead"}
    labels = own | {"app.kubernetes.io/component": part} if part else {}
    container = {"name": "probe", "image": image, "command": ["sleep", "infinity"]}
    spec = {"containers": [container], "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"probe-{part or 'stranger'}", "labels": labels},
        "spec": spec,
    }


def reached(release: Release, pod: str) -> set[str]:
    """Return what a pod opens a connection to."""
    tries = " ".join(f"{name}=/dev/tcp/{place}" for name, place in PLACES.items())
    command = (
        f"for to in {tries}; do (timeout 3 bash -c ': < '${{to#*=}} 2> /dev/null && echo ${{to%%=*}}) & done;"
        " wait; echo tried"
    )
    said = release.kubectl("exec", pod, "--", "bash", "-c", command).split()
    assert "tried" in said
    return set(said) - {"tried"}


def test_each_part_reaches_what_it_needs_and_nothing_else(release: Release) -> None:
    [image] = release.images()
    expected = REACHED | {"": {"postgres", "temporal", "api", "kubernetes"}}  # no policy of the chart is a stranger's
    listing = {"apiVersion": "v1", "kind": "List", "items": [labelled(part, image) for part in expected]}
    kubectl("apply", f"--namespace={NAMESPACE}", "--filename=-", stdin=json.dumps(listing))
    names = {part: f"probe-{part or 'stranger'}" for part in expected}
    release.kubectl("wait", "--for=condition=Ready", "--timeout=90s", "pod", *names.values())
    until = time.monotonic() + ENFORCED_SECONDS
    while (found := {part: reached(release, name) for part, name in names.items()}) != expected:
        assert time.monotonic() < until, found
    release.kubectl("delete", "pod", "--now", *names.values())


def allowed(account: str, *wanted: tuple[str, str, str]) -> list[tuple[str, str, str]]:
    """Return which of these (verb, resource, namespace) a service account of the release may do."""
    reviews: list[dict[str, Any]] = []
    for verb, resource, namespace in wanted:
        kind, _, subresource = resource.partition("/")
        group = "networking.k8s.io" if kind == "networkpolicies" else ""
        asked = {"verb": verb, "resource": kind, "subresource": subresource, "namespace": namespace, "group": group}
        user = f"system:serviceaccount:{NAMESPACE}:{account}"
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated"]
        reviews.append({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "groups": groups, "resourceAttributes": asked},
        })  # fmt: skip
    listing = json.dumps({"apiVersion": "v1", "kind": "List", "items": reviews})
    answers = kubectl("create", "--filename=-", '--output=jsonpath={.status.allowed}{"\\n"}', stdin=listing).split()
    return [each for each, answer in zip(wanted, answers, strict=True) if answer == "true"]


def test_only_the_sandbox_worker_may_ask_kubernetes_and_only_for_pods_of_its_namespace(release: Release) -> None:
    verbs = ("create", "get", "list", "watch", "patch", "update", "delete", "deletecollection")
    kinds = ("pods", "pods/exec", "events", "networkpolicies", "secrets", "serviceaccounts", "nodes", "nodes/proxy")
    spaces = (SANDBOXES, NAMESPACE, "default", "")
    everything = [(verb, kind, space) for verb in verbs for kind in kinds for space in spaces]
    may = {
        "pods": ("create", "get", "list", "watch", "patch", "delete"),
        "pods/exec": ("create", "get"),
        "events": ("list",),
        "networkpolicies": ("get", "list"),
    }
    expected = {(verb, kind, SANDBOXES) for kind, its in may.items() for verb in its}
    assert set(allowed("bulkhead-sandboxes", *everything)) == expected
    for part in ("api", "gateway", "brain", "egress", "memory-worker"):
        assert not allowed(f"bulkhead-{part}", *((verb, kind, SANDBOXES) for verb in verbs for kind in may)), part


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("sandbox.namespace=elsewhere", f'sandbox.namespace was "{SANDBOXES}" and would be "elsewhere"'),
        ("sandbox.createNamespace=false", "sandbox.createNamespace was true"),
    ],
)
def test_sandboxes_are_not_taken_away(release: Release, value: str, said: str) -> None:
    done = call(
        "helm", "upgrade", release.name, str(CHART), f"--namespace={NAMESPACE}", "--reuse-values",
        f"--set={value}", "--dry-run=server", check=False,
    )  # fmt: skip
    assert said in done.stderr, done.stderr


def test_a_first_installation_that_failed_is_removed_as_documented() -> None:
    require_cluster()
    failed = Release("bulkhead", f"{NAMESPACE}-failed", f"{NAMESPACE}-failed-sandboxes")
    named = ",".join(f"secrets.{each}.name=missing" for each in ("database", "masterKey", "apiKey", "sandboxKey"))
    chosen = f"--set={named},temporal.address={SERVERS_HOST}:7233,sandbox.namespace={failed.sandboxes}"
    try:
        done = call(
            "helm", "install", failed.name, str(CHART), f"--namespace={failed.namespace}", "--create-namespace",
            chosen, "--set=image.pullPolicy=Never", "--timeout=3s", check=False,
        )  # fmt: skip
        assert "failed pre-install" in done.stderr, done.stderr
        failed.helm("uninstall", "--no-hooks", "--wait", "--timeout=1m")
        failed.kubectl("delete", "job", f"{failed.full_name}-migrate")
        failed.until_nothing_is_left()
    finally:
        kubectl("delete", "namespace", "--ignore-not-found", "--wait=false", failed.namespace)
