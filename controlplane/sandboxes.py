"""The sandbox providers of this host, and which of them a session's environment gets."""

from controlplane.settings import Settings
from sandbox.contract import SandboxProvider
from sandbox.keeper import ProviderChoice, Wish
from sandbox.namespace import NamespaceProvider


def providers(settings: Settings) -> dict[str, SandboxProvider]:
    """Return the providers by name."""
    namespace = NamespaceProvider(
        state_dir=settings.data_dir / "sandboxes",
        cache_dir=settings.data_dir / "cache",
        installation=settings.worker_name or "bulkhead",
    )
    return {"namespace": namespace}  # pyright: ignore


def provider_choice(settings: Settings, available: dict[str, SandboxProvider]) -> ProviderChoice:
    """Return what picks the provider for a wish."""

    async def choose(wish: Wish) -> SandboxProvider:
        return available["namespace"]

    return choose
