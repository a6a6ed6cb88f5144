"""Sandboxes that are up before a session asks: made in the background, claimed once, never given to a second one."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from sandbox.contract import ProviderName, SandboxError, SandboxProvider
from sandbox.records import Kind, WarmRecords

if TYPE_CHECKING:  # as in `keeper.py`
    from sandbox.outlet import WaysOut

WANTED = timedelta(minutes=30)
"""A kind that no session has asked for in this long is kept warm no more."""

MAX_KINDS = 4
"""Each warm sandbox holds some 20 MB; those of the kinds asked for last are most likely to be asked for next."""

REFILL_SECONDS = 1.0
"""After a claim: what the session does with its sandbox goes first."""

LOOK_SECONDS = 30.0
"""Between looks when nothing is claimed; a failed attempt is repeated then."""

UNREADY = timedelta(minutes=5)
"""A sandbox that has not come up in this long has lost the worker that made it."""

_log = structlog.get_logger(__name__)


class Pool:
    """Keeps ``size`` sandboxes warm of each kind that was asked for lately on this host.

    It only forgets rows: a sandbox that has none, because nobody wants it or its maker died, is the reaper's.
    """

    def __init__(
        self,
        *,
        records: WarmRecords,
        providers: Mapping[ProviderName, SandboxProvider],
        outlets: "WaysOut",
        host: str,
        size: int,
    ):
        self._records = records
        self._providers = providers
        self._outlets = outlets
        self._host = host
        self._size = size
        self._wanted: OrderedDict[str, tuple[Kind, float]] = OrderedDict()
        self._asked = asyncio.Event()

    def want(self, kind: Kind) -> None:
        """Note that a session has asked for a kind."""
        self._wanted[kind.key] = (kind, time.monotonic())
        self._wanted.move_to_end(kind.key)
        if len(self._wanted) > MAX_KINDS:
            self._wanted.popitem(last=False)
        self._asked.set()

    async def run(self) -> None:
        """Refill until cancelled; what fails is tried again at the next look."""
        while True:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._asked.wait()
                await asyncio.sleep(REFILL_SECONDS)
            except TimeoutError:
                pass
            self._asked.clear()
            try:
                await self.fill()
            except Exception as error:  # noqa: BLE001 - a pool that stops is worse than one that failed
                _log.warning("pool_not_filled", cause=str(error))

    async def fill(self) -> None:
        """Make what is missing, and end what nobody asks for any more."""
        since = time.monotonic() - WANTED.total_seconds()
        for key in [key for key, (_, asked) in self._wanted.items() if asked < since]:
            del self._wanted[key]
        await self._records.drop_stale(
            self._host, wanted=list(self._wanted), unwanted_for=WANTED, unready_for=UNREADY
        )
        for kind, _ in reversed(list(self._wanted.values())):
            while (sandbox_id := await self._records.reserve(self._host, kind, at_most=self._size)) is not None:
                await self._make(sandbox_id, kind)

    async def _make(self, sandbox_id: str, kind: Kind) -> None:
        provider = self._providers[kind.provider]
        try:
            await provider.provision(sandbox_id, kind.spec)
            if kind.way_out:
                await self._outlets.prepare(sandbox_id, provider)
        except SandboxError:
            await self._records.drop(sandbox_id)
            raise
        await self._records.ready(sandbox_id)
        _log.info("sandbox_warm", sandbox_id=sandbox_id, provider=kind.provider)
