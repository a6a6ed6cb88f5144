"""Handing listening sockets to a proxy."""

import asyncio
import os
import pwd
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from cryptography import x509

from sandbox.contract import SandboxError, SandboxSpec
from sandbox.egress import Ears, EarsClient, EarsError
from sandbox.namespace import NamespaceProvider
from sandbox.outlet import PATIENCE_SECONDS, Outlets
from tests.support.egress import Client, Stage


@pytest.fixture
async def ears(stage: Stage) -> AsyncGenerator[Path]:
    """The path at which a proxy takes orders."""
    path = stage.folder / "ears.sock"
    async with Ears(path, stage.proxy):
        yield path


async def test_a_socket_that_is_handed_over_is_served_under_its_sandbox(stage: Stage, ears: Path) -> None:
    worker = EarsClient(ears)
    await stage.sandbox("sbx_before")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stage.ports["sbx_b"] = listener.getsockname()[1]
        await worker.attach("sbx_b", listener)
    stage.policies.policies["sbx_b"] = stage.policies.policies["sbx_before"].model_copy(
        update={"sandbox_id": "sbx_b", "session_id": "sesn_b"}
    )
    assert await worker.attached() == ["sbx_b", "sbx_before"]
    client: Client = await stage.client("sbx_b")
    got = await client.ask("CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n", "CONNECT")
    assert got.status == 403
    assert (await stage.audit.wait()).session_id == "sesn_b"

    await worker.detach("sbx_b")
    assert await worker.attached() == ["sbx_before"]
    with pytest.raises(OSError, match="Connect"):
        await stage.client("sbx_b")


async def test_a_worker_is_told_which_certificate_its_sandbox_has_to_trust(stage: Stage, ears: Path) -> None:
    worker = EarsClient(ears)
    await stage.sandbox("sbx_a")
    mine = x509.load_pem_x509_certificate((await worker.authority("sbx_a")).encode())
    assert "sesn_sbx_a" in mine.subject.rfc4514_string()
    with pytest.raises(EarsError, match="no sandbox 'sbx_b'"):
        await worker.authority("sbx_b")
    stage.policies.broken = True
    with pytest.raises(EarsError, match="the store is away"):
        await worker.authority("sbx_a")


async def test_of_two_proxies_one_takes_orders_and_the_other_when_it_is_gone(stage: Stage) -> None:
    path = stage.folder / "ears.sock"
    first, second = Ears(path, stage.proxy), Ears(path, stage.proxy)
    await first.__aenter__()
    async with second:
        assert await EarsClient(path).attached() == []
        await first.__aexit__()
        async with asyncio.timeout(5):
            while not path.exists():  # noqa: ASYNC110 - made by the other's task
                await asyncio.sleep(0.01)
        assert await EarsClient(path).attached() == []
    assert not path.exists()


async def test_a_proxy_that_stops_takes_nothing_from_the_one_that_takes_orders(stage: Stage, ears: Path) -> None:
    async with Ears(ears, stage.proxy):
        pass
    assert await EarsClient(ears).attached() == []


async def test_what_was_left_by_a_proxy_that_was_killed_is_in_nobodys_way(stage: Stage) -> None:
    path = stage.folder / "ears.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:
        left.bind(str(path))
    async with Ears(path, stage.proxy):
        assert await EarsClient(path).attached() == []


async def test_a_key_that_somebody_has_to_put_back_is_not_waited_for(stage: Stage, ears: Path) -> None:
    provider = NamespaceProvider(
        state_dir=stage.folder / "sandboxes", cache_dir=stage.folder / "cache", installation=f"ears{os.getpid()}"
    )
    await provider.provision("sbx_a", SandboxSpec(memory_mb=64, workspace_mb=16))
    await stage.sandbox("sbx_a")
    stage.policies.unmade = "the master key 'k' is not present; put it back"
    try:
        with pytest.raises(SandboxError, match="'k' is not present; put it back") as caught:
            async with asyncio.timeout(PATIENCE_SECONDS / 2):
                await Outlets(EarsClient(ears)).open("sbx_a", provider)
        assert caught.value.code == "provision_failed"
    finally:
        await provider.destroy("sbx_a")
        await provider.close()


async def test_what_is_not_one_listening_socket_is_refused(ears: Path) -> None:
    worker = EarsClient(ears)
    with socket.socket() as idle, pytest.raises(EarsError, match="exactly one listening stream socket"):
        await worker.attach("sbx_b", idle)
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(EarsError, match="names no sandbox"):
        await worker.attach("", listener)
    assert await worker.attached() == []


async def test_a_proxy_that_is_away_is_an_error_that_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(EarsError, match=r"gone\.sock does not answer"):
        await EarsClient(tmp_path / "gone.sock").attached()


async def test_another_user_is_not_heard(stage: Stage, ears: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    # As though the file's mode had been loosened: what is left is the check of who is asking.
    for path in (ears, stage.folder):
        path.chmod(0o777)
    assert "attached" in await _asked_as(os.getuid(), ears)
    stranger = await _asked_as(pwd.getpwnam("nobody").pw_uid, ears)
    assert stranger.strip() in {"b''", "turned away"}


_ASK = """
import os, socket, sys
os.setuid(int(sys.argv[1]))
asking = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
asking.connect(sys.argv[2])
try:
    asking.send(b'{"do": "list"}')
    print(asking.recv(1000))
except (BrokenPipeError, ConnectionResetError):
    print("turned away")
"""


async def _asked_as(uid: int, path: Path) -> str:
    command = [sys.executable, "-c", _ASK, str(uid), str(path)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout
