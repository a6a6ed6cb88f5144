"""Which provider a sandbox gets on this host, and the reason as a sentence."""

from dataclasses import dataclass
from typing import Literal

from sandbox.contract import SandboxError
from sandbox.docker import docker_available

Wanted = Literal["auto", "docker", "namespace"]


@dataclass(frozen=True)
class Choice:
    """A provider's name, and why it is the one."""

    provider: Literal["docker", "namespace"]
    reason: str


async def choose(wanted: Wanted, *, image: str | None = None) -> Choice:
    """Return the provider for what is wanted; raises `SandboxError` if this host cannot provide it."""
    if wanted == "namespace":
        return Choice(provider="namespace", reason="it was asked for by name")
    missing = await docker_available(image)
    if missing is None:
        why = "it was asked for by name" if wanted == "docker" else "a Docker engine answers and the image is at hand"
        return Choice(provider="docker", reason=why)
    if wanted == "docker" or image is not None:
        raise SandboxError(f"the sandbox needs Docker: {missing}", code="provision_failed")
    return Choice(provider="namespace", reason=missing)
