"""Who lets others go first; a folder stands in for the kernel's."""

from pathlib import Path

import pytest

from sandbox.cgroups import Cgroups, Limits
from sandbox.fairness import BUSY_CPUS, CALM_SECONDS, LOOK_SECONDS, Fairness


class Kernel:
    """Cgroups in a folder, in either version's layout."""

    def __init__(self, root: Path, layout: str, file: str, share: str, rest: str):
        self._root, self._split, self._file = root, layout == "split", file
        self._said = {share: "share", rest: "rest"}
        for controller in ("memory", "pids", "cpu", "cpuacct") if self._split else ():
            (root / controller).mkdir()
        if not self._split:
            (root / "cgroup.controllers").write_text("")
        self.cgroups = Cgroups("here", root=root)
        for one in ("sbx_a", "sbx_b"):
            self.cgroups.create(one, Limits(memory_bytes=1, pids=1, cpus=1))
            self.used(one, 0)
            if file == "cpu.idle":
                (self._folder("cpu", one) / file).touch()

    def used(self, one: str, seconds: float) -> None:
        if self._split:
            (self._folder("cpuacct", one) / "cpuacct.usage").write_text(str(int(seconds * 1e9)))
        else:
            (self._folder("cpu", one) / "cpu.stat").write_text(f"usage_usec {int(seconds * 1e6)}\nuser_usec 1\n")

    def gets(self, one: str) -> str:
        return self._said[(self._folder("cpu", one) / self._file).read_text()]

    def _folder(self, controller: str, one: str) -> Path:
        return self._root / (controller if self._split else "") / f"bulkhead-here-{one}"


_LAYOUTS = [
    ("split", "cpu.idle", "0", "1"),
    ("unified", "cpu.idle", "0", "1"),
    ("split", "cpu.shares", "1024", "10"),
    ("unified", "cpu.weight", "100", "1"),
]


@pytest.fixture(params=_LAYOUTS, ids=" ".join)
def kernel(request: pytest.FixtureRequest, tmp_path: Path) -> Kernel:
    return Kernel(tmp_path, *request.param)


def test_who_computes_all_the_time_lets_others_go_first_until_it_has_been_calm(kernel: Kernel) -> None:
    fairness = Fairness(kernel.cgroups)
    fairness.look(100.0)
    kernel.used("sbx_a", LOOK_SECONDS)
    kernel.used("sbx_b", LOOK_SECONDS * BUSY_CPUS / 2)
    fairness.look(100.0 + LOOK_SECONDS)
    assert (kernel.gets("sbx_a"), kernel.gets("sbx_b")) == ("rest", "share")
    fairness.look(100.0 + LOOK_SECONDS + CALM_SECONDS / 2)
    assert kernel.gets("sbx_a") == "rest"
    fairness.look(100.0 + LOOK_SECONDS + CALM_SECONDS)
    assert kernel.gets("sbx_a") == "share"


def test_what_an_earlier_worker_left_behind_is_taken_back(kernel: Kernel) -> None:
    kernel.cgroups.put_behind("sbx_a", behind=True)
    Fairness(kernel.cgroups).look(100.0)
    assert kernel.gets("sbx_a") == "share"


def test_sandboxes_that_come_and_go_are_no_trouble(kernel: Kernel, tmp_path: Path) -> None:
    fairness = Fairness(kernel.cgroups)
    fairness.look(100.0)
    for folder in tmp_path.glob("**/bulkhead-here-sbx_a"):
        folder.rename(folder.with_name("gone"))
    kernel.used("sbx_b", 9.0)
    fairness.look(101.0)
    assert kernel.gets("sbx_b") == "rest"
