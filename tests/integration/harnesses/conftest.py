"""Every harness with its real program, beside a gateway and the scripted model on real sockets."""

import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import pytest

from controlplane.ids import new_id
from harness_adapters import claude_agent_sdk, codex
from harness_adapters.builtin import BuiltinHarness
from harness_adapters.contract import Harness
from harness_adapters.driven.confinement import Confinement
from harness_adapters.driven.harness import DrivenHarness
from harness_adapters.model.patience import Patience
from tests.integration.harnesses.talk import Talk
from tests.integration.models.conftest import Gateway, gateway, open_gateway

__all__ = ["gateway", "open_gateway"]

MODELS = {
    "builtin": "scripted/x",
    "codex": "scripted/responses-x",
    "opencode": "scripted/openai-x",
    "claude-agent-sdk": "scripted/x",
}
INSTALLED = Path(sys.prefix) / "share" / "bulkhead" / "harnesses"


@dataclass
class Harnesses:
    """The harnesses of a test session by name, made when they are first asked for."""

    folder: Path
    made: dict[str, Harness]

    def get(self, name: str) -> Harness:
        """Return a harness; skips where its program is not installed."""
        if name not in self.made:
            self.made[name] = self._make(name)
        return self.made[name]

    def _make(self, name: str) -> Harness:
        patience = Patience(first_wait_seconds=0.01, stream_idle_seconds=2)
        ids = lambda: new_id("sevt")  # noqa: E731
        if name == "builtin":
            return BuiltinHarness(ids, patience=patience)
        confinement = Confinement(state_dir=self.folder / "run", cache_dir=self.folder / "cache", installation="test")
        claude = claude_agent_sdk.installed()
        kinds = {
            "codex": lambda: codex.kind(INSTALLED / f"codex-{codex.VERSION}", confinement, processes=4),
            "claude-agent-sdk": lambda: claude_agent_sdk.kind(claude, confinement, processes=4),
        }
        return DrivenHarness(ids, kinds[name](), patience=patience)


@pytest.fixture(scope="session")
async def harnesses(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Harnesses]:
    """Every harness; their processes live for the whole test session."""
    found = Harnesses(tmp_path_factory.mktemp("harnesses"), {})
    yield found
    for harness in found.made.values():
        await harness.close()


@pytest.fixture(params=["builtin", "codex", "claude-agent-sdk"])
def name(request: pytest.FixtureRequest) -> str:
    """A harness's name."""
    return request.param


@pytest.fixture
def harness(harnesses: Harnesses, name: str) -> Harness:
    """A harness."""
    return harnesses.get(name)


@pytest.fixture
def talk(gateway: Gateway, name: str) -> Talk:
    """A session of an agent that runs with the harness."""
    return Talk(gateway, MODELS[name])
