"""The sandbox providers of this host, and which of them a session's environment gets."""

import socket

from controlplane.settings import Settings
from sandbox import choice
from sandbox.contract import ProviderName, SandboxError, SandboxProvider
from sandbox.docker import DockerProvider
from sandbox.keeper import ProviderChoice, Wish
from sandbox.namespace import NamespaceProvider


def providers(settings: Settings) -> dict[ProviderName, SandboxProvider]:
    """Return the providers that the settings allow, by name."""
    installation = settings.worker_name or socket.gethostname()
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
        if wanted == "kubernetes" or (wanted != "auto" and wanted not in available):
            raise SandboxError(
                f"the environment asks for provider {wanted!r}, and this control plane runs with"
                f" --sandbox {settings.sandbox}",
                code="provision_failed",
            )
        chosen = await choice.choose(wanted, image=wish.spec.image, way_out=wish.way_out)
        return available[chosen.provider]

    return choose
