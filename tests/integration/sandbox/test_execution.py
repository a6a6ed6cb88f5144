"""Running commands: results, time, output, and at most once."""

import asyncio
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.contract import ExecRequest, SandboxProvider
from tests.support.sandboxes import SMALL, Box, python, runtime_cache

_WORKER = """
import asyncio, sys
from pathlib import Path
from sandbox.contract import ExecRequest
from tests.support.sandboxes import provider_of

async def main():
    kind, state, cache, installation, _, sandbox_id, command = sys.argv[1:]
    provider = provider_of(kind, Path(state), Path(cache), installation)
    await provider.execute(sandbox_id, ExecRequest(exec_id="survivor", command=command))

asyncio.run(main())
"""


async def test_exit_codes_and_both_streams_come_back(box: Box) -> None:
    result = await box.run("echo out; echo err >&2; exit 7")
    assert (result.status, result.exit_code, result.stdout, result.stderr) == ("exited", 7, "out\n", "err\n")
    assert (result.dropped_bytes, result.survivors) == (0, 0)


async def test_death_by_signal_is_an_exit_code_as_in_a_shell(box: Box) -> None:
    result = await box.run("kill -SEGV $$")
    assert (result.status, result.exit_code) == ("exited", 128 + signal.SIGSEGV)


async def test_a_command_starts_in_the_workspace_with_its_environment_and_input(box: Box) -> None:
    result = await box.run("pwd; echo $COLOUR; cat", env={"COLOUR": "blue"}, stdin="from outside")
    assert result.stdout == "/workspace\nblue\nfrom outside"


async def test_a_megabyte_of_input_arrives_whole(box: Box) -> None:
    result = await box.run("wc -c", stdin="x" * 3_000_000)
    assert result.stdout.strip() == "3000000"


async def test_without_input_a_command_reads_nothing(box: Box) -> None:
    assert (await box.run("cat; echo end")).stdout == "end\n"


async def test_the_environment_of_one_command_is_not_that_of_the_next(box: Box) -> None:
    await box.run("export LEFT=behind", env={"SECRET": "once"})
    result = await box.run("env")
    assert "SECRET" not in result.stdout
    assert "LEFT" not in result.stdout


async def test_a_missing_folder_is_named(box: Box) -> None:
    result = await box.run("true", cwd="/workspace/nowhere")
    assert (result.status, result.exit_code) == ("exited", 126)
    assert "cannot use cwd '/workspace/nowhere'" in result.stderr


async def test_a_command_that_is_too_long_is_refused_with_the_reason(box: Box) -> None:
    result = await box.run("true " + "x" * 200_000)
    assert result.exit_code == 126
    assert "Argument list too long" in result.stderr


async def test_concurrent_repeats_run_once_and_all_get_the_result(box: Box) -> None:
    runs = [box.run("echo ran >> log; sleep 0.2; echo done", exec_id="once") for _ in range(8)]
    results = await asyncio.gather(*runs)
    assert {result.stdout for result in results} == {"done\n"}
    assert await box.read("/workspace/log") == b"ran\n"


async def test_a_repeat_after_the_end_returns_the_first_result(box: Box) -> None:
    first = await box.run("date +%s%N; echo ran >> log; exit 3", exec_id="again")
    assert await box.run("echo something else", exec_id="again") == first
    assert await box.read("/workspace/log") == b"ran\n"


async def test_another_instance_of_the_provider_attaches(box: Box) -> None:
    command = "echo ran >> log; until test -e go; do sleep 0.02; done; echo done"
    running = asyncio.create_task(box.run(command, exec_id="shared"))
    await box.until_exists("/workspace/log")
    other = box.make_provider()
    try:
        assert (await other.exec_state(box.sandbox_id, "shared")).state == "running"
        await box.write("/workspace/go", b"")
        result = await other.execute(box.sandbox_id, ExecRequest(exec_id="shared", command="echo wrong"))
        assert result == await running
        assert await box.read("/workspace/log") == b"ran\n"
    finally:
        await other.close()


