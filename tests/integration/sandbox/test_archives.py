"""Folders out of a sandbox and into another, as tar archives."""

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator

import pytest

from sandbox.contract import ArchiveReceipt, SandboxError
from tests.support.sandboxes import SMALL, Box, pieces

LIMIT = 64 << 20
_TREE = """
mkdir -p a/deep/er empty closed; printf 12345 > a/file; : > nothing; chmod 750 a/file; chmod 500 closed
ln -s a/file link; ln -s /etc/shadow out; ln -s nowhere dangling
echo x > "$(printf 'odd\\377\\n name')"; echo long > a/$(printf '%0200d' 7); mkdir -p $(printf '%0120d/' 1 2 3)
seq 1 300000 > a/deep/big; touch -d @1000000000 a/file a/deep; chmod 2711 a/deep/er
"""
_LIST = """
find . -mindepth 1 -exec stat -c '%n %F %s %a %Y' {} + | grep -v directory | sort
find . -type d -exec stat -c '%n %a %Y' {} + | sort; readlink link out dangling; cat a/deep/big | cksum
"""


async def pack(box: Box, path: str = "/workspace", *, limit: int = LIMIT) -> tuple[bytes, ArchiveReceipt]:
    taken = bytearray()

    async def sink(data: bytes) -> None:
        taken.extend(data)

    receipt = await box.provider.read_archive(box.sandbox_id, path, max_bytes=limit, sink=sink)
    return bytes(taken), receipt


