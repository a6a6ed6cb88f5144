"""Ends what is idle, what has no row, and the rows of what is gone: nothing leaks, whichever process dies when."""

import asyncio
import contextlib
from collections.abc import Mapping
from datetime import timedelta

import structlog

from sandbox.contract import ProviderName, SandboxError, SandboxProvider
from sandbox.keeper import Keeper
from sandbox.records import SandboxRecords, SandboxRow

EXPIRING = timedelta(minutes=2)
"""Before its deadline an unused sandbox is put away while its files can still be kept."""

_log = structlog.get_logger(__name__)


class Reaper:
    """Compares the sandboxes of this host with their rows, both ways."""

    def __init__(
        self,
        *,
        keeper: Keeper,
        records: SandboxRecords,
        providers: Mapping[ProviderName, SandboxProvider],
        host: str,
        idle_seconds: float,
    ):
        self._keeper = keeper
        self._records = records
        self._providers = providers
        self._host = host
        self._idle = timedelta(seconds=idle_seconds)
        self._due = asyncio.Event()
        self._putting: dict[str, asyncio.Task[None]] = {}

    def hurry(self) -> None:
        """Look again at once."""
        self._due.set()

    async def run(self, *, every_seconds: float) -> None:
        """Reap until cancelled; what fails is tried again at the next round, which waits for no files to be kept."""
        try:
            while True:
                self._due.clear()
                try:
                    await self._look()
                except Exception:  # noqa: BLE001 - a reaper that stops is worse than one that failed
                    _log.warning("reap_failed", exc_info=True)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._due.wait(), every_seconds)
        finally:
            for task in self._putting.values():
                task.cancel()
            await self._put()

    async def reap(self) -> None:
        """Look once, and see what is retiring put away."""
        await self._look()
        await self._put()

    async def _put(self) -> None:
        if self._putting:
            await asyncio.wait(self._putting.values())

    def _put_away(self, row: SandboxRow) -> None:
        task = self._putting[row.id] = asyncio.create_task(self._keeper.put_away(row))
        task.add_done_callback(lambda done: self._is_put(row.id, done))

    def _is_put(self, sandbox_id: str, task: asyncio.Task[None]) -> None:
        del self._putting[sandbox_id]
        if not task.cancelled() and (error := task.exception()):
            _log.warning("sandbox_not_put_away", sandbox_id=sandbox_id, cause=str(error))

    async def _look(self) -> None:
        for row in await self._records.end_archived(self._host):
            await self._keeper.destroy(row.provider, row.id)
        for row in await self._records.end_unfinished(self._host):
            await self._keeper.destroy(row.provider, row.id)
        idle = await self._records.retire_idle(self._host, idle=self._idle, expiring=EXPIRING)
        for row in idle:
            if row.id not in self._putting:
                self._put_away(row)
        # What exists is listed between two looks at the rows: a sandbox that is made meanwhile has its row at the
        # second, so that it is no orphan, and was not ready at the first, so that it is not lost.
        before = await self._ready()
        existing = await self._existing()
        await self._reap_orphans(existing)
        for sandbox_id, row in (await self._ready()).items():
            if sandbox_id in before and row.provider in existing and sandbox_id not in existing[row.provider]:
                await self._keeper.lost(row)

    async def _ready(self) -> dict[str, SandboxRow]:
        return {row.id: row for row in await self._records.live(self._host) if row.status == "ready"}

    async def _reap_orphans(self, existing: Mapping[ProviderName, set[str]]) -> None:
        known = await self._records.known(self._host)
        for name, ids in existing.items():
            for orphan in ids - known:
                _log.info("sandbox_orphan_reaped", sandbox_id=orphan, provider=name)
                await self._keeper.destroy(name, orphan)

    async def _existing(self) -> dict[ProviderName, set[str]]:
        """Return the sandboxes by provider; one that cannot say is left out, so that nothing is concluded of it."""
        found: dict[ProviderName, set[str]] = {}
        for name, provider in self._providers.items():
            try:
                found[name] = set(await provider.list_ids())
            except SandboxError as error:
                _log.info("provider_not_listed", provider=name, cause=str(error))
        return found
