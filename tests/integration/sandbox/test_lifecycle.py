"""From provisioning to the end, also an end that nobody asked for."""

import asyncio
import shutil
from pathlib import Path

import pytest

from sandbox.contract import ExecRequest, SandboxError, SandboxLostError, SandboxProvider, SandboxSpec
from tests.support.sandboxes import SMALL, Box, ProviderFactory, pieces


async def test_a_sandbox_says_what_confines_it(provider: SandboxProvider) -> None:
    info = await provider.provision("sbx_new", SMALL)
    assert (info.sandbox_id, info.provider) == ("sbx_new", provider.name)
    for control in ("pid_namespace", "no_capabilities", "no_new_privileges", "seccomp", "read_only_root"):
        assert info.isolation_effective[control] is True
    assert info.isolation_effective["network"] == "none"


async def test_provisioning_again_returns_the_same_sandbox(box: Box) -> None:
    await box.run("echo mine > mark")
    again = await asyncio.gather(*(box.provider.provision(box.sandbox_id, SMALL) for _ in range(3)))
    assert {info.sandbox_id for info in again} == {box.sandbox_id}
    assert await box.read("/workspace/mark") == b"mine\n"


async def test_provisioning_at_once_makes_one_sandbox(
    provider: SandboxProvider, make_provider: ProviderFactory
) -> None:
    other = make_provider()
    try:
        await asyncio.gather(*(each.provision("sbx_one", SMALL) for each in (provider, other, provider)))
        await provider.execute("sbx_one", ExecRequest(exec_id="write", command="echo mine > mark"))
        read = await other.execute("sbx_one", ExecRequest(exec_id="read", command="cat mark"))
        assert read.stdout == "mine\n"
    finally:
        await other.close()


async def test_another_instance_finds_lists_and_ends_a_sandbox(box: Box) -> None:
    other = box.make_provider()
    try:
        assert box.sandbox_id in await other.list_ids()
        await other.destroy(box.sandbox_id)
        assert box.sandbox_id not in await other.list_ids()
    finally:
        await other.close()


async def test_what_is_destroyed_is_lost_to_everyone(box: Box) -> None:
    waiting = asyncio.create_task(box.run("touch up; sleep 600"))
    await box.until_exists("/workspace/up")
    await box.provider.destroy(box.sandbox_id)
    with pytest.raises(SandboxLostError):
        await waiting
    calls = [
        box.run("true"),
        box.provider.exec_state(box.sandbox_id, "any"),
        box.provider.kill(box.sandbox_id, "any"),
        box.provider.list_files(box.sandbox_id, "/"),
        box.read("/workspace/file"),
        box.write("/workspace/file", b"x"),
    ]
    for call in calls:
        with pytest.raises(SandboxLostError):
            await call


async def test_destroying_twice_or_what_never_was_is_no_error(box: Box) -> None:
    await box.provider.destroy(box.sandbox_id)
    await box.provider.destroy(box.sandbox_id)
    await box.provider.destroy("sbx_never")


async def test_a_sandbox_ends_itself_at_its_deadline(provider: SandboxProvider) -> None:
    await provider.provision("sbx_brief", SMALL.model_copy(update={"lifetime_seconds": 2}))
    with pytest.raises(SandboxLostError):
        await provider.execute("sbx_brief", ExecRequest(exec_id="long", command="sleep 600", timeout_seconds=600))
    with pytest.raises(SandboxLostError):
        await provider.exec_state("sbx_brief", "long")


async def test_a_sandbox_whose_folder_is_wiped_from_the_host_ends_itself(
    provider: SandboxProvider, tmp_path: Path
) -> None:
    if provider.name != "namespace":
        pytest.skip("a container keeps nothing in the file system of the worker")
    await provider.provision("sbx_wiped", SMALL)
    await asyncio.to_thread(shutil.rmtree, tmp_path / "sandboxes")
    with pytest.raises(SandboxLostError):
        await provider.execute("sbx_wiped", ExecRequest(exec_id="long", command="sleep 600", timeout_seconds=600))