def listed(archive: bytes) -> list[tarfile.TarInfo]:
    """Return the entries as the standard library sees them."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as file:
        return file.getmembers()


def names(archive: bytes) -> list[str]:
    return [entry.name for entry in listed(archive)]


async def unpack(box: Box, archive: bytes, path: str = "/workspace", *, limit: int = LIMIT) -> ArchiveReceipt:
    return await box.provider.write_archive(box.sandbox_id, path, pieces(archive), max_bytes=limit)


async def another(box: Box) -> Box:
    sandbox_id = f"{box.sandbox_id}_b"
    await box.provider.provision(sandbox_id, SMALL)
    return Box(provider=box.provider, sandbox_id=sandbox_id, make_provider=box.make_provider)


async def test_a_tree_is_the_same_in_another_sandbox(box: Box) -> None:
    await box.run(_TREE)
    archive, receipt = await pack(box)
    assert (receipt.bytes, receipt.skipped, receipt.skipped_count) == (len(archive), [], 0)
    other = await another(box)
    back = await unpack(other, archive)
    assert back.entries == receipt.entries == len(names(archive))
    before, after = (await box.run(_LIST)).stdout, (await other.run(_LIST)).stdout
    assert [line for line in after.splitlines() if not line.startswith(". ")] == [
        line.replace("2711", "711") for line in before.splitlines() if not line.startswith(". ")
    ]


async def test_an_archive_of_a_stopped_sandbox_can_be_had(box: Box) -> None:
    await box.run("echo kept > file; sleep 600 &")
    await box.provider.stop(box.sandbox_id)
    archive, _ = await pack(box)
    assert names(archive) == ["file"]


async def test_what_an_archive_cannot_hold_is_said(box: Box) -> None:
    await box.run("mkfifo pipe; echo secret > closed; chmod 0 closed; mkdir dark; chmod 0 dark; echo x > file")
    archive, receipt = await pack(box)
    assert set(names(archive)) == {"dark", "file"}
    assert receipt.skipped_count == len(receipt.skipped) == 3
    assert "pipe: a socket, pipe or device" in receipt.skipped
    assert "closed: Permission denied" in receipt.skipped


async def test_an_archive_keeps_its_limit_and_names_what_is_missing(box: Box) -> None:
    await box.run("head -c 300000 /dev/zero > big; for i in $(seq 50); do echo $i > small$i; done; mkdir z; : > z/in")
    archive, receipt = await pack(box, limit=100_000)
    assert len(archive) == receipt.bytes <= 100_000
    assert len(names(archive)) == receipt.entries == 52
    assert receipt.skipped == ["big: its 300000 bytes are over the limit of the archive"]
    _, cramped = await pack(box, limit=10_000)
    assert (cramped.skipped_count, len(cramped.skipped)) == (53 - cramped.entries, 20)


async def test_a_file_that_is_written_meanwhile_spoils_nothing(box: Box) -> None:
    await box.run("echo a > a; head -c 20000000 /dev/zero > b; echo c > c")
    taken = bytearray()

    async def sink(data: bytes) -> None:
        if len(taken) < 1_000_000 <= len(taken) + len(data):
            assert (await box.run("head -c 5 /dev/zero > b")).exit_code == 0
        taken.extend(data)

    receipt = await box.provider.read_archive(box.sandbox_id, "/workspace", max_bytes=LIMIT, sink=sink)
    assert receipt.skipped == ["b: changed while it was read"]
    assert [(entry.name, entry.size) for entry in listed(bytes(taken))] == [("a", 2), ("b", 20_000_000), ("c", 2)]


async def test_an_archive_is_merged_into_what_is_there(box: Box) -> None:
    await box.run("mkdir -p a/b; echo new > a/b/file; echo more > a/more")
    archive, _ = await pack(box)
    other = await another(box)
    await other.run("mkdir -p a/b; echo old > a/b/file; echo mine > a/b/mine; ln -s /etc/passwd a/more")
    await unpack(other, archive)
    assert (await other.run("cat a/b/file a/b/mine a/more; ls -A")).stdout == "new\nmine\nmore\na\n"


async def test_a_missing_folder_is_made(box: Box) -> None:
    await box.run("mkdir x; echo 1 > x/y")
    archive, _ = await pack(box, "/workspace/x")
    await unpack(box, archive, "/workspace/new/place")
    assert await box.read("/workspace/new/place/y") == b"1\n"


async def test_what_is_in_the_way_is_named_and_nothing_is_changed(box: Box) -> None:
    # In the middle: in whichever order a folder is read, something comes before it.
    await box.run("mkdir -p middle/dir; for f in first middle/dir/file zlast; do echo new > $f; done")
    archive, _ = await pack(box)
    other = await another(box)
    await other.run("mkdir -p elsewhere; ln -s ../elsewhere middle; echo old > first; echo old > zlast")
    with pytest.raises(SandboxError, match="'middle' is a folder in it and none there") as caught:
        await unpack(other, archive)
    assert caught.value.code == "archive_refused"
    assert (
        await other.run("ls -A . elsewhere; cat first zlast")
    ).stdout == ".:\nelsewhere\nfirst\nmiddle\nzlast\n\nelsewhere:\nold\nold\n"


@pytest.mark.parametrize("cut", [0, 1, 511, 512, 1000, 1536, 2560, 3071])
async def test_an_archive_that_breaks_off_leaves_nothing(box: Box, cut: int) -> None:
    await box.run("mkdir from; echo x > from/a; echo x > from/b")
    archive, _ = await pack(box, "/workspace/from")
    assert len(archive) == 3072
    with pytest.raises(SandboxError, match="breaks off") as caught:
        await unpack(box, archive[:cut], "/workspace/to")
    assert caught.value.code == "archive_refused"
    assert (await box.run("ls -A to")).stdout == ""


async def test_an_upload_that_is_given_up_leaves_nothing(box: Box) -> None:
    await box.run("for i in $(seq 100); do echo x > $i; done")
    archive, _ = await pack(box)

    async def broken() -> AsyncIterator[bytes]:
        yield archive[:30_000]
        assert (await box.run("ls -A | grep -c bulkhead")).stdout == "1\n"
        raise RuntimeError("the source went away")

    with pytest.raises(RuntimeError, match="went away"):
        await box.provider.write_archive(box.sandbox_id, "/workspace", broken(), max_bytes=LIMIT)
    assert "bulkhead" not in (await box.run("ls -A")).stdout


async def test_an_upload_whose_worker_dies_leaves_nothing(box: Box) -> None:
    await box.run("for i in $(seq 100); do echo x > $i; done")
    archive, _ = await pack(box)
    other, halfway = box.make_provider(), asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield archive[:30_000]
        halfway.set()
        await asyncio.Event().wait()

    writing = asyncio.create_task(other.write_archive(box.sandbox_id, "/workspace", endless(), max_bytes=LIMIT))
    await halfway.wait()
    await other.close()
    writing.cancel()
    await asyncio.wait([writing])
    gone = await box.run("until ! ls -A | grep bulkhead; do :; done; ls -A | wc -l", timeout_seconds=30)
    assert gone.stdout.split()[-1] == "100"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/workspace/none", "file_not_found"),
        ("/workspace/file", "file_refused"),
        ("/workspace/link", "file_refused"),
        ("/workspace/../etc", "file_refused"),
        ("/proc/self/fd", "file_refused"),
        ("/proc", "file_refused"),
        ("/workspace/nul\0byte", "file_refused"),
    ],
)
async def test_what_is_no_folder_is_refused(box: Box, path: str, code: str) -> None:
    await box.run("echo x > file; ln -s /etc link")
    with pytest.raises(SandboxError) as caught:
        await pack(box, path)
    assert caught.value.code == code


async def test_commands_run_while_a_big_archive_is_made(box: Box) -> None:
    await box.run("for i in $(seq 3000); do echo x > $i; done; head -c 30000000 /dev/zero > big")
    during: list[str] = []

    async def sink(_: bytes) -> None:
        if len(during) < 3:
            during.append((await box.run("echo meanwhile")).stdout)

    receipt = await box.provider.read_archive(box.sandbox_id, "/workspace", max_bytes=LIMIT, sink=sink)
    assert (receipt.entries, during) == (3001, ["meanwhile\n"] * 3)
