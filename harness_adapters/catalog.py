"""Every harness by its name: the one list of them, and how each is made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from harness_adapters.builtin import BuiltinHarness
from harness_adapters.contract import Harness, HarnessName
from harness_adapters.driven.native import Kind
from harness_adapters.installation import installed
from harness_adapters.model.patience import Patience

NAMES: tuple[HarnessName, ...] = get_args(HarnessName)


@dataclass(frozen=True)
class HarnessSettings:
    """Where harnesses are, and what their processes may take. ``processes``: of each harness, at most."""

    programs: Path
    state_dir: Path
    cache_dir: Path
    installation: str
    processes: int = 8
    idle_seconds: float = 300.0
    silence_seconds: float = 60.0
    patience: Patience | None = None


def harnesses(new_id: Callable[[], str], settings: HarnessSettings) -> Mapping[str, Harness]:
    """Return every harness that is installed; none of them runs anything before its first turn."""
    found: dict[str, Harness] = {"builtin": BuiltinHarness(new_id, patience=settings.patience)}
    kinds = [kind for name in NAMES if (kind := _kind(name, settings)) is not None]
    if kinds:
        from harness_adapters.driven.harness import DrivenHarness

        for kind in kinds:
            found[kind.name] = DrivenHarness(
                new_id,
                kind,
                patience=settings.patience,
                idle_seconds=settings.idle_seconds,
                silence_seconds=settings.silence_seconds,
            )
    return found


def _kind(name: HarnessName, settings: HarnessSettings) -> Kind | None:
    folder = None if name == "builtin" else installed(name, settings.programs)
    if folder is None:
        return None
    from harness_adapters.driven.confinement import Confinement

    confinement = Confinement(
        state_dir=settings.state_dir / name, cache_dir=settings.cache_dir, installation=settings.installation
    )
    match name:
        case "codex":
            from harness_adapters.codex import kind
        case "claude-agent-sdk":
            from harness_adapters.claude_agent_sdk import kind
        case "opencode":
            from harness_adapters.opencode import kind
        case _:
            return None
    return kind(folder, confinement, processes=settings.processes)
