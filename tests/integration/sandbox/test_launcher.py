"""The program that starts namespace sandboxes: it may die, and nobody who lives by it does."""

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import psutil
import pytest

from sandbox import host, runtime
from sandbox.contract import ExecRequest
from sandbox.namespace import NamespaceProvider
from tests.support.sandboxes import SMALL, runtime_cache


@pytest.fixture
async def namespace(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[NamespaceProvider]:
    cache = runtime_cache(tmp_path_factory)
    made = NamespaceProvider(state_dir=tmp_path, cache_dir=cache, installation=f"test{os.getpid()}")
    yield made
    for sandbox_id in await made.list_ids():
        await made.destroy(sandbox_id)
    await made.close()


def launchers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child.cmdline()[-1:] == [_PROGRAM]]


_PROGRAM = str(Path(host.__file__).with_name("launcher.py"))


async def test_one_launcher_starts_all_and_ends_with_the_provider(namespace: NamespaceProvider) -> None:
    await namespace.provision("sbx_a", SMALL)
    await namespace.provision("sbx_b", SMALL)
    assert len(launchers()) == 1
    await namespace.close()
    assert launchers() == []
    assert (await namespace.exec_state("sbx_a", "none")).state == "never_started"


async def test_another_launcher_takes_the_place_of_one_that_was_killed(namespace: NamespaceProvider) -> None:
    await namespace.provision("sbx_before", SMALL)
    (killed,) = launchers()
    killed.kill()
    killed.wait()
    await namespace.provision("sbx_after", SMALL)
    for sandbox_id in ("sbx_before", "sbx_after"):
        result = await namespace.execute(sandbox_id, ExecRequest(exec_id="alive", command="echo alive"))
        assert result.stdout == "alive\n"


async def test_what_not_everyone_may_read_of_etc_is_not_shown(namespace: NamespaceProvider) -> None:
    for name, path in host.files_of_etc().items():
        assert path.is_symlink() or path.stat().st_mode & 0o004, name
    await namespace.provision("sbx_etc", SMALL)
    found = await namespace.execute("sbx_etc", ExecRequest(exec_id="etc", command="find /etc ! -type d"))
    shown = {line.removeprefix("/etc/") for line in found.stdout.splitlines()}
    assert shown == host.files_of_etc().keys() | runtime.ETC.keys()
