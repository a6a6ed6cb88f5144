"""Real sandboxes of every kind for a test, and a way to run Python in any of them."""

import itertools
import os
import shlex
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox import docker
from sandbox.contract import ExecRequest, ExecResult, SandboxProvider, SandboxSpec
from sandbox.docker import DockerProvider
from sandbox.kubernetes import KubernetesProvider
from sandbox.namespace import NamespaceProvider
from tests.support import cluster
from tests.support.images import TEST_IMAGE, busybox_root

SMALL = SandboxSpec(memory_mb=256, workspace_mb=128, pids=256, lifetime_seconds=300)
KINDS = [
    pytest.param("namespace"),
    pytest.param("docker", marks=pytest.mark.docker),
    pytest.param("kubernetes", marks=pytest.mark.kubernetes),
]
_numbers = itertools.count(1)

ProviderFactory = Callable[[], SandboxProvider]


def busybox_image() -> None:
    """Give the engine a small image that knows a shell and nothing of ours; skips without an engine or busybox."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox-static is not installed")
    try:
        client = docker.connect()
    except Exception as error:  # noqa: BLE001 -- whatever keeps the engine from answering, the test cannot run
        pytest.skip(f"no Docker engine answers: {error}")
    try:
        if any(TEST_IMAGE in (image["RepoTags"] or []) for image in client.images()):
            return
        client.import_image_from_data(busybox_root(Path(busybox)), repository=TEST_IMAGE, changes=["ENV PATH=/bin"])
    finally:
        client.close()


@dataclass
class Box:
    """A sandbox under test, and shorthand for what tests do with it."""

    provider: SandboxProvider
    sandbox_id: str
    make_provider: ProviderFactory

    async def run(self, command: str, **fields: object) -> ExecResult:
        """Run a command under a new exec id, or the given one."""
        request = {"exec_id": f"exec_{next(_numbers)}", "command": command, "timeout_seconds": 60, **fields}
        return await self.provider.execute(self.sandbox_id, ExecRequest.model_validate(request))

    async def python(self, code: str, **fields: object) -> ExecResult:
        """Run Python code; the runtime's interpreter is there in any image."""
        return await self.run(python(code), **fields)

    async def write(self, path: str, content: bytes, *, mode: int = 0o644) -> int:
        """Write a file in one piece."""
        return await self.provider.write_file(self.sandbox_id, path, pieces(content), mode=mode)

    async def read(self, path: str) -> bytes:
        """Read a file whole."""
        return b"".join([piece async for piece in self.provider.read_file(self.sandbox_id, path)])

    async def until_exists(self, path: str) -> None:
        """Wait until a command has made a file."""
        waited = await self.run(f"until test -e {shlex.quote(path)}; do sleep 0.02; done")
        assert waited.exit_code == 0, waited


async def pieces(content: bytes, size: int = 1 << 16) -> AsyncIterator[bytes]:
    """Yield content as an upload comes: piece by piece."""
    for start in range(0, len(content), size):
        yield content[start : start + size]


def python(code: str) -> str:
    """Return a shell command that runs Python code inside any sandbox."""
    runtime = "/.bulkhead/lib/ld-*.so* --library-path /.bulkhead/lib /.bulkhead/bin/python3 -I -S"
    return f"set -- /.bulkhead/lib/ld-*; $1 {runtime.partition(' ')[2]} -c {shlex.quote(code)}"


def runtime_cache(factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which all tests of a run share the runtime, inside what pytest cleans up."""
    return factory.getbasetemp() / "bulkhead-runtimes"


@pytest.fixture(scope="session")
async def pods_namespace() -> AsyncGenerator[None]:
    """The namespace of this run's pods goes when the run is over."""
    yield
    await cluster.remove_namespace()


@pytest.fixture(params=KINDS)
def make_provider(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> ProviderFactory:
    """Make a provider, each time a new one over the same sandboxes."""
    cache = runtime_cache(tmp_path_factory)
    installation = f"test{os.getpid()}"
    if request.param == "docker":
        busybox_image()
    if request.param == "kubernetes":
        cluster.options(installation)
        request.getfixturevalue("pods_namespace")
    return lambda: provider_of(request.param, tmp_path / "sandboxes", cache, installation)


def provider_of(
    kind: str, state: Path, cache: Path, installation: str, *, bwrap: Path | None = None
) -> SandboxProvider:
    """Make a provider of a kind; `busybox_image` must be there for a container."""
    if kind == "namespace":
        return NamespaceProvider(state_dir=state, cache_dir=cache, installation=installation, bwrap=bwrap)
    if kind == "docker":
        return DockerProvider(cache_dir=cache, installation=installation, default_image=TEST_IMAGE)
    return KubernetesProvider(cluster.options(installation))


@pytest.fixture
async def provider(make_provider: ProviderFactory) -> AsyncGenerator[SandboxProvider]:
    """A provider; whatever a test leaves in it is ended."""
    made = make_provider()
    yield made
    for sandbox_id in await made.list_ids():
        await made.destroy(sandbox_id)
    await made.close()


@pytest.fixture
async def box(provider: SandboxProvider, make_provider: ProviderFactory) -> Box:
    """A sandbox that is up."""
    sandbox_id = f"sbx_{os.getpid()}_{next(_numbers)}"
    await provider.provision(sandbox_id, SMALL)
    return Box(provider=provider, sandbox_id=sandbox_id, make_provider=make_provider)
