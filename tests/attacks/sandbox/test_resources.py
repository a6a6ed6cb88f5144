"""What a hostile command tries in order to use up the host, or to make the sandbox unusable."""

import errno
import os

import pytest

from sandbox import storage
from sandbox.docker import INODES_PER_MB
from sandbox.namespace import SUPERVISOR_MB
from tests.support.sandboxes import SMALL, Box

pytestmark = pytest.mark.slow

_BOMB = (
    "import os, signal\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('bomb', flush=True)\n"
    "while True:\n"
    "    try:\n"
    "        if os.fork() == 0: os.setsid()\n"
    "    except OSError: pass\n"
)


async def test_a_fork_bomb_is_contained_and_ended(box: Box) -> None:
    result = await box.python(_BOMB, timeout_seconds=2)
    assert (result.status, result.stdout, result.survivors) == ("timeout", "bomb\n", 0)
    after = await box.run("echo fine; ls -d /proc/[0-9]* | wc -l")
    assert after.stdout.startswith("fine\n")
    assert int(after.stdout.split()[1]) < 10


async def test_a_fork_bomb_left_in_the_background_can_be_ended(box: Box) -> None:
    await box.write("/workspace/bomb.py", _BOMB.encode())
    run = "set -- /.bulkhead/lib/ld-*; $1 --library-path /.bulkhead/lib /.bulkhead/bin/python3 -I -S bomb.py"
    first = await box.run(f"({run}) >/dev/null 2>&1 & sleep 0.5; echo left", exec_id="bomber", timeout_seconds=60)
    assert first.stdout == "left\n"
    assert first.survivors > 1
    await box.provider.kill(box.sandbox_id, "bomber")
    after = await box.run("ls -d /proc/[0-9]* | wc -l")
    assert int(after.stdout) < 10


async def test_processes_are_limited(box: Box) -> None:
    code = (
        "import os, time\n"
        "made = 0\n"
        "try:\n"
        "    while made < 5000:\n"
        "        if os.fork() == 0: time.sleep(60); os._exit(0)\n"
        "        made += 1\n"
        "except OSError as error: print(made, error.errno, flush=True)\n"
        "os.kill(0, 9)\n"
    )
    result = await box.python(code)
    made, number = (int(word) for word in result.stdout.split())
    assert made <= SMALL.pids + 80
    assert number == errno.EAGAIN


async def test_a_disk_that_is_filled_is_the_sandboxs_own(box: Box) -> None:
    before = os.statvfs("/").f_bavail
    for folder in ("/workspace", "/tmp", "/home/agent", "/dev/shm"):
        result = await box.run(f"dd if=/dev/zero of={folder}/fill bs=1M count=600; rm -f {folder}/fill")
        assert "No space left" in result.stderr, (folder, result)
    assert (before - os.statvfs("/").f_bavail) * os.statvfs("/").f_frsize < 200 << 20
    assert (await box.run("echo fine > /workspace/file && cat /workspace/file")).stdout == "fine\n"


async def test_inodes_run_out_before_the_host_does(box: Box) -> None:
    result = await box.python(
        "import os\n"
        "made = 0\n"
        "os.mkdir('/tmp/many')\n"
        "try:\n"
        "    while made < 3_000_000: os.close(os.open(f'/tmp/many/{made}', os.O_CREAT)); made += 1\n"
        "except OSError as error: print(made, error.errno)\n",
        timeout_seconds=10,
    )
    assert result.status in {"exited", "oom", "timeout"}
    if box.provider.name == "docker":
        made, number = (int(word) for word in result.stdout.split())
        assert (made <= storage.SCRATCH_MB * INODES_PER_MB, number) == (True, errno.ENOSPC)
    assert (await box.run("rm -rf /tmp/many; echo fine")).stdout == "fine\n"


async def test_memory_is_limited_and_process_1_survives(box: Box) -> None:
    for number in range(3):
        result = await box.python(f"m = bytearray({8 << 30})\nfor i in range(0, len(m), 4096): m[i] = 1")
        assert result.status == "oom" or result.exit_code not in {0, None}, (number, result)
    assert (await box.run("echo fine")).stdout == "fine\n"


async def test_memory_beyond_what_was_asked_for_is_not_had(box: Box) -> None:
    # What may be stored is memory too, and nobody stores anything here.
    beyond = (SMALL.memory_mb + storage.megabytes(SMALL) + SUPERVISOR_MB + 200) << 20
    result = await box.python(f"m = bytearray({beyond})\nfor i in range(0, len(m), 4096): m[i] = 1\nprint('had')")
    assert "had" not in result.stdout
    assert (await box.run("echo fine")).stdout == "fine\n"


async def test_a_tree_that_eats_memory_side_by_side_is_limited(box: Box) -> None:
    eater = "m = bytearray(150 << 20)\nfor i in range(0, len(m), 4096): m[i] = 1\nimport time; time.sleep(3)"
    code = (
        f"import os\nfor _ in range(40):\n    if os.fork() == 0:\n        exec({eater!r}); os._exit(0)\n"
        "try:\n    while True: print(os.wait()[1] & 127)\nexcept ChildProcessError: pass"
    )
    result = await box.python(code, timeout_seconds=30)
    limit = (await box.provider.provision(box.sandbox_id, SMALL)).isolation_effective["memory_limit"]
    assert "9" in result.stdout.split() or result.status == "oom" or limit is not True
    assert (await box.run("echo fine")).stdout == "fine\n"


async def test_open_files_are_limited(box: Box) -> None:
    code = "import os\nmade = []\ntry:\n    while True: made.append(os.dup(0))\nexcept OSError: print(len(made))"
    assert int((await box.python(code)).stdout) < 5000


async def test_no_core_file_is_written(box: Box) -> None:
    result = await box.run("ulimit -Hc; ulimit -c unlimited; kill -SEGV $$")
    assert result.stdout == "0\n"
    assert (await box.run("ls -A")).stdout == ""
