"""What a hostile command does to the folders that archives come from and go to, and what hostile archives do."""

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator

import pytest

from sandbox.contract import ArchiveReceipt, SandboxError
from tests.support.sandboxes import Box, pieces, python

pytestmark = pytest.mark.slow

LIMIT = 32 << 20


def archive_of(*members: tuple[str, bytes, str]) -> bytes:
    """Return an archive of (name, type, what it links to) entries."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind, target in members:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            archive.addfile(entry)
    return buffer.getvalue()


async def unpack(box: Box, archive: bytes, path: str = "/workspace") -> ArchiveReceipt:
    return await box.provider.write_archive(box.sandbox_id, path, pieces(archive), max_bytes=LIMIT)


async def pack(box: Box, path: str = "/workspace") -> tuple[bytes, ArchiveReceipt]:
    taken = bytearray()

    async def sink(data: bytes) -> None:
        taken.extend(data)

    receipt = await box.provider.read_archive(box.sandbox_id, path, max_bytes=LIMIT, sink=sink)
    return bytes(taken), receipt


@pytest.mark.parametrize(
    "members",
    [
        [("../escaped", tarfile.REGTYPE, "")],
        [("/tmp/escaped", tarfile.REGTYPE, "")],
        [("x", tarfile.SYMTYPE, "/tmp"), ("x/escaped", tarfile.REGTYPE, "")],
        [("x", tarfile.SYMTYPE, ".."), ("x/tmp/escaped", tarfile.REGTYPE, "")],
        [("x", tarfile.LNKTYPE, "/etc/passwd")],
        [("x", tarfile.LNKTYPE, "../tmp/escaped")],
        [("x", tarfile.CHRTYPE, "")],
        [("x", tarfile.BLKTYPE, "")],
        [("x", tarfile.FIFOTYPE, "")],
    ],
)
async def test_a_hostile_archive_is_refused_and_leaves_nothing(
    box: Box, members: list[tuple[str, bytes, str]]
) -> None:
    with pytest.raises(SandboxError) as caught:
        await unpack(box, archive_of(("first", tarfile.REGTYPE, ""), *members))
    assert caught.value.code == "archive_refused"
    assert (await box.run("ls -A /workspace; find / -name escaped 2>/dev/null")).stdout == ""


@pytest.mark.parametrize("kind", ["files", "size"])
async def test_an_archive_without_end_is_refused_long_before_it(box: Box, kind: str) -> None:
    fed = 0

    async def bomb() -> AsyncIterator[bytes]:
        nonlocal fed
        huge = tarfile.TarInfo("huge")
        huge.size = 1 << 40
        yield huge.tobuf() if kind == "size" else b""
        while True:
            empty = b"".join(tarfile.TarInfo(f"f{fed}-{number}").tobuf() for number in range(128))
            yield empty if kind == "files" else bytes(1 << 16)
            fed += 1

    with pytest.raises(SandboxError, match="archive is refused") as caught:
        await box.provider.write_archive(box.sandbox_id, "/workspace", bomb(), max_bytes=1 << 20)
    assert caught.value.code == "archive_refused"
    assert fed < 64
    assert (await box.run("ls -A /workspace")).stdout == ""


@pytest.mark.parametrize("trap", ["ln -s /tmp sub", "mkfifo sub", "touch sub"])
async def test_what_waits_in_the_target_is_not_followed(box: Box, trap: str) -> None:
    await box.run(trap)
    with pytest.raises(SandboxError) as caught:
        await unpack(box, archive_of(("sub/escaped", tarfile.REGTYPE, "")))
    assert caught.value.code == "archive_refused"
    assert (await box.run("ls -A /workspace; find / -name escaped 2>/dev/null")).stdout == "sub\n"


async def test_a_target_that_is_itself_a_link_is_refused(box: Box) -> None:
    await box.run("ln -s /tmp out; mkdir real; ln -s real in")
    for path in ("/workspace/out", "/workspace/in", "/workspace/in/deeper"):
        with pytest.raises(SandboxError) as caught:
            await unpack(box, archive_of(("escaped", tarfile.REGTYPE, "")), path)
        assert caught.value.code == "file_refused"


async def test_the_staging_folder_replaced_by_a_link_leads_nowhere(box: Box) -> None:
    archive = archive_of(*((f"f{number}", tarfile.REGTYPE, "") for number in range(200)))

    async def slowly() -> AsyncIterator[bytes]:
        yield archive[:20_480]
        swapped = await box.run("mkdir /tmp/own; for d in .bulkhead-*; do mv $d moved; ln -s /tmp/own $d; done")
        assert swapped.exit_code == 0
        yield archive[20_480:]

    try:
        await box.provider.write_archive(box.sandbox_id, "/workspace", slowly(), max_bytes=LIMIT)
    except SandboxError as error:
        assert error.code in {"archive_refused", "file_refused"}
    assert (await box.run("ls -A /tmp/own")).stdout == ""
    assert (await box.run("echo alive")).stdout == "alive\n"


async def test_links_and_mounts_show_an_archive_nothing_of_process_1(box: Box) -> None:
    await box.run("echo the-secret-result", exec_id="first")
    await box.run(
        "ln -s /proc/1 one; ln -s /proc/self/fd fd; for i in 3 4 5 6 7 8; do ln -s /proc/self/fd/$i f$i; done"
    )
    taken, receipt = await pack(box)
    assert b"the-secret-result" not in taken
    assert receipt.entries == 8
    for path in ("/proc/1", "/proc/self", "/workspace/one", "/workspace/fd"):
        with pytest.raises(SandboxError):
            await pack(box, path)


async def test_folders_swapped_for_links_during_the_walk_lead_nowhere(box: Box) -> None:
    await box.run(
        "mkdir /tmp/victim; echo the-secret > /tmp/victim/file; mkdir keep; for i in $(seq 300); do mkdir d$i; done"
    )
    code = (
        "import os\n"
        "open('up', 'w').close()\n"
        "while True:\n"
        "    for i in range(1, 301):\n"
        "        try:\n"
        "            os.rmdir(f'd{i}'); os.symlink('/tmp/victim', f'd{i}')\n"
        "        except OSError:\n"
        "            os.unlink(f'd{i}'); os.mkdir(f'd{i}')\n"
    )
    swapping = asyncio.create_task(box.python(code, exec_id="swapper"))
    await box.until_exists("/workspace/up")
    for _ in range(5):
        taken, _ = await pack(box)
        assert b"the-secret" not in taken
    await box.provider.kill(box.sandbox_id, "swapper")
    await swapping


async def test_a_huge_sparse_file_is_left_out_and_said(box: Box) -> None:
    await box.run(
        "truncate -s 1T huge 2>/dev/null || dd if=/dev/zero of=huge bs=1 count=1 seek=1000000000000; echo x > x"
    )
    taken, receipt = await pack(box)
    assert (len(taken), receipt.entries, receipt.skipped_count) == (2048, 1, 1)
    assert receipt.skipped[0].startswith("huge: its 1")


async def test_a_deep_tree_is_cut_and_said(box: Box) -> None:
    await box.python("import os\nfor _ in range(1500):\n    os.mkdir('d'); os.chdir('d')\n")
    taken, receipt = await pack(box)
    assert (receipt.entries, receipt.skipped_count) == (100, 1)
    assert receipt.skipped[0].endswith("d/d/d: too deep; its content is left out")
    await unpack(box, taken, "/workspace/to")
    depth = "import os\nn = 0\nos.chdir('to')\nwhile os.path.isdir('d'): os.chdir('d'); n += 1\nprint(n)"
    assert (await box.python(depth)).stdout == "100\n"
    with pytest.raises(SandboxError, match="too deep"):
        await unpack(box, archive_of(("d/" * 101, tarfile.DIRTYPE, "")), "/workspace/to")


@pytest.mark.parametrize("exec_id", ["first", "ended"])
async def test_an_exec_id_cannot_be_used_for_another_command(box: Box, exec_id: str) -> None:
    await box.run("echo first >> log; sleep 600", exec_id="first", yield_after_seconds=1)
    await box.run("echo ended >> log", exec_id="ended")
    await box.run(f"echo replayed {python('pass')} >> log", exec_id=exec_id, yield_after_seconds=0)
    assert await box.read("/workspace/log") == b"first\nended\n"
    await box.provider.stop(box.sandbox_id)
    await box.run("echo replayed >> log", exec_id=exec_id)
    assert await box.read("/workspace/log") == b"first\nended\n"