async def test_an_id_whose_sandbox_has_ended_is_not_given_an_empty_one(provider: SandboxProvider) -> None:
    if provider.name == "docker":
        pytest.skip("the engine removes an ended container and with it all knowledge of its id")
    await provider.provision("sbx_brief", SMALL.model_copy(update={"lifetime_seconds": 1}))
    with pytest.raises(SandboxLostError):
        await provider.execute("sbx_brief", ExecRequest(exec_id="long", command="sleep 600"))
    with pytest.raises(SandboxError, match="use a new id"):
        await provider.provision("sbx_brief", SMALL)


async def test_sandboxes_share_nothing(provider: SandboxProvider) -> None:
    await provider.provision("sbx_a", SMALL)
    await provider.provision("sbx_b", SMALL)
    for folder in ("/workspace", "/tmp", "/home/agent", "/dev/shm"):
        await provider.write_file("sbx_a", f"{folder}/mark", pieces(b"a"))
        assert "mark" not in str(await provider.list_files("sbx_b", folder))


@pytest.mark.parametrize("sandbox_id", ["../escape", "", "a/b", "sbx_a\n"])
async def test_an_odd_id_is_refused(provider: SandboxProvider, sandbox_id: str) -> None:
    with pytest.raises(SandboxError):
        await provider.provision(sandbox_id, SMALL)
    assert await provider.list_ids() == []


async def test_an_image_that_cannot_be_had_is_named(provider: SandboxProvider) -> None:
    spec = SandboxSpec(image="127.0.0.1:1/no/such:image")
    with pytest.raises(SandboxError, match="no/such:image") as caught:
        await provider.provision("sbx_image", spec)
    assert caught.value.code == "provision_failed"
    assert await provider.list_ids() == []


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_the_worker_keeps_no_process_or_descriptor_of_an_ended_sandbox(provider: SandboxProvider) -> None:
    async def cycle(number: int) -> None:
        await provider.provision(f"sbx_{number}", SMALL)
        await provider.execute(f"sbx_{number}", ExecRequest(exec_id="x", command="true"))
        await provider.destroy(f"sbx_{number}")

    # The client library keeps a few connections to the engine; how many it has settled on shows after some rounds.
    for number in range(4):
        await cycle(number)
    before = descriptors()
    for number in range(4, 7):
        await cycle(number)
    assert descriptors() <= before + 1


async def test_a_renewed_sandbox_outlives_its_first_deadline(provider: SandboxProvider) -> None:
    await provider.provision("sbx_renewed", SMALL.model_copy(update={"lifetime_seconds": 2}))
    await provider.renew("sbx_renewed", 300)
    result = await provider.execute("sbx_renewed", ExecRequest(exec_id="long", command="sleep 3; echo alive"))
    assert result.stdout == "alive\n"
    await provider.renew("sbx_renewed", 1)
    with pytest.raises(SandboxLostError):
        await provider.execute("sbx_renewed", ExecRequest(exec_id="longer", command="sleep 600"))


async def test_a_stopped_sandbox_runs_nothing_but_can_be_read(box: Box) -> None:
    await box.run("echo kept > file; sleep 600 & true", exec_id="before")
    running = await box.run("trap '' TERM; echo here; sleep 600", yield_after_seconds=1)
    assert [await box.provider.stop(box.sandbox_id) for _ in range(2)] == [0, 0]
    result = await box.provider.read_output(box.sandbox_id, running.exec_id)
    assert (result.status, result.stdout) == ("killed", "here\n")
    with pytest.raises(SandboxError) as caught:
        await box.run("true")
    assert caught.value.code == "sandbox_stopped"
    assert (await box.run("anything", exec_id="before")).exit_code == 0
    assert await box.read("/workspace/file") == b"kept\n"
