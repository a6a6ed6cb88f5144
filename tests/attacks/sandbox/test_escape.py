"""What a hostile command tries in order to see or reach the host, or to gain privileges."""

import asyncio
import contextlib
import ctypes
import errno
import os
from pathlib import Path

import pytest

from sandbox.namespace import NamespaceProvider
from tests.support.sandboxes import SMALL, Box, ProviderFactory

_CALLS = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"


async def errno_of(box: Box, call: str) -> int:
    """Return the errno of a call of the C library, 0 if it succeeds."""
    code = f"{_CALLS}result = {call}\nprint(0 if result >= 0 else ctypes.get_errno())"
    return int((await box.python(code)).stdout)


@pytest.mark.parametrize(
    "call",
    [
        "libc.unshare(0x10000000)",
        "libc.unshare(0x20000)",
        "libc.unshare(0x40000000)",
        "libc.syscall(56 if os.uname().machine == 'x86_64' else 220, 0x10000011, 0, 0, 0, 0)",
        "libc.syscall(435, ctypes.create_string_buffer(b'\\0\\0\\0\\x10' + b'\\0' * 84), 88)",
        "libc.mount(b'none', b'/workspace', b'tmpfs', 0, None)",
        "libc.mount(b'/', b'/workspace', None, 4096, None)",
        "libc.umount2(b'/proc', 2)",
        "libc.setns(os.open('/proc/self/ns/net', os.O_RDONLY), 0)",
        "libc.chroot(b'/workspace')",
        "libc.setuid(0)",
        "libc.setgid(0)",
        "libc.syscall(250 if os.uname().machine == 'x86_64' else 219, 0, 0, 0, 0, 0)",
        "libc.syscall(321 if os.uname().machine == 'x86_64' else 280, 0, 0, 0)",
        "libc.syscall(298 if os.uname().machine == 'x86_64' else 241, 0, 0, -1, -1, 0)",
        "libc.syscall(323 if os.uname().machine == 'x86_64' else 282, 0)",
        "libc.syscall(425, 1, ctypes.create_string_buffer(128))",
        "libc.syscall(428, -100, b'/', 1)",
        "libc.mknod(b'/workspace/device', 0o60666, os.makedev(8, 0))",
        "libc.sethostname(b'evil', 4)",
        "libc.reboot(0)",
    ],
)
async def test_calls_that_widen_a_sandbox_fail(box: Box, call: str) -> None:
    assert await errno_of(box, call) > 0


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the calls of another architecture are those of i386 here")
async def test_32_bit_calls_fail(box: Box) -> None:
    # mov eax, 20 (getpid); int 0x80; ret
    code = (
        "import ctypes\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.mmap.restype = ctypes.c_void_p\n"
        "page = libc.mmap(None, ctypes.c_size_t(4096), 7, 0x22, -1, ctypes.c_long(0))\n"
        "ctypes.memmove(page, bytes.fromhex('b814000000cd80c3'), 8)\n"
        "print(ctypes.CFUNCTYPE(ctypes.c_int)(page)())"
    )
    result = await box.python(code)
    assert result.stdout == f"{-errno.ENOSYS}\n", result


async def test_no_shared_memory_of_the_host_is_there(box: Box) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    segment = libc.shmget(0, 4096, 0o1000 | 0o666)
    assert segment >= 0
    try:
        assert len((await asyncio.to_thread(Path("/proc/sysvipc/shm").read_text)).splitlines()) > 1
        listed = await box.run("cat /proc/sysvipc/shm | wc -l")
        reached = await box.python(
            f"import ctypes\nprint(ctypes.CDLL(None, use_errno=True).shmat({segment}, None, 0o10000))"
        )
    finally:
        libc.shmctl(segment, 0, None)
    assert (listed.stdout.strip(), reached.stdout) == ("1", "-1\n")


async def test_the_kernels_own_files_are_empty(box: Box) -> None:
    files = "/proc/kcore /proc/kmem /proc/keys /proc/timer_list /proc/sched_debug /proc/scsi/scsi /proc/kpagecount"
    result = await box.run(f"head -qc 64 {files} /sys/firmware/*/* 2>/dev/null; ls /sys/firmware 2>/dev/null")
    assert result.stdout == ""


async def test_no_command_has_or_gets_capabilities(box: Box) -> None:
    status = (await box.run("grep -E 'Cap|NoNewPrivs' /proc/self/status")).stdout
    values = dict(line.split(":") for line in status.splitlines())
    assert values.pop("NoNewPrivs").strip() == "1"
    assert {int(value, 16) for value in values.values()} == {0}


