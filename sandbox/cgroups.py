"""Limits of memory, processes and CPU time for a namespace sandbox, where this machine lets us set them."""

import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

CPU_PERIOD_US = 100_000
_IDLE = ("cpu.idle", "0", "1")
_WEIGHTS = {True: ("cpu.weight", "100", "1"), False: ("cpu.shares", "1024", "10")}
"""Name, default and least of what counts beside others; before Linux 5.15, which knows no idle groups."""
_CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")
REMOVE_SECONDS = 2.0
"""A cgroup can be removed only after the kernel has let go of its last process."""


@dataclass(frozen=True)
class Limits:
    """What a sandbox may use."""

    memory_bytes: int
    pids: int
    cpus: float


@dataclass
class Cgroup:
    """What took effect. Writing ``0`` to an entrance joins; ``oom_file`` counts kills for want of memory."""

    entrances: list[Path] = field(default_factory=list[Path])
    oom_file: Path | None = None
    isolation: dict[str, bool | str] = field(default_factory=dict[str, bool | str])


class Cgroups:
    """Makes and removes the cgroups of one installation, in either version's layout."""

    def __init__(self, installation: str, *, family: str = "bulkhead", root: Path = Path("/sys/fs/cgroup")):
        self._root = root
        self._prefix = f"{family}-{installation}-"

    def create(self, sandbox_id: str, limits: Limits) -> Cgroup:
        """Make what can be made; each control that cannot be had is named with the reason."""
        made = Cgroup()
        unified = self._unified
        for controller, settings in _settings(limits, unified=unified).items():
            folder = self._folder(controller, sandbox_id)
            try:
                if unified:
                    (self._root / "cgroup.subtree_control").write_text(f"+{controller}")
                folder.mkdir(exist_ok=True)
                for name, value in settings.items():
                    self._set(folder, name, value)
            except OSError as error:
                if settings:
                    made.isolation[f"{controller}_limit"] = f"not effective: {error.strerror}: {folder}"
                continue
            if settings:
                made.isolation[f"{controller}_limit"] = True
            # To move a process the kernel stops all forks of the machine first, 10 ms; a thread that moves itself is
            # spared that, and who joins has only one. Version 2 knows no such way for what has limits of memory.
            entrance = folder / ("cgroup.procs" if unified else "tasks")
            if entrance not in made.entrances:
                made.entrances.append(entrance)
            if controller == "memory":
                made.oom_file = folder / ("memory.events" if unified else "memory.oom_control")
        return made

    def _set(self, folder: Path, name: str, value: str) -> None:
        try:
            (folder / name).write_text(value)
        except OSError:
            # Accounting of swap may be switched off; without swap it changes nothing.
            if "sw" not in name:
                raise

    @property
    def _unified(self) -> bool:
        return (self._root / "cgroup.controllers").exists()

    def _parent(self, controller: str) -> Path:
        return self._root if self._unified else self._root / controller

    def _folder(self, controller: str, sandbox_id: str) -> Path:
        return self._parent(controller) / f"{self._prefix}{sandbox_id}"

    def cpu_seconds(self) -> dict[str, float]:
        """Return how much CPU time each sandbox has used so far; those without accounting are left out."""
        name, field_number, unit = ("cpu.stat", 1, 1e6) if self._unified else ("cpuacct.usage", 0, 1e9)
        found: dict[str, float] = {}
        for sandbox_id, folder in self._made("cpuacct"):
            with suppress(OSError, ValueError, IndexError), (folder / name).open("rb") as file:
                found[sandbox_id] = int(file.read().split()[field_number]) / unit
        return found

    def ids(self) -> set[str]:
        """Return the sandboxes of which there is a group, whether or not there is anything else."""
        return {sandbox_id for controller in _CONTROLLERS for sandbox_id, _ in self._made(controller)}

    def _made(self, controller: str) -> list[tuple[str, Path]]:
        try:
            folders = [each for each in self._parent(controller).iterdir() if each.name.startswith(self._prefix)]
        except OSError:
            return []
        return [(folder.name.removeprefix(self._prefix), folder) for folder in folders]

    def put_behind(self, sandbox_id: str, *, behind: bool) -> None:
        """Have a sandbox get only the CPU time that nobody else wants, or its share; one that is gone is left out."""
        folder = self._folder("cpu", sandbox_id)
        name, share, rest = _IDLE if (folder / _IDLE[0]).exists() else _WEIGHTS[self._unified]
        with suppress(OSError):
            (folder / name).write_text(rest if behind else share)

    def remove(self, sandbox_id: str) -> None:
        """Remove a sandbox's cgroups once they are empty; what was never there doesn't matter."""
        until = time.monotonic() + REMOVE_SECONDS
        for controller in _CONTROLLERS:
            folder = self._folder(controller, sandbox_id)
            while folder.exists():
                try:
                    folder.rmdir()
                except OSError:
                    if time.monotonic() > until:
                        return
                    time.sleep(0.005)


def _settings(limits: Limits, *, unified: bool) -> dict[str, dict[str, str]]:
    memory, quota = str(limits.memory_bytes), str(int(limits.cpus * CPU_PERIOD_US))
    if unified:
        return {
            "memory": {"memory.max": memory, "memory.swap.max": "0"},
            "pids": {"pids.max": str(limits.pids)},
            "cpu": {"cpu.max": f"{quota} {CPU_PERIOD_US}"},
        }
    return {
        "memory": {"memory.limit_in_bytes": memory, "memory.memsw.limit_in_bytes": memory},
        "pids": {"pids.max": str(limits.pids)},
        "cpu": {"cpu.cfs_period_us": str(CPU_PERIOD_US), "cpu.cfs_quota_us": quota},
        "cpuacct": {},
    }
