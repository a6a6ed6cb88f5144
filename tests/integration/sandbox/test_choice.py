"""Which provider this host gives, and what its diagnosis says."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from sandbox import runtime
from sandbox.choice import choose
from sandbox.contract import SandboxError, SandboxLostError
from sandbox.diagnosis import diagnose_docker, diagnose_namespace
from sandbox.docker import DockerProvider
from tests.support.images import TEST_IMAGE
from tests.support.sandboxes import SMALL, busybox_image


async def test_without_an_engine_auto_means_namespaces_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    choice = await choose("auto")
    assert choice.provider == "namespace"
    assert "no Docker engine answers" in choice.reason


async def test_without_an_engine_an_image_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    with pytest.raises(SandboxError, match="needs Docker"):
        await choose("auto", image="debian:12")
    with pytest.raises(SandboxError, match="needs Docker"):
        await choose("docker")


async def test_a_provider_asked_for_by_name_is_it() -> None:
    assert (await choose("namespace")).provider == "namespace"


async def test_an_engine_that_is_away_is_not_a_lost_sandbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    provider = DockerProvider(cache_dir=tmp_path, installation="away")
    for call in (provider.exec_state("sbx_1", "x"), provider.list_ids(), provider.destroy("sbx_1")):
        with pytest.raises(SandboxError) as caught:
            await call
        assert caught.value.code == "engine_away"
        assert not isinstance(caught.value, SandboxLostError)
    with pytest.raises(SandboxError) as caught:
        await provider.provision("sbx_1", SMALL)
    assert caught.value.code == "provision_failed"


@pytest.mark.docker
async def test_with_an_engine_and_the_image_auto_means_docker() -> None:
    busybox_image()
    assert (await choose("auto", image=TEST_IMAGE)).provider == "docker"


@contextlib.asynccontextmanager
async def elsewhere() -> AsyncGenerator[str]:
    """The engine as one that is reached over the network."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        engine_reader, engine_writer = await asyncio.open_unix_connection("/var/run/docker.sock")
        await asyncio.gather(pump(reader, engine_writer), pump(engine_reader, writer), return_exceptions=True)

    async with await asyncio.start_server(forward, "127.0.0.1", 0) as server:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.docker
async def test_an_engine_elsewhere_is_not_for_sandboxes_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    busybox_image()
    async with elsewhere() as address:
        monkeypatch.setenv("DOCKER_HOST", address)
        assert (await choose("docker", image=TEST_IMAGE)).provider == "docker"
        with pytest.raises(SandboxError, match=r"cannot have a way out, because .*not on this host; run the sandbox"):
            await choose("docker", image=TEST_IMAGE, way_out=True)


@pytest.mark.docker
async def test_who_may_not_enter_containers_is_told_so(tmp_path: Path) -> None:
    busybox_image()
    if os.geteuid() != 0:
        pytest.skip("only root has something to give up here")
    script = (
        "import asyncio, sys; from pathlib import Path; from sandbox.diagnosis import diagnose_docker\n"
        "for each in asyncio.run(diagnose_docker(Path(sys.argv[1]), image=sys.argv[2])): print(each)"
    )
    lacking = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    done = await asyncio.create_subprocess_exec(
        *lacking, sys.executable, "-c", script, str(tmp_path), TEST_IMAGE, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await done.communicate()
    first, *others = said.decode().splitlines()
    assert first.startswith("Finding(works=True")
    assert any("works=False" in line and "aspect='way out'" in line for line in others)
    assert "CAP_SYS_ADMIN" in said.decode()


async def test_the_diagnosis_tries_a_namespace_sandbox(tmp_path: Path) -> None:
    first, *weaker = await diagnose_namespace(tmp_path)
    assert first.works, first
    assert all(finding.detail for finding in weaker)
    if os.geteuid() == 0 and os.access("/sys/fs/cgroup/memory", os.W_OK):
        assert weaker == []


async def test_the_diagnosis_says_what_is_wrong_with_bubblewrap(tmp_path: Path) -> None:
    (finding,) = await diagnose_namespace(tmp_path, bwrap=Path("/bin/false"))
    assert not finding.works
    assert finding.next_step


@pytest.mark.docker
async def test_the_diagnosis_tries_a_container(tmp_path: Path) -> None:
    busybox_image()
    first, *_ = await diagnose_docker(tmp_path, image=TEST_IMAGE)
    assert first.works, first


async def test_the_diagnosis_says_that_there_is_no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    (finding,) = await diagnose_docker(tmp_path)
    assert not finding.works
    assert "DOCKER_HOST" in str(finding.next_step)


def test_a_runtime_is_made_once_and_found_again(tmp_path: Path) -> None:
    first = runtime.build(tmp_path)
    made = first.path.stat().st_mtime_ns
    assert runtime.build(tmp_path) == first
    assert first.path.stat().st_mtime_ns == made
    assert [path.name for path in tmp_path.iterdir()] == [first.path.name]
