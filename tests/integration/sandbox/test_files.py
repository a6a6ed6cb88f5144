"""Files in and out of a sandbox."""

import hashlib
from collections.abc import AsyncIterator

import pytest

from sandbox.contract import SandboxError
from tests.support.sandboxes import Box


async def test_a_file_comes_back_as_it_went_in(box: Box) -> None:
    content = bytes(range(256)) * 10
    assert await box.write("/workspace/a/deep/file.bin", content, mode=0o750) == len(content)
    assert await box.read("/workspace/a/deep/file.bin") == content
    assert (await box.run("stat -c %a a/deep/file.bin")).stdout == "750\n"


async def test_an_empty_file_and_a_relative_path(box: Box) -> None:
    assert await box.write("empty", b"") == 0
    assert await box.read("/workspace/empty") == b""


async def test_a_big_file_goes_both_ways(box: Box) -> None:
    content = b"0123456789abcdef" * (50 << 16)
    await box.write("/workspace/big", content)
    digest = (await box.run("sha256sum big")).stdout.split()[0]
    assert digest == hashlib.sha256(content).hexdigest()
    assert hashlib.sha256(await box.read("/workspace/big")).hexdigest() == digest


async def test_commands_run_while_a_file_is_on_its_way(box: Box) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield b"one"
        assert (await box.run("echo meanwhile")).stdout == "meanwhile\n"
        assert (await box.run("test -e half")).exit_code == 1
        yield b"two"

    assert await box.provider.write_file(box.sandbox_id, "/workspace/half", slowly()) == 6
    assert await box.read("/workspace/half") == b"onetwo"


async def test_an_upload_that_breaks_off_leaves_the_old_file(box: Box) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"new"
        raise RuntimeError("the source went away")

    await box.write("/workspace/kept", b"old")
    with pytest.raises(RuntimeError, match="went away"):
        await box.provider.write_file(box.sandbox_id, "/workspace/kept", broken())
    assert await box.read("/workspace/kept") == b"old"
    assert (await box.run("ls -A")).stdout == "kept\n"


async def test_a_download_that_is_given_up_does_no_harm(box: Box) -> None:
    await box.write("/workspace/file", b"x" * (3 << 20))
    reading = box.provider.read_file(box.sandbox_id, "/workspace/file")
    assert len(await anext(reading)) == 1 << 20
    await reading.aclose()  # type: ignore[attr-defined]  # an async generator behind the contract's iterator
    assert len(await box.read("/workspace/file")) == 3 << 20


async def test_a_link_is_replaced_not_followed_on_write(box: Box) -> None:
    await box.write("/workspace/target", b"target")
    await box.run("ln -s target link")
    await box.write("/workspace/link", b"new")
    assert await box.read("/workspace/target") == b"target"
    assert await box.read("/workspace/link") == b"new"


async def test_links_lead_nowhere_but_inside(box: Box) -> None:
    await box.run("ln -s /etc/shadow out; ln -s ../../../../../../root/.ssh up")
    with pytest.raises(SandboxError) as caught:
        await box.read("/workspace/out")
    assert caught.value.code == "file_not_found"
    with pytest.raises(SandboxError):
        await box.write("/workspace/up/authorized_keys", b"mine")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/workspace/none", "file_not_found"),
        ("/workspace", "file_refused"),
        ("/workspace/fifo", "file_refused"),
        ("/dev/zero", "file_refused"),
        ("/proc/self/environ", "file_refused"),
        ("/proc/self/fd/3", "file_refused"),
        ("/workspace/nul\0byte", "file_refused"),
    ],
)
async def test_what_cannot_be_read_is_refused_with_a_code(box: Box, path: str, code: str) -> None:
    await box.run("mkfifo fifo")
    with pytest.raises(SandboxError) as caught:
        await box.read(path)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "path", ["/usr/evil", "/proc/evil", "/workspace/", "/workspace/..", "/.bulkhead/evil", "/bin/sh"]
)
async def test_what_cannot_be_written_is_refused(box: Box, path: str) -> None:
    with pytest.raises(SandboxError) as caught:
        await box.write(path, b"evil")
    assert caught.value.code in {"file_refused", "file_not_found"}


async def test_a_full_workspace_is_told_and_leaves_nothing_half(box: Box) -> None:
    with pytest.raises(SandboxError, match="No space left"):
        await box.write("/workspace/huge", b"x" * (140 << 20))
    assert (await box.run("ls -A")).stdout == ""


async def test_a_folder_lists_its_entries(box: Box) -> None:
    await box.run("mkdir folder; printf 12345 > file; ln -s file link; mkfifo fifo; touch $(printf 'odd\\377')")
    entries = {
        entry.path: (entry.type, entry.size_bytes) for entry in await box.provider.list_files(box.sandbox_id, ".")
    }
    found = {path.removeprefix("/workspace/./"): kind for path, (kind, _) in entries.items()}
    assert found == {"folder": "folder", "file": "file", "link": "symlink", "fifo": "other", "odd\ufffd": "file"}
    assert entries["/workspace/./file"] == ("file", 5)


async def test_a_file_lists_itself(box: Box) -> None:
    await box.write("/workspace/one", b"abc", mode=0o600)
    (entry,) = await box.provider.list_files(box.sandbox_id, "/workspace/one")
    assert (entry.path, entry.type, entry.size_bytes, entry.mode) == ("/workspace/one", "file", 3, 0o600)


async def test_a_folder_with_too_many_entries_is_refused(box: Box) -> None:
    await box.run("mkdir many; cd many; seq 1 10001 | xargs touch")
    with pytest.raises(SandboxError, match="more than 10000 entries"):
        await box.provider.list_files(box.sandbox_id, "/workspace/many")


async def test_a_link_is_described_itself(box: Box) -> None:
    await box.run("echo 12345 > file; touch -d @1000000000 file; ln -s nowhere link")
    file = await box.provider.stat_file(box.sandbox_id, "/workspace/file")
    assert (file.type, file.size_bytes, file.modified_at.timestamp()) == ("file", 6, 1_000_000_000)
    assert (await box.provider.stat_file(box.sandbox_id, "/workspace/link")).type == "symlink"
    assert (await box.provider.stat_file(box.sandbox_id, "/workspace")).type == "folder"
    with pytest.raises(SandboxError) as caught:
        await box.provider.stat_file(box.sandbox_id, "/workspace/none")
    assert caught.value.code == "file_not_found"
