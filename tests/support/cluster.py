"""The cluster that tests of pods run on, and the images that its nodes have for them.

KUBECONFIG names the cluster; without one that answers these tests are skipped. The images are made here, without an
engine, as archives of the kind that `docker save` writes; BULKHEAD_TEST_LOAD_IMAGE is the command that puts such an
archive on the nodes (with kind: "kind load image-archive"). Without it they must be there already.
BULKHEAD_TEST_GATE_ADDRESS is an address of this machine that pods reach, if it is not the one towards the nodes.
"""

import asyncio
import contextlib
import hashlib
import io
import json
import os
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

from sandbox import runtime
from sandbox.kubernetes import KubernetesOptions
from sandbox.kubernetes.api import Api, ApiError
from sandbox.kubernetes.gate import FIRST_PORT
from tests.support.images import TEST_IMAGE, busybox_root

KEY = "the key of the tests' installation"
_NAMESPACE, _RUNTIME_IMAGE = "BULKHEAD_TEST_NAMESPACE", "BULKHEAD_TEST_RUNTIME_IMAGE"
"""In the environment, so that a worker that a test starts finds what the test has made."""
_ANSWER_SECONDS = 5
_LOAD_SECONDS = 300


@cache
def obstacle() -> str | None:
    """Return why no cluster can be used; None if one answers."""
    if not os.environ.get("KUBECONFIG"):
        return "KUBECONFIG names no cluster"
    try:
        with ThreadPoolExecutor(1) as beside:  # where no event loop runs
            beside.submit(asyncio.run, _ask_version()).result()
    except Exception as error:  # noqa: BLE001 -- whatever keeps the cluster from answering, the test cannot run
        return f"no cluster answers: {error}"
    return None


async def _ask_version() -> None:
    api = Api()
    try:
        await asyncio.wait_for(api.ask("GET", "/version"), _ANSWER_SECONDS)
    finally:
        await api.close()


def options(installation: str, **more: object) -> KubernetesOptions:
    """Return what a provider needs on this cluster, its images loaded; skips without a cluster."""
    if (reason := obstacle()) is not None:
        pytest.skip(reason)
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox-static is not installed")
    if _RUNTIME_IMAGE not in os.environ:
        os.environ[_RUNTIME_IMAGE] = load_images(Path(busybox))
    told: dict[str, object] = {
        "installation": installation,
        "runtime_image": os.environ[_RUNTIME_IMAGE],
        "image": TEST_IMAGE,
        "key": KEY,
        "namespace": os.environ.setdefault(_NAMESPACE, f"bulkhead-test-{os.getpid()}"),
        "canary": "glance",
    }
    if address := os.environ.get("BULKHEAD_TEST_GATE_ADDRESS"):
        told["gate_listen"] = (address, FIRST_PORT)
    return KubernetesOptions.model_validate({**told, **more})


def settings() -> dict[str, str]:
    """Return what a control plane's settings say of this cluster; skips without one."""
    told = options("settings")
    found = {
        "sandbox": "kubernetes",
        "kubernetes_runtime_image": told.runtime_image,
        "kubernetes_image": TEST_IMAGE,
        "kubernetes_key": told.key.get_secret_value(),
        "kubernetes_namespace": told.namespace,
        "kubernetes_canary": told.canary,
    }
    if told.gate_listen is not None:
        found["kubernetes_gate_listen"] = ":".join(map(str, told.gate_listen))
    return found


def environment() -> dict[str, str]:
    """Return the same settings as variables; skips without a cluster."""
    return {f"BULKHEAD_{name.upper()}": value for name, value in settings().items()}


def load_images(busybox: Path) -> str:
    """Have the small image and one with the runtime on the nodes, and return the latter's name."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runtime.install(folder / "runtime")
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as archive:
            archive.add(folder / "runtime", runtime.MOUNT, filter=_by_root)
        small, more = busybox_root(busybox), layer.getvalue()
        made = f"bulkhead-test-runtime:{hashlib.sha256(more).hexdigest()[:16]}"
        for image, layers in ((TEST_IMAGE, [small]), (made, [small, more])):
            _load(folder / "image.tar", image, layers)
    return made


def _by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


def _load(path: Path, image: str, layers: list[bytes]) -> None:
    command = os.environ.get("BULKHEAD_TEST_LOAD_IMAGE")
    if command is None:
        return
    digests = [hashlib.sha256(layer).hexdigest() for layer in layers]
    config = json.dumps({
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
    }).encode()  # fmt: skip
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    listing = [{"Config": name, "RepoTags": [image], "Layers": [f"{digest}/layer.tar" for digest in digests]}]
    files = {name: config, "manifest.json": json.dumps(listing).encode()}
    files |= {f"{digest}/layer.tar": layer for digest, layer in zip(digests, layers, strict=True)}
    with tarfile.open(path, "w") as archive:
        for inner, content in files.items():
            entry = tarfile.TarInfo(inner)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    subprocess.run([*shlex.split(command), path], check=True, capture_output=True, timeout=_LOAD_SECONDS)


async def remove_namespace(name: str | None = None) -> None:
    """Remove what tests have run in, with all that is left there; the one that they share if none is named."""
    if (name := name or os.environ.get(_NAMESPACE)) is not None:
        api = Api()
        with contextlib.suppress(ApiError):
            await api.ask("DELETE", f"/api/v1/namespaces/{name}")
        await api.close()
