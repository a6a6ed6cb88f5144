"""Which sandbox a session has: provisioned at its first use, put away when idle, restored, replaced when lost."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import structlog

from sandbox import outfit
from sandbox.checkpoint import Checkpoints
from sandbox.contract import ProviderName, SandboxError, SandboxHaltedError, SandboxLostError, SandboxProvider
from sandbox.pool import Pool
from sandbox.records import EndReason, Exclusion, Kind, Restored, SandboxDetails, SandboxRecords, SandboxRow, Wish

if TYPE_CHECKING:  # the brain imports this module, and need not carry the proxy's libraries
    from sandbox.outlet import WaysOut

RENEWAL_SECONDS = 60.0
"""How long a sandbox must outlive the command that it is about to run: time for its result and a checkpoint."""

_log = structlog.get_logger(__name__)

ProviderChoice = Callable[[Wish], Awaitable[SandboxProvider]]


class Keeper:
    """Keeps at most one sandbox per session."""

    def __init__(
        self,
        *,
        records: SandboxRecords,
        checkpoints: Checkpoints,
        pool: Pool,
        providers: Mapping[ProviderName, SandboxProvider],
        choose: ProviderChoice,
        outlets: "WaysOut",
        exclusion: Exclusion,
        host: str,
    ):
        self._records = records
        self._checkpoints = checkpoints
        self._pool = pool
        self._providers = providers
        self._choose = choose
        self._outlets = outlets
        self._host = host
        self._exclusion = exclusion

    def provider(self, row: SandboxRow) -> SandboxProvider:
        """Return the provider that holds a sandbox."""
        return self._providers[row.provider]

    async def ensure(self, workspace_id: str, session_id: str, *, tool_use_id: str) -> SandboxRow:
        """Return the session's sandbox, provisioning one if it has none or has lost it.

        Raises `SandboxError` if none can be had: ``wrong_host`` if it is on another host that lives,
        ``sandbox_halted`` if a person stopped it after this call had been dispatched.
        """
        async with self._exclusion.hold(session_id):
            row = await self._records.current(workspace_id, session_id, tool_use_id=tool_use_id)
            if row is not None and await self._serves(row):
                return row
            return await self._provision(workspace_id, session_id, tool_use_id)

    async def holding(
        self, workspace_id: str, session_id: str, row_id: str, *, tool_use_id: str
    ) -> SandboxRow | None:
        """Return the session's sandbox if it is still the one with this id, and answers; raises as `ensure`."""
        row = await self._records.current(workspace_id, session_id, tool_use_id=tool_use_id)
        if row is None or row.id != row_id or not await self._is_here(row):
            return None
        return row if await self.is_up(row) else None

    async def outlast(self, row: SandboxRow, *, seconds: float) -> None:
        """Move the sandbox's deadline so that a command of that length cannot meet it."""
        now = datetime.now(UTC)
        lifetime = timedelta(seconds=max(row.details.lifetime_seconds, seconds + RENEWAL_SECONDS))
        if row.expires_at - now > max(lifetime / 2, timedelta(seconds=seconds + RENEWAL_SECONDS)):
            return
        await self.provider(row).renew(row.id, lifetime.total_seconds())
        await self._records.renewed(row, now + lifetime)

    async def environment(self, row: SandboxRow) -> dict[str, str]:
        """Return the variables that every command finds: none without a way out."""
        return outfit.variables(await self._records.stubs(row)) if row.details.way_out else {}

    async def holders(self) -> dict[str, SandboxProvider | None]:
        """See `outlet.Holders`."""
        live = await self._records.live(self._host)
        return {row.id: self._providers.get(row.provider) if row.details.way_out else None for row in live}

    async def is_up(self, row: SandboxRow) -> bool:
        """Say whether the sandbox answers."""
        try:
            await self.provider(row).exec_state(row.id, "none")
        except SandboxLostError:
            return False
        return True

    async def lost(self, row: SandboxRow) -> None:
        """Record that the sandbox has gone by itself; the next call gets another."""
        await self._records.end(row, "lost")
        if (provider := self._providers.get(row.provider)) is not None:
            await provider.forget(row.id)
        await self._outlets.close(row.id)

    async def condemn(self, row: SandboxRow) -> SandboxRow | None:
        """Have a sandbox that must run no further command put away; the next call gets another."""
        return await self._records.retire(row, "recycled")

    async def put_away(self, row: SandboxRow) -> None:
        """Keep what a retiring sandbox holds, then end it; what cannot be done now is done at the next call."""
        try:
            async with self._exclusion.hold(row.session_id):
                await self._keep(row)
        except SandboxError as error:
            _log.warning("sandbox_not_put_away", sandbox_id=row.id, cause=str(error))

    async def put_all_away(self, reason: EndReason) -> tuple[int, int]:
        """Put away every sandbox of this host; return how many were, and how many could not be."""
        live = await self._records.live(self._host)
        retiring = [await self._records.retire(row, reason) for row in live]
        # Whatever becomes of one, all others come to their end before anybody acts on it.
        await asyncio.gather(*(self.put_away(row) for row in retiring if row is not None), return_exceptions=True)
        left = len(await self._records.live(self._host))
        return len(live) - left, left

    async def destroy(self, provider: ProviderName, sandbox_id: str) -> None:
        """End a sandbox with all that is in it, known or not, and take back its way out."""
        await self._providers[provider].destroy(sandbox_id)
        await self._outlets.close(sandbox_id)

    async def close(self) -> None:
        """Release the providers, and what this worker holds; the sandboxes stay."""
        await self._exclusion.close()
        for provider in self._providers.values():
            await provider.close()

    async def _serves(self, row: SandboxRow) -> bool:
        """Say whether a sandbox can run the next command; one that cannot is ended, and what it holds is kept."""
        if not await self._is_here(row):
            await self.lost(row)
        elif row.status == "retiring":
            await self._keep(row)
        elif row.status == "ready":
            if await self.is_up(row):
                return True
            await self.lost(row)
        return False

    async def _is_here(self, row: SandboxRow) -> bool:
        """Say whether a sandbox is on this host; raises `SandboxError` if it is on another that lives."""
        if row.host != self._host and await self._records.host_lives(row.host):
            raise SandboxError(
                f"sandbox {row.id!r} is on host {row.host!r}, and this worker is {self._host!r}", code="wrong_host"
            )
        return row.host == self._host

    async def _keep(self, row: SandboxRow) -> None:
        if not row.details.furnished:
            # Nothing has run in it, and it may hold half of what was kept of the one before.
            await self._records.end(row, "halted")
            await self.destroy(row.provider, row.id)
            return
        provider = self.provider(row)
        try:
            if await provider.stop(row.id) == 0:
                await self._records.quiet(row)
            await self._checkpoints.take(row, provider)
        except SandboxLostError:
            await self.lost(row)
        else:
            await self.destroy(row.provider, row.id)

    async def _provision(self, workspace_id: str, session_id: str, tool_use_id: str) -> SandboxRow:
        wish = await self._records.wish(workspace_id, session_id)
        provider = await self._choose(wish)
        kind = Kind(
            provider=provider.name,
            image_digest=await provider.image_digest(wish.spec.image),
            spec=wish.spec,
            way_out=wish.way_out,
        )
        self._pool.want(kind)
        while True:
            row = await self._records.claim(
                workspace_id, session_id, kind=kind, host=self._host, tool_use_id=tool_use_id
            )
            if row.status != "creating" or row.host != self._host:
                if await self._serves(row):
                    return row
                continue
            try:
                return await self._furnish(row, wish)
            except SandboxHaltedError:
                await self._records.end(row, "halted")
                await self.destroy(row.provider, row.id)
                raise
            except SandboxError:
                await self._records.end(row, "provision_failed")
                await self.destroy(row.provider, row.id)
                # A warm sandbox may have met its deadline in the moment it was claimed.
                if row.details.source == "cold":
                    raise

    async def _furnish(self, row: SandboxRow, wish: Wish) -> SandboxRow:
        """Start the sandbox, and give it everything that its first command may count on."""
        began = time.monotonic()
        provider = self._providers[row.provider]
        info = await provider.provision(row.id, wish.spec)
        if row.details.source == "warm":
            await provider.renew(row.id, wish.spec.lifetime_seconds)
        elif wish.way_out:
            await self._outlets.prepare(row.id, provider)
        if wish.way_out:
            await self._outlets.open(row.id, provider)
        for mount in wish.mounts:
            await provider.write_file(row.id, mount.path, self._records.file_content(row.workspace_id, mount.file_id))
        restored = await self._restore(row, provider)
        network = {"network": "the egress proxy alone"} if wish.way_out else {}
        details = SandboxDetails(
            source=row.details.source,
            isolation_effective=info.isolation_effective | network,
            timings_ms=info.timings_ms | {"ready": round((time.monotonic() - began) * 1000, 2)},
            way_out=wish.way_out,
            lifetime_seconds=wish.spec.lifetime_seconds,
            restored=restored,
        )
        ready = await self._records.ready(row, details)
        _log.info("sandbox_ready", sandbox_id=row.id, provider=row.provider, source=row.details.source)
        return ready

    async def _restore(self, row: SandboxRow, provider: SandboxProvider) -> Restored | None:
        previous_end = await self._records.previous(row)
        if previous_end is None:
            return None
        return await self._checkpoints.restore(row, provider, previous_end=previous_end)
