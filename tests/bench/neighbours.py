"""Fifty sandboxes, three of them hostile: how much longer the others' commands take than in peace."""

import os
import statistics
import tempfile
from pathlib import Path

from sandbox.namespace import NamespaceProvider
from tests.bench.figures import Figure, figure, p95, progress
from tests.support.neighbours import town

_SANDBOXES = 50
_SECONDS = 15.0
_PAUSE_SECONDS = 1.0
_ROUNDS = 3


async def measure(_: int) -> list[Figure]:
    """Measure the peace and the attack in turns."""
    peace: list[float] = []
    war: list[float] = []
    ratios: list[float] = []
    with tempfile.TemporaryDirectory(prefix="bulkhead-bench-") as name:
        folder = Path(name)
        provider = NamespaceProvider(
            state_dir=folder / "state", cache_dir=folder / "cache", installation=f"bench{os.getpid()}"
        )
        progress(f"{_SANDBOXES} namespace sandboxes, three of them hostile")
        async with town(provider, _SANDBOXES) as people:
            for _ in range(_ROUNDS):
                calm = [took for took, _ in await people.business(_SECONDS, pause=_PAUSE_SECONDS)]
                async with people.under_attack():
                    hurt = [took for took, _ in await people.business(_SECONDS, pause=_PAUSE_SECONDS)]
                peace, war = peace + calm, war + hurt
                ratios.append(p95(hurt) / p95(calm))
        await provider.close()
    floor = f"without the three p50 {statistics.median(peace):.1f}, p95 {p95(peace):.1f} ms"
    return [
        figure("execute beside a fork bomb, a full disk, endless output", war, floor=floor),
        figure("its p95, of that without the three", ratios, unit="×", goal="≤ 2"),
    ]
