"""The sandboxes of this host: providers, keeper, warm pool and reaper put together; which provider a session gets."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

import psycopg
import structlog
from psycopg_pool import PoolTimeout

from controlplane.egress import ears_path, gate_address
from controlplane.settings import Settings
from controlplane.store.checkpoints import PostgresCheckpoints
from controlplane.store.clearing import clearing
from controlplane.store.egress import PostgresAdmissions
from controlplane.store.exclusion import PostgresExclusion
from controlplane.store.pool import Database
from controlplane.store.sandboxes import PostgresSandboxes
from controlplane.store.warm import PostgresWarm
from sandbox import choice
from sandbox.admission import Admissions
from sandbox.checkpoint import Checkpoints
from sandbox.contract import ProviderName, SandboxError, SandboxProvider
from sandbox.docker import DockerProvider
from sandbox.egress import EarsClient
from sandbox.keeper import Keeper, ProviderChoice
from sandbox.namespace import NamespaceProvider
from sandbox.outlet import Outlets, WaysOut
from sandbox.pool import Pool
from sandbox.reaper import Reaper
from sandbox.records import Wish

_KEEP_SECONDS = 60.0  # for checkpoints of full size from a few sandboxes
_END_SECONDS = 60.0
_ENDED_AT_ONCE = 16  # a pod takes some seconds to be gone, a container less

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Cleared:
    """What became of all sandboxes: put away with what they held, ended without; and why some may be left."""

    kept: int
    ended: int
    left: Mapping[ProviderName, str]


class Sandboxes:
    """Everything that a sandbox worker runs, from one set of settings."""

    def __init__(self, settings: Settings, database: Database):
        self.providers = providers(settings)
        self._database_url, self._host = database.url, settings.host_name
        records = PostgresSandboxes(database)
        self.outlets = ways_out(settings, database)
        self.pool = Pool(
            records=PostgresWarm(database),
            providers=self.providers,
            outlets=self.outlets,
            host=settings.host_name,
            size=settings.warm_sandboxes,
        )
        self.checkpoints = Checkpoints(PostgresCheckpoints(database), max_bytes=settings.checkpoint_mb << 20)
        self.keeper = Keeper(
            records=records,
            checkpoints=self.checkpoints,
            pool=self.pool,
            providers=self.providers,
            choose=provider_choice(settings, self.providers),
            outlets=self.outlets,
            exclusion=PostgresExclusion(database.url),
            host=settings.host_name,
        )
        self.reaper = Reaper(
            keeper=self.keeper,
            records=records,
            providers=self.providers,
            host=settings.host_name,
            idle_seconds=settings.sandbox_idle_seconds,
        )

    async def clear(self, *, keep_seconds: float = _KEEP_SECONDS, end_seconds: float = _END_SECONDS) -> Cleared:
        """End all sandboxes, and have the host's workers begin none until that is done.

        What cannot be kept in time, or while Postgres is away, is ended without.
        """
        kept = 0
        async with AsyncExitStack() as alone:
            try:
                async with asyncio.timeout(keep_seconds):
                    await alone.enter_async_context(clearing(self._database_url, self._host))
                    kept, left = await self.keeper.put_all_away("stopped")
                if left:
                    _log.warning(f"sandboxes ended: {left}, with the files in them")
            except (psycopg.Error, PoolTimeout, TimeoutError) as error:
                _log.warning(f"sandboxes end without being kept: {error or 'it took too long'}")
            return await self._end_all(kept, end_seconds)

    async def _end_all(self, kept: int, end_seconds: float) -> Cleared:
        ended, left = 0, dict[ProviderName, str]()
        for name, provider in self.providers.items():
            try:
                async with asyncio.timeout(end_seconds):
                    while found := await provider.list_ids():
                        await _end_all(provider, found)
                        ended += len(found)
            except (SandboxError, TimeoutError) as error:  # Docker's engine may not be there, for example
                left[name] = str(error) or f"they were not all gone after {end_seconds:.0f} s"
                _log.debug("sandboxes_not_ended", provider=name, error=left[name])
        return Cleared(kept, ended, left)


async def _end_all(provider: SandboxProvider, sandbox_ids: list[str]) -> None:
    room = asyncio.Semaphore(_ENDED_AT_ONCE)

    async def end(sandbox_id: str) -> None:
        async with room:
            await provider.destroy(sandbox_id)

    outcomes = await asyncio.gather(*(end(each) for each in sandbox_ids), return_exceptions=True)
    for outcome in outcomes:
        if outcome is not None:
            raise outcome


def ways_out(settings: Settings, database: Database) -> WaysOut:
    """Return how sandboxes get to a proxy: over the network if the settings say where its gate is."""
    gate = gate_address(settings, "kubernetes_gate") if settings.sandbox == "kubernetes" else None
    if gate is not None:
        return Admissions(gate, PostgresAdmissions(database), ca_file=settings.egress_ca_file)
    return Outlets(EarsClient(ears_path(settings)), ca_file=settings.egress_ca_file)


def providers(settings: Settings) -> dict[ProviderName, SandboxProvider]:
    """Return the providers that the settings allow, by name; raises `InvalidRequestError` that names the variable."""
    if settings.sandbox == "kubernetes":
        from controlplane.kubernetes import kubernetes_options

        options = kubernetes_options(settings)
        from sandbox.kubernetes import KubernetesProvider

        return {"kubernetes": KubernetesProvider(options)}
    installation = settings.host_name
    cache = settings.data_dir / "cache"
    found: dict[ProviderName, SandboxProvider] = {
        "namespace": NamespaceProvider(
            state_dir=settings.data_dir / "sandboxes", cache_dir=cache, installation=installation
        ),
        "docker": DockerProvider(cache_dir=cache, installation=installation),
    }
    return found if settings.sandbox == "auto" else {settings.sandbox: found[settings.sandbox]}


def provider_choice(settings: Settings, available: dict[ProviderName, SandboxProvider]) -> ProviderChoice:
    """Return what picks the provider for a wish: the environment's word counts within what the settings allow."""

    async def choose(wish: Wish) -> SandboxProvider:
        wanted = settings.sandbox if wish.provider == "auto" else wish.provider
        if wanted != "auto" and wanted not in available:
            raise SandboxError(
                f"the environment asks for provider {wanted!r}, and this control plane runs with"
                f" --sandbox {settings.sandbox}",
                code="provision_failed",
            )
        chosen = await choice.choose(wanted, image=wish.spec.image, way_out=wish.way_out)
        return available[chosen.provider]

    return choose
