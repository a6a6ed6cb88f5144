"""CPU time among neighbours: a sandbox that has used much of it lately lets the others go first.

A command passes through half a dozen processes. Beside a few neighbours that compute without end, each of them would
wait for its turn; before neighbours that are put behind it goes at once. Who is alone on the machine loses nothing.
"""

import asyncio
from dataclasses import dataclass

from sandbox.cgroups import Cgroups

LOOK_SECONDS = 0.2
"""A look at fifty sandboxes takes a millisecond."""
BUSY_CPUS = 0.2
"""Several that compute at once get less than half of one each; a command of a few programs uses a hundredth."""
CALM_SECONDS = 2.0
"""How long a sandbox must have used less before it counts in full again, so that pauses are no way around it."""


@dataclass
class _Seen:
    at: float
    cpu_seconds: float
    busy_until: float
    behind: bool = True
    """At first sight: an earlier worker may have left it so."""


class Fairness:
    """Watches the sandboxes of one installation; without cgroups there is nothing to see."""

    def __init__(self, cgroups: Cgroups):
        self._cgroups = cgroups
        self._seen: dict[str, _Seen] = {}

    def look(self, now: float) -> None:
        """Compare with the last look, and change the place of whoever has become busy or calm."""
        used = self._cgroups.cpu_seconds()
        self._seen = {
            one: self._seen.get(one) or _Seen(now, seconds, busy_until=now) for one, seconds in used.items()
        }
        for one, seen in self._seen.items():
            if used[one] - seen.cpu_seconds > BUSY_CPUS * (now - seen.at):
                seen.busy_until = now + CALM_SECONDS
            seen.at, seen.cpu_seconds = now, used[one]
            if seen.behind != (now < seen.busy_until):
                seen.behind = not seen.behind
                self._cgroups.put_behind(one, behind=seen.behind)

    async def keep(self) -> None:
        """Look now and then until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.to_thread(self.look, loop.time())
            await asyncio.sleep(LOOK_SECONDS)
