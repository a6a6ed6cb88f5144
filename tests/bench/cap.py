"""A cgroup that holds the brain and every program that it starts to so much memory together."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil

_LOOK_SECONDS = 0.02


class Cap:
    """The cgroup; programs are moved into it as they appear, out of the one that limits each by itself.

    What a process has in memory when it is moved stays where it was counted: of a program next to nothing.
    """

    def __init__(self, folder: Path, before: int, *, unified: bool):
        self._folder = folder
        self._before = before
        self._unified = unified

    @property
    def peak_mb(self) -> float:
        """The most that was in it at once, files that were read among it."""
        name = "memory.peak" if self._unified else "memory.max_usage_in_bytes"
        return (self._before + int((self._folder / name).read_text())) / 2**20

    @property
    def killed(self) -> int:
        """How many processes the kernel ended because it was full."""
        name = "memory.events" if self._unified else "memory.oom_control"
        counts = dict(line.split() for line in (self._folder / name).read_text().splitlines())
        return int(counts.get("oom_kill", 0))

    async def hold(self, pid: int) -> None:
        """Take a process and all that is below it, and go on doing so."""
        entrance = self._folder / "cgroup.procs"
        while True:
            inside = set(entrance.read_text().split())
            with suppress(psutil.NoSuchProcess):
                root = psutil.Process(pid)
                for process in [root, *root.children(recursive=True)]:
                    if str(process.pid) not in inside:
                        with suppress(ProcessLookupError):
                            entrance.write_text(str(process.pid))
            await asyncio.sleep(_LOOK_SECONDS)


@asynccontextmanager
async def capped(pid: int, *, megabytes: int) -> AsyncGenerator[Cap]:
    """Hold a process and all that it starts to so much memory, until the context ends; raises `OSError`.

    What it has already counts, and what is below it already does not.
    """
    root = Path("/sys/fs/cgroup")
    unified = (root / "cgroup.controllers").exists()
    folder = (root if unified else root / "memory") / f"bulkhead-bench-{os.getpid()}"
    folder.mkdir()
    has = psutil.Process(pid).memory_info().rss
    limit = str(megabytes * 2**20 - has)
    settings = {"memory.max": limit, "memory.swap.max": "0"} if unified else {"memory.limit_in_bytes": limit}
    try:
        for name, value in settings.items():
            (folder / name).write_text(value)
        cap = Cap(folder, has, unified=unified)
        holding = asyncio.create_task(cap.hold(pid))
        try:
            yield cap
        finally:
            holding.cancel()
            await asyncio.wait({holding})
    finally:
        entrance = folder.parent / "cgroup.procs"
        for each in (folder / "cgroup.procs").read_text().split():
            with suppress(OSError):
                entrance.write_text(each)
        with suppress(OSError):
            folder.rmdir()
