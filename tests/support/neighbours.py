"""Many sandboxes at once, three of them at war with the machine, and what the others notice."""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from sandbox.contract import ExecRequest, ExecResult, SandboxProvider, SandboxSpec
from tests.support.sandboxes import python

SPEC = SandboxSpec(memory_mb=128, workspace_mb=64, pids=128, lifetime_seconds=900)
ATTACKS = {
    "fork bomb": python(
        "import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "while True:\n    try: os.fork()\n    except OSError: pass"
    ),
    "full disk": "while :; do cat /dev/zero > fill; rm -f fill; done",
    "endless output": "yes; yes >&2",
}
ATTACK_SECONDS = {"fork bomb": 4.0, "full disk": 4.0, "endless output": 60.0}
"""Of one run of an attack; it is ended by its timeout, the output by its limit, and begun anew."""
_numbers = itertools.count(1)


@dataclass
class Town:
    """The sandboxes: those that attack, those that go about their business, and what either came to."""

    provider: SandboxProvider
    attackers: list[str]
    others: list[str]
    attacks: dict[str, list[ExecResult]] = field(default_factory=dict[str, list[ExecResult]])

    async def business(self, seconds: float, *, pause: float) -> list[tuple[float, ExecResult]]:
        """Have each of the others run a command now and then; return how many ms each took, and its result."""
        until = time.monotonic() + seconds
        found = await asyncio.gather(
            *(self._business(one, until, pause, number) for number, one in enumerate(self.others))
        )
        return [each for rows in found for each in rows]

    async def _business(self, one: str, until: float, pause: float, number: int) -> list[tuple[float, ExecResult]]:
        found: list[tuple[float, ExecResult]] = []
        await asyncio.sleep(pause * number / len(self.others))
        while time.monotonic() < until:
            began = time.perf_counter()
            result = await self.run(one, f"echo {one}")
            found.append(((time.perf_counter() - began) * 1000, result))
            await asyncio.sleep(pause)
        return found

    async def run(self, sandbox_id: str, command: str, seconds: float = 60) -> ExecResult:
        """Run one command."""
        asked = ExecRequest(exec_id=f"exec_{next(_numbers)}", command=command, timeout_seconds=seconds)
        return await self.provider.execute(sandbox_id, asked)

    @asynccontextmanager
    async def under_attack(self) -> AsyncGenerator[None]:
        """Let the attackers loose meanwhile, and wait until their last attack has been ended."""
        over = asyncio.Event()
        attacks = zip(self.attackers, ATTACKS.items(), strict=True)
        running = [asyncio.create_task(self._attack(over, one, *attack)) for one, attack in attacks]
        try:
            yield
        finally:
            over.set()
            await asyncio.gather(*running)

    async def _attack(self, over: asyncio.Event, one: str, name: str, command: str) -> None:
        while not over.is_set():
            self.attacks.setdefault(name, []).append(await self.run(one, command, ATTACK_SECONDS[name]))


@asynccontextmanager
async def town(provider: SandboxProvider, size: int) -> AsyncGenerator[Town]:
    """Start so many sandboxes, and end them."""
    ids = [f"sbx_town_{number}" for number in range(size)]
    try:
        for some in batched(ids, 4):
            await asyncio.gather(*(provider.provision(one, SPEC) for one in some))
        yield Town(provider, attackers=ids[: len(ATTACKS)], others=ids[len(ATTACKS) :])
    finally:
        for one in ids:
            with suppress(Exception):
                await provider.destroy(one)


def batched(ids: Sequence[str], size: int) -> list[Sequence[str]]:
    """Return the ids in groups."""
    return [ids[start : start + size] for start in range(0, len(ids), size)]
