"""The harnesses in tests, the example's among them: the scripted model that each can ask, and whether it is there."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import pytest

from examples.fifth_harness import adapter
from harness_adapters.catalog import NAMES, HarnessSettings, harnesses
from harness_adapters.contract import Harness
from harness_adapters.driven.confinement import Confinement
from harness_adapters.driven.harness import DrivenHarness
from harness_adapters.installation import default_folder, installed_names

Name = TypeVar("Name", bound=str)

MODELS: Mapping[str, str] = {
    "builtin": "scripted/x",
    "opencode": "scripted/openai-demo",
    "claude-agent-sdk": "scripted/x",
    "codex": "scripted/responses-demo",
    adapter.NAME: "scripted/x",
}

_ALL_MUST_BE_THERE = os.environ.get("BULKHEAD_TEST_HARNESSES") == "all"

WITH_THE_EXAMPLE = (*NAMES, adapter.NAME)
"""Every harness, and the one that docs/harnesses.md shows how to write."""


def available(name: Name) -> Name:
    """Return the name, or skip the test: fail it where all of them must be there, as in CI."""
    if name not in (*installed_names(default_folder()), adapter.NAME):
        said = f"the program of {name} is not installed: bulkhead harness install {name}"
        if _ALL_MUST_BE_THERE:
            pytest.fail(said)
        pytest.skip(said)
    return name


def there() -> frozenset[str]:
    """Return the harnesses that are installed; fails where all of them must be, as in CI."""
    return (
        frozenset(available(name) for name in NAMES)
        if _ALL_MUST_BE_THERE
        else frozenset(installed_names(default_folder()))
    )


def with_the_example(new_id: Callable[[], str], settings: HarnessSettings) -> Mapping[str, Harness]:
    """Return every harness that is installed, and the example's."""
    confinement = Confinement(
        state_dir=settings.state_dir / adapter.NAME,
        cache_dir=settings.cache_dir,
        installation=settings.installation,
    )
    example = DrivenHarness(
        new_id,
        adapter.kind(Path(adapter.__file__).parent, confinement, processes=settings.processes),
        patience=settings.patience,
        idle_seconds=settings.idle_seconds,
        silence_seconds=settings.silence_seconds,
    )
    return {**harnesses(new_id, settings), adapter.NAME: example}
