"""What works on this host, tried for real, and what to do about what does not."""

import asyncio
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox.contract import SandboxError, SandboxProvider, SandboxSpec
from sandbox.docker import DockerProvider, docker_available
from sandbox.ear import NO_ENTRY_STEP
from sandbox.namespace import NamespaceProvider

if TYPE_CHECKING:
    from sandbox.kubernetes import KubernetesOptions

_TRIAL = "sbx_trial"
_TRIAL_SPEC = SandboxSpec(memory_mb=128, workspace_mb=16, pids=32, lifetime_seconds=60)
_LIMIT_STEP = "the sandbox works without it; give the worker write access to a cgroup, or run it as root"
_OTHER_STEP = "the sandbox works without it; see what the kernel or the engine of this host offers"
_KERNEL_SWITCHES = {
    "kernel/unprivileged_userns_clone": ("0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    "kernel/apparmor_restrict_unprivileged_userns": (
        "1",
        "install the distribution's bubblewrap package with its AppArmor profile, "
        "or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    "user/max_user_namespaces": ("0", "sysctl -w user.max_user_namespaces=10000"),
}


@dataclass(frozen=True)
class Finding:
    """One fact about this host; ``next_step`` says what to do if it is not as it should be.

    ``aspect`` is what of the sandboxes it is about; of all of them if there is none.
    """

    works: bool
    detail: str
    next_step: str | None = None
    aspect: str = ""


async def diagnose_namespace(cache_dir: Path, *, bwrap: Path | None = None) -> list[Finding]:
    """Start a small namespace sandbox and say what came of it."""
    with tempfile.TemporaryDirectory(prefix="bulkhead-") as state:
        provider = NamespaceProvider(
            state_dir=Path(state), cache_dir=cache_dir, installation=f"trial-{os.getpid()}", bwrap=bwrap
        )
        return await _trial(provider, _namespace_next_step)


async def diagnose_docker(cache_dir: Path, *, image: str | None = None) -> list[Finding]:
    """Start a small container and say what came of it."""
    if (reason := await docker_available(image)) is not None:
        missing_image = "bulkhead sandbox image" in reason
        step = "make the image" if missing_image else "start a Docker engine, or set DOCKER_HOST"
        return [Finding(works=False, detail=reason, next_step=f"{step}; without, sandboxes are namespaces")]
    provider = DockerProvider(cache_dir=cache_dir, installation=f"trial-{os.getpid()}", **_default(image))
    return await _trial(provider, lambda: "see the engine's log")


async def diagnose_kubernetes(options: "KubernetesOptions") -> list[Finding]:
    """Start a small pod and say what came of it."""
    from sandbox.kubernetes import KubernetesProvider

    provider = KubernetesProvider(options.model_copy(update={"installation": f"trial-{os.getpid()}"}))
    try:
        await provider.list_ids()
    except SandboxError as error:
        await provider.close()
        return [
            Finding(works=False, detail=str(error), next_step="name a cluster in KUBECONFIG, and its rights there")
        ]
    step = f"see the events of namespace {options.namespace!r} (`kubectl get events`)"
    try:
        return await _trial(provider, lambda: step, has_ear=not provider.has_remote_gate)
    finally:
        await provider.leave()
        await provider.close()


def _default(image: str | None) -> dict[str, str]:
    return {} if image is None else {"default_image": image}


async def _trial(provider: SandboxProvider, next_step: Callable[[], str], *, has_ear: bool = True) -> list[Finding]:
    try:
        info = await provider.provision(_TRIAL, _TRIAL_SPEC)
        shut_in = await _shut_in(provider) if has_ear else []
    except SandboxError as error:
        return [Finding(works=False, detail=str(error), next_step=await asyncio.to_thread(next_step))]
    finally:
        await provider.destroy(_TRIAL)
        await provider.close()
    weaker = [
        Finding(
            aspect=name,
            works=False,
            detail=effect if isinstance(effect, str) else "not in effect",
            next_step=_LIMIT_STEP if name.endswith("_limit") else _OTHER_STEP,
        )
        for name, effect in info.isolation_effective.items()
        if effect is False or (name.endswith("_limit") and effect is not True)
    ]
    took = f"up in {info.timings_ms['total']:.0f} ms, no way out to the network"
    return [Finding(works=True, detail=took), *shut_in, *weaker]


async def _shut_in(provider: SandboxProvider) -> list[Finding]:
    """See whether the egress proxy can be heard inside."""
    try:
        (await provider.ear(_TRIAL)).close()
    except SandboxError as error:
        return [Finding(aspect="way out", works=False, detail=str(error), next_step=NO_ENTRY_STEP)]
    return []


def _namespace_next_step() -> str:
    for name, (bad, step) in _KERNEL_SWITCHES.items():
        path = Path("/proc/sys") / name
        if path.exists() and path.read_text().strip() == bad:
            return f"/proc/sys/{name} is {bad}: {step}"
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return "inside a container: let it make user namespaces (for example --security-opt seccomp=unconfined)"
    return "allow unprivileged user namespaces, or use Docker"
