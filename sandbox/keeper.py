"""Which sandbox a session has: provisioned at its first use, ended when idle, replaced when lost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol
from weakref import WeakValueDictionary

import structlog
from pydantic import BaseModel, ConfigDict, Field

from sandbox.contract import ProviderName, SandboxError, SandboxInfo, SandboxLostError, SandboxProvider, SandboxSpec

_log = structlog.get_logger(__name__)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Mount(_Frozen):
    """A session's file resource; written into the sandbox before its first command."""

    path: str
    file_id: str


class Wish(_Frozen):
    """The sandbox that a session's environment asks for."""

    provider: ProviderName | Literal["auto"] = "auto"
    spec: SandboxSpec = Field(default_factory=SandboxSpec)
    mounts: list[Mount] = Field(default_factory=list)


class SandboxRow(_Frozen):
    """A sandbox as it is recorded."""

    id: str
    session_id: str
    workspace_id: str
    provider: ProviderName
    host: str
    generation: int
    status: Literal["creating", "ready", "ended"]
    expires_at: datetime
    details: dict[str, Any] = Field(default_factory=dict)


class SandboxRecords(Protocol):
    """The rows of sandboxes; implemented in `controlplane/store/sandboxes.py`."""

    async def wish(self, workspace_id: str, session_id: str) -> Wish:
        """Return what the session's environment and resources ask for."""
        ...

    async def claim(
        self, workspace_id: str, session_id: str, *, provider: str, host: str, expires_at: datetime
    ) -> SandboxRow:
        """Return the session's live row, touched; make one with the next generation if there is none."""
        ...

    async def current(self, workspace_id: str, session_id: str) -> SandboxRow | None:
        """Return the session's live row, touched, so that the reaper leaves it alone."""
        ...

    async def ready(self, row: SandboxRow, details: dict[str, Any]) -> None:
        """Record that the sandbox is up."""
        ...

    async def end(self, row: SandboxRow, reason: str) -> None:
        """Record that the sandbox is no more."""
        ...

    async def host_lives(self, host: str) -> bool:
        """Say whether a sandbox worker of that host lives."""
        ...

    async def end_idle(self, host: str, *, idle: timedelta) -> list[SandboxRow]:
        """End the rows of this host that no call has used for so long, or whose session is archived; return them."""
        ...

    async def live(self, host: str) -> list[SandboxRow]:
        """Return the live rows of this host."""
        ...

    def file_content(self, workspace_id: str, file_id: str) -> AsyncIterator[bytes]:
        """Yield a file's content."""
        ...


class Held(_Frozen):
    """A session's sandbox, up and ready. ``fresh``: provisioned by this call."""

    row: SandboxRow
    fresh: bool


ProviderChoice = Callable[[Wish], Awaitable[SandboxProvider]]