async def test_a_command_outlives_a_worker_that_is_killed(
    box: Box, provider: SandboxProvider, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    command = "echo ran >> log; sleep 1; echo done"
    cache = runtime_cache(tmp_path_factory)
    arguments = [
        provider.name,
        str(tmp_path / "sandboxes"),
        str(cache),
        f"test{os.getpid()}",
        "unused",
        box.sandbox_id,
    ]
    worker = subprocess.Popen([sys.executable, "-c", _WORKER, *arguments, command])  # noqa: ASYNC220 -- it is killed
    try:
        await box.until_exists("/workspace/log")
    finally:
        worker.kill()
        worker.wait()
    assert (await box.run("echo wrong", exec_id="survivor")).stdout == "done\n"
    assert await box.read("/workspace/log") == b"ran\n"


async def test_what_became_of_a_command_can_be_asked(box: Box) -> None:
    assert (await box.provider.exec_state(box.sandbox_id, "unheard")).state == "never_started"
    result = await box.run("echo here", exec_id="heard")
    state = await box.provider.exec_state(box.sandbox_id, "heard")
    assert (state.state, state.result) == ("finished", result)


async def test_a_timeout_returns_what_was_printed(box: Box) -> None:
    result = await box.run("echo before; sleep 600; echo after", timeout_seconds=0.5)
    assert (result.status, result.exit_code, result.stdout) == ("timeout", None, "before\n")
    assert result.survivors == 0


async def test_a_timeout_lets_a_command_clean_up(box: Box) -> None:
    result = await box.run("trap 'echo cleaned; exit 0' TERM; while :; do sleep 0.05; done", timeout_seconds=0.5)
    assert (result.status, result.stdout) == ("timeout", "cleaned\n")


async def test_a_timeout_ends_what_has_detached_itself(box: Box) -> None:
    detach = python(
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "os.setsid()\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        time.sleep(611)\n"
        "else:\n"
        "    time.sleep(612)\n"
    )
    result = await box.run(f"nohup sleep 613 & setsid sleep 614 & ({detach}) & sleep 615", timeout_seconds=1)
    assert (result.status, result.survivors) == ("timeout", 0)
    assert await commands(box) & {"611", "612", "613", "614", "615"} == set()


async def commands(box: Box) -> set[str]:
    """Return every word of the command lines and code of the processes in the sandbox, but for the one that looks."""
    code = (
        "import os\n"
        "for pid in os.listdir('/proc'):\n"
        "    if pid.isdigit() and int(pid) not in (1, os.getpid(), os.getppid()):\n"
        "        try: print(open(f'/proc/{pid}/cmdline').read())\n"
        "        except OSError: pass\n"
    )
    return set(re.findall(r"\w+", (await box.python(code)).stdout))


async def test_a_background_process_does_not_hold_up_the_result(box: Box) -> None:
    result = await box.run("sleep 621 & echo started")
    assert (result.status, result.stdout, result.survivors) == ("exited", "started\n", 1)
    assert "621" in await commands(box)


async def test_a_sandbox_full_of_leftovers_makes_room_and_says_so(box: Box) -> None:
    await box.run("sleep 622 &")
    running = asyncio.create_task(box.run("touch up; until test -e go; do sleep 0.05; done; echo went on"))
    await box.until_exists("/workspace/up")
    # sh, for bash goes on trying to fork for 15 s.
    await box.run("exec sh -c 'for i in $(seq 245); do sleep 623 & done'", timeout_seconds=20)
    result = await box.run("ls / | head -n 1 | cat; touch go")
    assert (result.status, result.exit_code) == ("exited", 0)
    assert "background processes of earlier commands were ended" in result.stderr
    assert (await running).stdout == "went on\n"
    assert "623" not in (left := await commands(box))
    assert "622" in left, "the few of another command have room"
    assert (await box.run("true")).stderr == ""


async def test_a_fork_bomb_that_outlives_its_command_makes_room(box: Box) -> None:
    bomb = "import os, time\nwhile True:\n    try: os.fork()\n    except OSError: time.sleep(0.01)\n"
    await box.run(f"({python(bomb)}) > /dev/null 2>&1 & sleep 1")
    result = await box.run("echo here")
    assert (result.exit_code, result.stdout) == (0, "here\n")
    assert "were ended" in result.stderr


async def test_a_background_process_may_go_on_printing(box: Box) -> None:
    await box.run("(while :; do echo noise; echo alive >> beat; sleep 0.02; done) & true")
    before = len(await box.read("/workspace/beat"))
    assert (await box.run(f"until test $(wc -c < beat) -gt {before + 60}; do sleep 0.02; done")).exit_code == 0


async def test_killing_an_ended_command_ends_its_background(box: Box) -> None:
    first = await box.run("sleep 631 & echo $! > pid", exec_id="daemon")
    await box.provider.kill(box.sandbox_id, "daemon")
    assert (await box.run("test -e /proc/$(cat pid)")).exit_code == 1
    assert await box.run("true", exec_id="daemon") == first


async def test_a_kill_ends_the_tree_and_says_so(box: Box) -> None:
    running = asyncio.create_task(box.run("touch up; sleep 641 | sleep 642", exec_id="victim"))
    await box.until_exists("/workspace/up")
    await box.provider.kill(box.sandbox_id, "victim")
    result = await running
    assert (result.status, result.exit_code, result.survivors) == ("killed", None, 0)
    assert await commands(box) & {"641", "642"} == set()


async def test_killing_what_never_ran_is_no_error(box: Box) -> None:
    await box.provider.kill(box.sandbox_id, "unheard")
    assert (await box.run("echo fine", exec_id="unheard")).stdout == "fine\n"


async def test_output_keeps_its_head_and_tail(box: Box) -> None:
    result = await box.run("seq 1 200000", max_output_bytes=10_000)
    assert result.stdout.startswith("1\n2\n")
    assert result.stdout.endswith("199999\n200000\n")
    assert len(result.stdout) <= 10_000
    total = sum(len(str(number)) + 1 for number in range(1, 200_001))
    mark = f"\n[... {result.dropped_bytes} bytes dropped ...]\n"
    assert mark in result.stdout
    assert len(result.stdout) - len(mark) + result.dropped_bytes == total


async def test_a_line_without_end_is_ended_and_bounded(box: Box) -> None:
    result = await box.run("cat /dev/zero | tr '\\0' x", max_output_bytes=1000)
    assert (result.status, result.survivors) == ("output_limit", 0)
    assert result.stdout.startswith("xxx")
    assert len(result.stdout) <= 1000
    assert result.dropped_bytes > 60_000_000


@pytest.mark.parametrize("flood", ["yes", "while :; do printf '\\033[31m\\033[2J'; done", "yes >&2"])
async def test_floods_are_bounded(box: Box, flood: str) -> None:
    result = await box.run(flood, max_output_bytes=5000, timeout_seconds=2)
    assert result.status in {"output_limit", "timeout"}
    assert len(result.stdout) <= 5000
    assert result.dropped_bytes > 0


async def test_bytes_that_are_not_text_are_replaced(box: Box) -> None:
    result = await box.run("printf 'a\\377\\376b'")
    assert result.stdout == "a\ufffd\ufffdb"


async def test_commands_run_side_by_side(box: Box) -> None:
    # Each waits for the other, so they end only if both run.
    first = "touch one; until test -e two; do sleep 0.02; done"
    second = "touch two; until test -e one; do sleep 0.02; done"
    results = await asyncio.gather(box.run(first), box.run(second))
    assert [result.exit_code for result in results] == [0, 0]


@pytest.mark.slow
async def test_more_commands_than_may_run_are_refused(box: Box) -> None:
    running = [asyncio.create_task(box.run("until test -e go; do sleep 0.3; done")) for _ in range(70)]
    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    await box.write("/workspace/go", b"")
    results = await asyncio.gather(*running, return_exceptions=True)
    codes = [getattr(result, "code", "ran") for result in results]
    assert "bad_request" in codes
    assert codes.count("ran") >= 60


@pytest.mark.slow
async def test_process_1_stays_small_over_many_commands(box: Box) -> None:
    size = "grep VmRSS /proc/1/status"
    await box.run("seq 1 30000")
    before = int((await box.run(size)).stdout.split()[1])
    for _ in range(200):
        assert (await box.run("seq 1 30000")).exit_code == 0
    after = int((await box.run(size)).stdout.split()[1])
    assert after - before < 4096


async def test_no_zombies_are_left(box: Box) -> None:
    await box.run("for i in 1 2 3 4 5; do (sleep 0.01 &) ; done")
    await box.run("sleep 0.2")
    assert "Z" not in (await box.run("cat /proc/[0-9]*/stat | cut -d' ' -f3")).stdout


@pytest.mark.slow
async def test_running_out_of_memory_is_told_apart(box: Box) -> None:
    result = await box.python("m = bytearray(1 << 33)\nfor i in range(0, 1 << 33, 4096): m[i] = 1")
    limit = (await box.provider.provision(box.sandbox_id, SMALL)).isolation_effective["memory_limit"]
    assert result.status == "oom" if limit is True else result.exit_code != 0
    assert (await box.run(f"echo {shlex.quote('still here')}")).stdout == "still here\n"
