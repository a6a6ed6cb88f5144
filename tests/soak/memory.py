"""What the parts of a control plane take of the machine, looked at now and then."""

import asyncio
import contextlib
import statistics
import time

import psutil

from tests.support.stack import Stack

_LOOK_SECONDS = 5.0
_WARM = 3
"""The first of so many parts of the time is warm-up, and not in a slope."""


class Memory:
    """Resident memory by part, of Postgres with every process, and the processor time that they all used."""

    def __init__(self, stack: Stack):
        self._stack = stack
        self._looks: list[tuple[float, dict[str, float]]] = []
        self._cpu: list[tuple[float, float]] = []

    async def __aenter__(self) -> "Memory":
        self._look()
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._look()

    def slopes(self) -> dict[str, str]:
        """Return, by part, how many MB it has and by how many it grew in an hour, after the warm-up."""
        warm = self._looks[len(self._looks) // _WARM :]
        return {part: f"{self._looks[-1][1][part]:.0f} MB, {_slope(warm, part):+.1f} MB/h" for part in self.newest()}

    def newest(self) -> dict[str, float]:
        """Return the MB of each part at the last look."""
        return {part: round(size, 1) for part, size in self._looks[-1][1].items()}

    def cpu_percent(self) -> float:
        """Return how much of one processor all parts used together."""
        (began, before), (ended, after) = self._cpu[0], self._cpu[-1]
        return round((after - before) / (ended - began) * 100, 1)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self._look()

    def _look(self) -> None:
        sizes: dict[str, float] = {}
        used = 0.0
        for part, pid in self._stack.parts().items():
            whole = psutil.Process(pid)
            everything = [whole, *(whole.children() if part == "postgres" else [])]
            sizes[part] = 0.0
            for process in everything:
                with contextlib.suppress(psutil.NoSuchProcess):
                    # Shared pages once: Postgres's backends all map the same buffers.
                    sizes[part] += process.memory_full_info().pss / 2**20
                    used += sum(process.cpu_times()[:2])
        now = time.monotonic()
        self._looks.append((now, sizes))
        self._cpu.append((now, used))


def _slope(looks: list[tuple[float, dict[str, float]]], part: str) -> float:
    times = [at / 3600 for at, _ in looks]
    return statistics.linear_regression(times, [sizes[part] for _, sizes in looks]).slope if len(looks) > 2 else 0.0