async def test_a_setuid_program_gains_nothing(box: Box) -> None:
    result = await box.run(
        "for f in $(find / -xdev -perm -4000 -type f 2>/dev/null | head -3); do $f --version 2>/dev/null; done;"
        " mkdir my; cp $(which id) my/id; chmod 4755 my/id; my/id -u"
    )
    assert result.stdout.strip().splitlines()[-1] == await user_of_commands(box)


async def user_of_commands(box: Box) -> str:
    """The number of the user that commands are inside: one for all, or in a pod the sandbox's own."""
    if box.provider.name != "kubernetes":
        return "1000"
    told = (await box.provider.provision(box.sandbox_id, SMALL)).isolation_effective["host_user"]
    return str(told).removeprefix("one per sandbox (").removesuffix(")")


def owners_on_the_host(mark: str) -> set[int]:
    """Return the user ids that the host sees on processes with this word in their command line."""
    found: set[int] = set()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (path / "cmdline").read_text().split("\0"):
                found.add(path.stat().st_uid)
    return found


async def test_no_command_runs_as_root_of_the_host(box: Box) -> None:
    assert (await box.run("id -u")).stdout == f"{await user_of_commands(box)}\n"
    await box.run("sleep 671.25 & true")
    owners = await asyncio.to_thread(owners_on_the_host, "671.25")
    assert len(owners) == 1
    assert 0 not in owners or os.geteuid() != 0
    if box.provider.name == "namespace" and os.geteuid() == 0:
        assert min(owners) >= 0x70000000


async def test_the_hosts_files_are_not_there(box: Box, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("canary-of-the-host")
    for folder in ("/", "/root", "/home", "/run", "/var", "/mnt", "/opt", "/srv", str(tmp_path)):
        result = await box.run(f"cat {folder}/secret; grep -rs canary-of-the-host {folder}/tmp {folder}/workspace")
        assert "canary" not in result.stdout
    for path in (
        "/etc/shadow",
        "/etc/gshadow",
        "/var/run/docker.sock",
        "/run/docker.sock",
        str(Path(__file__).parent),
    ):
        assert (await box.run(f"test -e {path}")).exit_code == 1, path


@pytest.mark.parametrize("path", ["/", "/usr", "/etc", "/.bulkhead", "/proc/sys/kernel", "/sys", "/dev"])
async def test_the_system_is_read_only(box: Box, path: str) -> None:
    result = await box.run(f"touch {path}/evil")
    assert result.exit_code != 0


@pytest.mark.parametrize("name", ["kernel/core_pattern", "kernel/panic", "vm/overcommit_memory"])
async def test_kernel_settings_cannot_be_changed(box: Box, name: str) -> None:
    setting = Path(f"/proc/sys/{name}")
    before = await asyncio.to_thread(setting.read_text)
    result = await box.run(f"cat /proc/sys/{name} > /proc/sys/{name}; echo b > /proc/sysrq-trigger")
    assert "denied" in result.stderr or "Read-only" in result.stderr or "can't create" in result.stderr
    assert await asyncio.to_thread(setting.read_text) == before


async def test_no_device_of_the_host_is_there(box: Box) -> None:
    devices = set((await box.run("ls /dev")).stdout.split())
    harmless = {
        "console",
        "core",
        "fd",
        "full",
        "mqueue",
        "null",
        "ptmx",
        "pts",
        "random",
        "shm",
        "tty",
        "urandom",
        "zero",
    }
    assert devices <= harmless | {"stderr", "stdin", "stdout"}


async def test_the_workers_environment_stays_outside(make_provider: ProviderFactory) -> None:
    os.environ["ANTHROPIC_API_KEY"] = "canary-of-the-environment"
    # A provider of its own: what an earlier one has started was given the environment of that time.
    provider = make_provider()
    try:
        await provider.provision("sbx_env", SMALL)
        fresh = Box(provider=provider, sandbox_id="sbx_env", make_provider=make_provider)
        result = await fresh.run("env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'")
    finally:
        del os.environ["ANTHROPIC_API_KEY"]
        await provider.destroy("sbx_env")
        await provider.close()
    assert "canary-of-the-environment" not in result.stdout
    assert "PATH=" in result.stdout


async def test_no_process_of_the_host_is_visible(box: Box) -> None:
    # This test's own process is visible outside under its number and has this file's name in its memory, not inside.
    listed = (await box.run("cat /proc/[0-9]*/comm")).stdout.split()
    assert "pytest" not in listed
    assert len(listed) < 12


async def test_a_sandboxs_folder_on_the_host_is_closed_to_others(box: Box, tmp_path: Path) -> None:
    if not isinstance(box.provider, NamespaceProvider):
        pytest.skip("a container keeps nothing in the file system of the worker")
    assert (tmp_path / "sandboxes" / box.sandbox_id).stat().st_mode & 0o077 == 0
