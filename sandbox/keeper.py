"""Which sandbox a session has: provisioned at its first use, ended when idle, replaced when lost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol
from weakref import WeakValueDictionary

import structlog
from pydantic import BaseModel, ConfigDict, Field

from sandbox import outfit
from sandbox.contract import ProviderName, SandboxError, SandboxInfo, SandboxLostError, SandboxProvider, SandboxSpec

if TYPE_CHECKING:  # the brain imports this module, and need not carry the proxy's libraries
    from sandbox.outlet import Outlets

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
    way_out: bool = False
    """Whether there is a host that the session may reach, now or with a credential that it gets later."""


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

    @property
    def has_way_out(self) -> bool:
        """Whether the sandbox has been given the proxy's ear."""
        return bool(self.details.get("way_out"))


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

    async def stubs(self, row: SandboxRow) -> dict[str, str]:
        """Return name → stub of every credential that the session may use now."""
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
        outlets: "Outlets",
        host: str,
        idle_seconds: float,
    ):
        self._records = records
        self._providers = providers
        self._choose = choose
        self._outlets = outlets
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
        await self._outlets.close(row.id)

    async def environment(self, row: SandboxRow) -> dict[str, str]:
        """Return the variables that every command finds: none without a way out."""
        return outfit.variables(await self._records.stubs(row)) if row.has_way_out else {}

    async def holders(self) -> dict[str, SandboxProvider | None]:
        """See `outlet.Holders`."""
        live = await self._records.live(self._host)
        return {row.id: self._providers.get(row.provider) if row.has_way_out else None for row in live}

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
            info = await self._furnished(row, wish)
        except SandboxError:
            await self._records.end(row, "provision_failed")
            await self._destroy(row.provider, row.id)
            raise
        details = _details(info, wish)
        await self._records.ready(row, details)
        _log.info("sandbox_ready", sandbox_id=row.id, provider=row.provider, generation=row.generation)
        return Held(row=row.model_copy(update={"status": "ready", "details": details}), fresh=True)

    async def _furnished(self, row: SandboxRow, wish: Wish) -> SandboxInfo:
        """Start the sandbox, and give it everything that its first command may count on."""
        provider = self._providers[row.provider]
        info = await provider.provision(row.id, wish.spec)
        if wish.way_out:
            for path, content in (await self._outlets.open(row.id, provider)).items():
                await provider.write_file(row.id, path, _whole(content))
        for mount in wish.mounts:
            await provider.write_file(row.id, mount.path, self._records.file_content(row.workspace_id, mount.file_id))
        return info

    async def _destroy(self, provider: ProviderName, sandbox_id: str) -> None:
        await self._providers[provider].destroy(sandbox_id)
        await self._outlets.close(sandbox_id)

    async def _serves(self, row: SandboxRow) -> bool:
        """Say whether a sandbox is up and ours to use; one that is lost is recorded as such."""
        if row.host == self._host:
            if await self.is_up(row):
                return True
        elif await self._records.host_lives(row.host):
            raise SandboxError(
                f"sandbox {row.id!r} is on host {row.host!r}, and this worker is {self._host!r}", code="wrong_host"
            )
        await self.lost(row)
        return False

    async def reap(self) -> int:
        """End what is idle, what has no row and what has lost its sandbox; return how many were ended."""
        ended = 0
        for row in await self._records.end_idle(self._host, idle=self._idle):
            await self._destroy(row.provider, row.id)
            ended += 1
        # The listing of what exists comes before that of the rows: a sandbox made in between has its row already.
        existing = await self._existing()
        live = {row.id: row for row in await self._records.live(self._host)}
        for name, ids in existing.items():
            for orphan in ids - live.keys():
                _log.info("sandbox_orphan_reaped", sandbox_id=orphan, provider=name)
                await self._destroy(name, orphan)
                ended += 1
        for row in live.values():
            if row.status == "ready" and row.provider in existing and row.id not in existing[row.provider]:
                await self.lost(row)
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


async def _whole(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _details(info: SandboxInfo, wish: Wish) -> dict[str, Any]:
    isolation = info.isolation_effective | ({"network": "the egress proxy alone"} if wish.way_out else {})
    return {"isolation": isolation, "timings_ms": info.timings_ms, "way_out": wish.way_out}
