"""What a hostile command tries against process 1, which knows the results of all others."""

import asyncio
import contextlib

import pytest

from sandbox.contract import ExecRequest, SandboxError, SandboxLostError
from sandbox.supervisor.frames import pack
from tests.support.sandboxes import Box, python

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["environ", "mem", "maps", "fd", "root", "cwd", "exe", "ns/net", "syscall", "stack"])
async def test_process_1_cannot_be_read(box: Box, name: str) -> None:
    result = await box.run(f"head -c 10 /proc/1/{name} || ls /proc/1/{name}/ || readlink /proc/1/{name}")
    assert result.stdout == ""
    assert result.stderr != ""


@pytest.mark.parametrize("signal", ["KILL", "STOP", "TERM", "INT", "HUP", "SEGV", "USR1", "CHLD", "PIPE", "ALRM"])
async def test_process_1_cannot_be_signalled(box: Box, signal: str) -> None:
    await box.run(f"for i in 1 2 3; do kill -{signal} 1; done")
    assert (await box.run("echo alive")).stdout == "alive\n"


async def test_neither_process_1_nor_a_keeper_can_be_traced(box: Box) -> None:
    code = (
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "keeper = os.getppid() if open('/proc/%d/stat' % os.getppid()).read().split()[3] == '1' else None\n"
        "print(keeper)\n"
        "for pid in (1, keeper):\n"
        "    print(libc.ptrace(16, pid, None, None), ctypes.get_errno())\n"
    )
    keeper, *attempts = (
        await box.run(
            "exec " + python(code).partition("; ")[2].replace("$1", "$LOADER", 1),
            env={"LOADER": (await box.run("echo /.bulkhead/lib/ld-*")).stdout.strip()},
        )
    ).stdout.splitlines()
    assert keeper != "None"
    assert attempts == ["-1 1", "-1 1"]


@pytest.mark.parametrize(
    "way",
    [
        "nohup sleep 681 &",
        "setsid sleep 681 &",
        "(setsid sleep 681 &)",
        "(trap '' TERM HUP INT; setsid sh -c 'trap \"\" TERM; (sleep 681 & sleep 681) & wait' &)",
        "setsid sh -c 'while :; do sleep 681 & sleep 0.05; done' &",
    ],
    ids=["nohup", "session", "orphan", "deaf", "begetter"],
)
async def test_nothing_survives_a_timeout(box: Box, way: str) -> None:
    result = await box.run(f"{way}\necho away; sleep 682", timeout_seconds=1)
    assert (result.status, result.stdout, result.survivors) == ("timeout", "away\n", 0)
    left = await box.run("grep -ls '^sleep' /proc/[0-9]*/comm | wc -l")
    assert left.stdout.strip() == "0"


async def test_a_command_inherits_nothing_but_its_standard_streams(box: Box) -> None:
    code = "import os\nprint([n for n in range(3, 1024) if os.path.lexists(f'/proc/self/fd/{n}')])"
    assert (await box.python(code)).stdout == "[]\n"


async def test_killing_its_keeper_gains_a_command_nothing(box: Box) -> None:
    attack = "setsid sleep 651 & kill -9 $PPID; echo forged; sleep 652"
    result = await box.run(attack, exec_id="rebel", timeout_seconds=30)
    assert (result.status, result.exit_code) == ("killed", None)
    gone = await box.run(
        "until ! grep -qs '^sleep' /proc/[0-9]*/comm; do sleep 0; done; echo gone", timeout_seconds=10
    )
    assert gone.stdout == "gone\n"
    assert (await box.provider.exec_state(box.sandbox_id, "rebel")).result == result


async def test_stopping_its_keeper_does_not_stop_the_clock(box: Box) -> None:
    result = await box.run("kill -STOP $PPID; sleep 661", timeout_seconds=1)
    assert (result.status, result.survivors) == ("timeout", 0)


async def test_killing_everything_leaves_process_1(box: Box) -> None:
    other = asyncio.create_task(box.run("touch up; sleep 30", timeout_seconds=30))
    await box.until_exists("/workspace/up")
    await box.run("kill -9 -1", timeout_seconds=30)
    assert (await other).status == "killed"
    assert (await box.run("echo alive")).stdout == "alive\n"


async def test_a_command_cannot_give_orders(box: Box) -> None:
    request = ExecRequest(exec_id="future", command="echo forged > /workspace/forged", cwd="/", timeout_seconds=9)
    order = pack({"op": "exec", "id": 1, **request.model_dump(exclude={"stdin"})})
    code = (
        "import os, socket\n"
        f"order = {order!r}\n"
        "found = ['\\0bulkhead'] + ['\\0' + line.split()[-1][1:] for line in open('/proc/net/unix') if '@' in line]\n"
        "for folder, _, names in os.walk('/'):\n"
        "    if folder.startswith(('/proc', '/usr', '/sys')): continue\n"
        "    paths = [os.path.join(folder, name) for name in names]\n"
        "    found += [p for p in paths if os.path.exists(p) and os.stat(p).st_mode & 0o170000 == 0o140000]\n"
        "for address in found:\n"
        "    try:\n"
        "        s = socket.socket(socket.AF_UNIX); s.settimeout(2); s.connect(address)\n"
        "        s.sendall(order); print('answer', s.recv(100))\n"
        "    except OSError as error: print(error)\n"
    )
    result = await box.python(code)
    assert result.exit_code == 0, result
    assert "exited" not in result.stdout
    assert (await box.provider.exec_state(box.sandbox_id, "future")).state == "never_started"
    assert (await box.run("ls -A /workspace")).stdout == ""


async def test_knocking_without_end_keeps_nobody_out(box: Box) -> None:
    code = (
        "import socket, time\n"
        "held = []\n"
        "for number in range(300):\n"
        "    s = socket.socket(socket.AF_UNIX); s.setblocking(False)\n"
        "    try: s.connect('\\0bulkhead')\n"
        "    except OSError: pass\n"
        "    held.append(s)\n"
        "print('knocked')\n"
        "time.sleep(60)\n"
    )
    knocking = asyncio.create_task(box.python(code, exec_id="knock"))
    await asyncio.sleep(0.3)
    other = box.make_provider()
    try:
        assert (await other.exec_state(box.sandbox_id, "knock")).state == "running"
        await other.kill(box.sandbox_id, "knock")
    finally:
        await other.close()
    assert (await knocking).status == "killed"


async def test_a_result_belongs_to_its_own_command(box: Box) -> None:
    results = await asyncio.gather(*(box.run(f"echo {number}") for number in range(30)))
    assert [result.stdout for result in results] == [f"{number}\n" for number in range(30)]


async def test_a_command_finds_no_file_of_the_supervisor(box: Box) -> None:
    await box.run("echo the-secret-result", exec_id="first")
    found = await box.run("grep -rl the-secret-result /workspace /tmp /dev/shm /home /etc /run /var 2>/dev/null")
    assert found.stdout == ""


async def test_a_link_to_process_1s_own_descriptors_shows_no_results(box: Box) -> None:
    await box.run("echo the-secret-result", exec_id="first")
    for number in range(16):
        await box.run(f"ln -sf /proc/self/fd/{number} link")
        with contextlib.suppress(SandboxError):
            assert b"the-secret-result" not in await box.read("/workspace/link")


async def test_the_sandbox_ends_with_process_1(box: Box) -> None:
    await box.provider.destroy(box.sandbox_id)
    with pytest.raises(SandboxLostError):
        await box.run("true")
