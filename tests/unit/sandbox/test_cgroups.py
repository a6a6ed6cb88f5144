"""Where limits are written, in either version's layout; a folder stands in for the kernel's."""

from pathlib import Path

import pytest

from sandbox.cgroups import Cgroups, Limits

_LIMITS = Limits(memory_bytes=1 << 30, pids=64, cpus=1.5)


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_version_2_has_one_folder_for_all_controllers(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids")
    made = Cgroups("here", root=tmp_path).create("sbx_1", _LIMITS)
    folder = tmp_path / "bulkhead-here-sbx_1"
    assert made.entrances == [folder / "cgroup.procs"]
    assert made.oom_file == folder / "memory.events"
    assert made.isolation == {"memory_limit": True, "pids_limit": True, "cpu_limit": True}
    assert content(folder) == {
        "memory.max": str(1 << 30),
        "memory.swap.max": "0",
        "pids.max": "64",
        "cpu.max": "150000 100000",
    }


def test_version_1_has_a_folder_per_controller(tmp_path: Path) -> None:
    for controller in ("memory", "pids", "cpu", "cpuacct"):
        (tmp_path / controller).mkdir()
    made = Cgroups("here", root=tmp_path).create("sbx_1", _LIMITS)
    assert made.entrances == [
        tmp_path / controller / "bulkhead-here-sbx_1" / "tasks" for controller in ("memory", "pids", "cpu", "cpuacct")
    ]
    assert made.isolation.keys() == {"memory_limit", "pids_limit", "cpu_limit"}
    assert content(tmp_path / "cpu" / "bulkhead-here-sbx_1")["cpu.cfs_quota_us"] == "150000"
    assert made.oom_file == tmp_path / "memory" / "bulkhead-here-sbx_1" / "memory.oom_control"


def test_what_cannot_be_had_is_named_and_the_rest_is_used(tmp_path: Path) -> None:
    (tmp_path / "memory").write_text("not a folder")
    (tmp_path / "pids").mkdir()
    (tmp_path / "cpu").mkdir()
    made = Cgroups("here", root=tmp_path).create("sbx_1", _LIMITS)
    assert str(made.isolation["memory_limit"]).startswith("not effective: ")
    assert made.isolation["pids_limit"] is True
    assert made.oom_file is None


def test_removing_what_never_was_is_no_error(tmp_path: Path) -> None:
    Cgroups("here", root=tmp_path).remove("sbx_1")


@pytest.mark.parametrize("layout", ["unified", "split"])
def test_an_empty_group_is_removed(tmp_path: Path, layout: str) -> None:
    if layout == "unified":
        (tmp_path / "cgroup.controllers").write_text("")
    folder = tmp_path / ("" if layout == "unified" else "pids") / "bulkhead-here-sbx_1"
    folder.mkdir(parents=True)
    Cgroups("here", root=tmp_path).remove("sbx_1")
    assert not folder.exists()
