"""Which provider a sandbox gets on this host, and the reason as a sentence."""

from dataclasses import dataclass
from typing import Literal

from sandbox.contract import ProviderName, SandboxError
from sandbox.docker import docker_available
from sandbox.ear import NO_ENTRY_STEP, entry_obstacle

Wanted = Literal["auto", "docker", "namespace", "kubernetes"]


@dataclass(frozen=True)
class Choice:
    """A provider's name, and why it is the one."""

    provider: ProviderName
    reason: str


async def choose(wanted: Wanted, *, image: str | None = None, way_out: bool = False) -> Choice:
    """Return the provider for what is wanted; raises `SandboxError` if this host cannot provide it.

    ``way_out``: the sandbox needs one to the egress proxy.
    """
    if wanted == "namespace" or wanted == "kubernetes":  # noqa: PLR1714 - so that pyright sees that it is not "auto"
        return Choice(provider=wanted, reason="it was asked for by name")
    missing = await docker_available(image)
    if missing is None and way_out and (obstacle := entry_obstacle()) is not None:
        missing = f"a container here cannot have a way out, because {obstacle}; {NO_ENTRY_STEP}"
    if missing is None:
        why = "it was asked for by name" if wanted == "docker" else "a Docker engine answers and the image is at hand"
        return Choice(provider="docker", reason=why)
    if wanted == "docker" or image is not None:
        raise SandboxError(f"the sandbox needs Docker: {missing}", code="provision_failed")
    return Choice(provider="namespace", reason=missing)
