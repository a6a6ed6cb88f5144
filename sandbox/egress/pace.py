"""How fast a sandbox may be refused."""

import asyncio

from sandbox.egress.limits import REFUSALS_AT_ONCE, REFUSALS_PER_SECOND


class RefusalPace:
    """Lets the refusals of one sandbox through one by one, once there have been many."""

    def __init__(self) -> None:
        self._next_at = float("-inf")

    async def turn(self) -> None:
        """Return when one more may be recorded and answered."""
        now = asyncio.get_running_loop().time()
        self._next_at = max(self._next_at, now - REFUSALS_AT_ONCE / REFUSALS_PER_SECOND) + 1 / REFUSALS_PER_SECOND
        if self._next_at > now:
            await asyncio.sleep(self._next_at - now)
