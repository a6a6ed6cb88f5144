"""The Helm chart on a real cluster: an image that its nodes have, releases, and a way to their API.

``KUBECONFIG`` names the cluster, `kubectl` and `helm` are on PATH, and ``BULKHEAD_TEST_LOAD_IMAGE`` is a command that
gives an archive of `docker save` to its nodes (with kind: ``kind load image-archive``). Pods reach a Slack on this
machine at BULKHEAD_TEST_GATE_ADDRESS, or at its address towards the nodes.
"""

import base64
import json
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.emulator import free_port

CHECKOUT = Path(__file__).parents[2]
CHART = CHECKOUT / "helm" / "bulkhead"
KUBE_VERSION = (
    "--kube-version=1.34.0"  # what `helm` takes for the cluster where it asks none depends on how it was built
)
_OF_EVERY_NAMESPACE = {"serviceaccount/default", "configmap/kube-root-ca.crt"}
_COMMAND_SECONDS = 400
_ANSWER_SECONDS = 60
_LOOK_SECONDS = 0.2
_MISSES = 15  # looks in which nobody answered: the pod behind the port is another by now


def call(*command: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command; that it fails fails the test with what it said."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
    assert not check or done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
    return done


def kubectl(*arguments: str, stdin: str = "", check: bool = True) -> str:
    """Run kubectl and return what it printed."""
    return call("kubectl", *arguments, stdin=stdin, check=check).stdout


def objects(kind: str, namespace: str) -> list[dict[str, Any]]:
    """Return every object of these kinds in a namespace."""
    return json.loads(kubectl("--namespace", namespace, "get", kind, "--output=json"))["items"]


def why_no_helm() -> str:
    """Return why no chart can be rendered here, or nothing."""
    return "" if shutil.which("helm") else "there is no `helm` on PATH"


@cache
def why_no_cluster() -> str:
    """Return why nothing can be installed here, or nothing."""
    if why_no_helm() or not shutil.which("kubectl"):
        return "there is no `helm` or no `kubectl` on PATH"
    if not os.environ.get("KUBECONFIG"):
        return "KUBECONFIG names no cluster"
    answer = call("kubectl", "--request-timeout=5s", "get", "--raw=/readyz", check=False)
    return "" if answer.returncode == 0 else f"the cluster does not answer: {answer.stderr.strip()}"


needs_helm = pytest.mark.skipif(bool(why_no_helm()), reason=why_no_helm())


def require_cluster() -> None:
    """Skip the test, with the reason, where there is no cluster."""
    if reason := why_no_cluster():
        pytest.skip(reason)


def render(*options: str, release: str = "bulkhead", namespace: str = "bulkhead") -> list[dict[str, Any]]:
    """Return the objects of the chart with these options."""
    text = call("helm", "template", release, str(CHART), f"--namespace={namespace}", KUBE_VERSION, *options).stdout
    return [each for each in yaml.safe_load_all(text) if each]


def refusal(*options: str) -> str:
    """Return what the chart says of options that it must refuse."""
    done = call(
        "helm", "template", "bulkhead", str(CHART), "--namespace=bulkhead", KUBE_VERSION, *options, check=False
    )
    assert done.returncode != 0, "the chart takes them"
    return done.stderr


def built_image() -> str:
    """Build the image of this checkout and return a name that no other content has; skips without an engine."""
    if shutil.which("docker") is None or call("docker", "version", check=False).returncode != 0:
        pytest.skip("no Docker engine answers, and the image is made with one")
    built = call(str(CHECKOUT / "requirements" / "image.sh")).stdout.strip()
    image_id = call("docker", "image", "inspect", "--format={{.Id}}", built).stdout.strip()
    name = f"bulkhead-test:{image_id.removeprefix('sha256:')[:12]}"
    call("docker", "tag", built, name)
    return name


def on_the_nodes(image: str, archive: Path | None = None) -> str:
    """Have an image on the nodes, of an archive or of Docker, and return its name; skips where nothing loads it."""
    if archive is not None or not nodes_have(image):
        if (load := os.environ.get("BULKHEAD_TEST_LOAD_IMAGE")) is None:
            pytest.skip(f"the nodes lack {image}, and BULKHEAD_TEST_LOAD_IMAGE names no command that loads it")
        with tempfile.TemporaryDirectory() as folder:
            if archive is None:
                archive = Path(folder) / "image.tar"
                call("docker", "save", image, f"--output={archive}")
            call(*shlex.split(load), str(archive))
    return image


def nodes_have(image: str) -> bool:
    """Whether every node has an image."""
    nodes = json.loads(kubectl("get", "nodes", "--output=json"))["items"]
    return all(
        any(f"docker.io/library/{image}" in each.get("names", []) for each in node["status"]["images"])
        for node in nodes
    )


def visit(namespace: str, program: str, image: str, *arguments: str, secret: str = "") -> dict[str, Any]:
    """Run a program of `tests/support/visitors` in a pod of somebody else's, and return the pod when it is ready.

    ``secret``: what lies in its namespace and is mounted at ``/etc/visitor``.
    """
    source = (Path(__file__).parent / "visitors" / f"{program}.py").read_text()
    container = {
        "name": program,
        "image": image,
        "command": ["python3", "-u", "-c", source, *arguments],
        "readinessProbe": {"tcpSocket": {"port": int(arguments[-1])}, "periodSeconds": 1},
        "volumeMounts": [{"name": "secret", "mountPath": "/etc/visitor"}] if secret else [],
    }
    spec = {
        "containers": [container],
        "volumes": [{"name": "secret", "secret": {"secretName": secret}}] if secret else [],
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
    }
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": program}, "spec": spec}
    kubectl("apply", "--filename=-", stdin=json.dumps(space))
    kubectl("apply", f"--namespace={namespace}", "--filename=-", stdin=json.dumps(pod))
    kubectl("wait", f"--namespace={namespace}", "--for=condition=Ready", f"pod/{program}", "--timeout=60s")
    return json.loads(kubectl("get", f"--namespace={namespace}", f"pod/{program}", "--output=json"))


class Release:
    """One installation of the chart; what the client of other tests needs to know of a control plane."""

    def __init__(self, name: str, namespace: str, sandboxes: str, *, api_key: str = ""):
        self.name = name
        self.namespace = namespace
        self.sandboxes = sandboxes
        self.visitors = f"{namespace}-visitors"
        self._api_key = api_key
        self.vault_ids: list[str] = []
        self._port = free_port()
        self._stopping = threading.Event()

    @property
    def url(self) -> str:
        """Where `forwarded` makes the API answer."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def api_key(self) -> str:
        """The first API key: the one that was given, or that the chart made."""
        if self._api_key:
            return self._api_key
        secret = json.loads(self.kubectl("get", "secret", f"{self.full_name}-embedded", "--output=json"))
        return base64.b64decode(secret["data"]["api-key"]).decode()

    @property
    def full_name(self) -> str:
        """What the names of its objects begin with."""
        return self.name if "bulkhead" in self.name else f"{self.name}-bulkhead"

    def keep_error(self, answer: httpx.Response) -> None:
        """Nothing is kept of error pages here."""

    def kubectl(self, *arguments: str, check: bool = True) -> str:
        """Run kubectl in the release's namespace."""
        return kubectl("--namespace", self.namespace, *arguments, check=check)

    def helm(self, command: str, *arguments: str) -> str:
        """Run a command of helm on the release."""
        return call("helm", command, self.name, *arguments, f"--namespace={self.namespace}").stdout

    def until_nothing_is_left(self, *but: str) -> None:
        """Return when nothing is there of it, in its namespaces and outside; ``but``: what others have put there."""
        kinds = kubectl("api-resources", "--verbs=list", "--namespaced", "--output=name").split()
        wanted = ",".join(kind for kind in kinds if not kind.startswith("events"))
        until = time.monotonic() + _ANSWER_SECONDS
        while left := self._left(wanted) - _OF_EVERY_NAMESPACE - set(but):
            assert time.monotonic() < until, left
            time.sleep(_LOOK_SECONDS)

    def _left(self, kinds: str) -> set[str]:
        found = {f"{each['kind'].lower()}/{each['metadata']['name']}" for each in objects(kinds, self.namespace)}
        spaces: list[dict[str, Any]] = json.loads(kubectl("get", "namespaces", "--output=json"))["items"]
        return found | {f"namespace/{each['metadata']['name']}" for each in spaces} & {f"namespace/{self.sandboxes}"}

    def state(self) -> str:
        """Say how everything stands, for whoever reads why a test failed."""
        pods = self.kubectl("get", "pods,jobs", "--output=wide", check=False)
        sandboxes = kubectl("--namespace", self.sandboxes, "get", "pods", "--output=wide", check=False)
        logs = self.kubectl(
            "logs", "--selector=app.kubernetes.io/name=bulkhead", "--all-containers", "--tail=15", "--prefix",
            "--max-log-requests=40", check=False,
        )  # fmt: skip
        return f"{pods}\n{sandboxes}\n{logs}"

    def in_sandboxes(self, command: str) -> set[str]:
        """Run a command beside what runs in each sandbox, in its pod; return the pods in which it went well."""
        names = [each["metadata"]["name"] for each in objects("pods", self.sandboxes)]
        asked = {name: ("exec", f"--namespace={self.sandboxes}", name, "--", "sh", "-c", command) for name in names}
        return {name for name, each in asked.items() if call("kubectl", *each, check=False).returncode == 0}

    def until_in_sandboxes(self, command: str, count: int) -> None:
        """Return when a command goes well in the pods of so many sandboxes."""
        until = time.monotonic() + _ANSWER_SECONDS
        while len(self.in_sandboxes(command)) < count:
            assert time.monotonic() < until, f"not in {count} sandboxes: {command}\n{self.state()}"
            time.sleep(_LOOK_SECONDS)

    def images(self) -> set[str]:
        """Return what the containers of its deployments are made of."""
        specs = [each["spec"]["template"]["spec"] for each in objects("deployments", self.namespace)]
        return {container["image"] for spec in specs for container in spec["containers"]}

    @contextmanager
    def forwarded(self) -> Generator[None]:
        """Have a pod in another namespace ask the API's service for whoever asks at `url`."""
        [image] = self.images()
        service = json.loads(self.kubectl("get", "service", f"{self.full_name}-api", "--output=json"))
        visit(self.visitors, "relay", image, service["spec"]["clusterIP"], "8400")
        thread = threading.Thread(target=self._forward, daemon=True)
        thread.start()
        try:
            self.until_answers()
            yield
        finally:
            self._stopping.set()
            thread.join(10)

    def until_answers(self) -> None:
        """Return when the API answers."""
        until = time.monotonic() + _ANSWER_SECONDS
        while not self._answers():
            assert time.monotonic() < until, f"the API does not answer\n{self.state()}"
            time.sleep(_LOOK_SECONDS)

    def settle(self) -> None:
        """Return when no pod is on its way out any more, and the API answers at one that stays."""
        until = time.monotonic() + _ANSWER_SECONDS
        while any("deletionTimestamp" in each["metadata"] for each in objects("pods", self.namespace)):
            assert time.monotonic() < until, f"pods do not end\n{self.state()}"
            time.sleep(_LOOK_SECONDS)
        self.until_answers()

    def _forward(self) -> None:
        command: Sequence[str] = (
            "kubectl", f"--namespace={self.visitors}", "port-forward", "pod/relay", f"{self._port}:8400",
        )  # fmt: skip
        while not self._stopping.is_set():
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            misses = 0
            while process.poll() is None and misses < _MISSES and not self._stopping.wait(_LOOK_SECONDS):
                misses = 0 if self._answers() else misses + 1
            process.terminate()
            process.wait()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", timeout=2).is_success
        except httpx.HTTPError:
            return False