class Keeper:
    """Keeps at most one sandbox per session."""

    def __init__(
        self,
        *,
        records: SandboxRecords,
        providers: dict[ProviderName, SandboxProvider],
        choose: ProviderChoice,
        host: str,
        idle_seconds: float,
    ):
        self._records = records
        self._providers = providers
        self._choose = choose
        self._host = host
        self._idle = timedelta(seconds=idle_seconds)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def provider(self, row: SandboxRow) -> SandboxProvider:
        """Return the provider that holds a sandbox."""
        return self._providers[row.provider]

    async def ensure(self, workspace_id: str, session_id: str) -> Held:
        """Return the session's sandbox, provisioning one if it has none or has lost it.

        Raises `SandboxError` if none can be had.
        """
        async with self._locks.setdefault(session_id, asyncio.Lock()):
            row = await self._records.current(workspace_id, session_id)
            if row is not None and row.status == "ready" and await self._serves(row):
                return Held(row=row, fresh=False)
            return await self._provision(workspace_id, session_id)

    async def holding(self, workspace_id: str, session_id: str, sandbox_id: str | None) -> Held | None:
        """Return the session's sandbox if it is still the one with this id, and answers."""
        row = await self._records.current(workspace_id, session_id)
        if row is None or row.id != sandbox_id or row.host != self._host:
            return None
        return Held(row=row, fresh=False) if await self.is_up(row) else None

    async def lost(self, row: SandboxRow) -> None:
        """Record that the sandbox has gone by itself; the next call gets another."""
        await self._records.end(row, "lost")

    async def is_up(self, row: SandboxRow) -> bool:
        """Say whether the sandbox answers."""
        try:
            await self.provider(row).exec_state(row.id, "none")
        except SandboxLostError:
            return False
        return True

    async def _provision(self, workspace_id: str, session_id: str) -> Held:
        wish = await self._records.wish(workspace_id, session_id)
        provider = await self._choose(wish)
        row = await self._records.claim(
            workspace_id,
            session_id,
            provider=provider.name,
            host=self._host,
            expires_at=datetime.now(UTC) + timedelta(seconds=wish.spec.lifetime_seconds),
        )
        if row.host != self._host and not await self._serves(row):
            return await self._provision(workspace_id, session_id)
        try:
            info = await self._providers[row.provider].provision(row.id, wish.spec)
            for mount in wish.mounts:
                await self._providers[row.provider].write_file(
                    row.id, mount.path, self._records.file_content(workspace_id, mount.file_id)
                )
        except SandboxError:
            await self._records.end(row, "provision_failed")
            await self._providers[row.provider].destroy(row.id)
            raise
        details = _details(info)
        await self._records.ready(row, details)
        _log.info("sandbox_ready", sandbox_id=row.id, provider=row.provider, generation=row.generation)
        return Held(row=row.model_copy(update={"status": "ready", "details": details}), fresh=True)

    async def _serves(self, row: SandboxRow) -> bool:
        """Say whether a sandbox is up and ours to use; one that is lost is recorded as such."""
        if row.host == self._host:
            if await self.is_up(row):
                return True
        elif await self._records.host_lives(row.host):
            raise SandboxError(
                f"sandbox {row.id!r} is on host {row.host!r}, and this worker is {self._host!r}", code="wrong_host"
            )
        await self._records.end(row, "lost")
        return False

    async def reap(self) -> int:
        """End what is idle, what has no row and what has lost its sandbox; return how many were ended."""
        ended = 0
        for row in await self._records.end_idle(self._host, idle=self._idle):
            await self.provider(row).destroy(row.id)
            ended += 1
        # The listing of what exists comes before that of the rows: a sandbox made in between has its row already.
        existing = await self._existing()
        live = {row.id: row for row in await self._records.live(self._host)}
        for name, ids in existing.items():
            for orphan in ids - live.keys():
                _log.info("sandbox_orphan_reaped", sandbox_id=orphan, provider=name)
                await self._providers[name].destroy(orphan)
                ended += 1
        for row in live.values():
            if row.status == "ready" and row.provider in existing and row.id not in existing[row.provider]:
                await self._records.end(row, "lost")
                ended += 1
        return ended

    async def _existing(self) -> dict[ProviderName, set[str]]:
        """Return the sandboxes by provider; one that cannot say is left out, so that nothing is concluded of it."""
        found: dict[ProviderName, set[str]] = {}
        for name, provider in self._providers.items():
            try:
                found[name] = set(await provider.list_ids())
            except SandboxError as error:
                _log.info("provider_not_listed", provider=name, cause=str(error))
        return found

    async def reap_forever(self, *, every_seconds: float) -> None:
        """Reap until cancelled; what fails is tried again at the next round."""
        while True:
            try:
                await self.reap()
            except Exception:  # noqa: BLE001 - a reaper that stops is worse than one that failed
                _log.warning("reap_failed", exc_info=True)
            await asyncio.sleep(every_seconds)

    async def close(self) -> None:
        """Release the providers; the sandboxes stay."""
        for provider in self._providers.values():
            await provider.close()


def _details(info: SandboxInfo) -> dict[str, Any]:
    return {"isolation": info.isolation, "timings_ms": info.timings_ms}
