"""The harnesses in tests: the scripted model that each can ask, and whether its program is there."""

import os
from collections.abc import Mapping

import pytest

from harness_adapters.contract import HarnessName
from harness_adapters.installation import default_folder, installed_names

MODELS: Mapping[HarnessName, str] = {
    "builtin": "scripted/x",
    "opencode": "scripted/openai-demo",
    "claude-agent-sdk": "scripted/x",
    "codex": "scripted/responses-demo",
}


def available(name: HarnessName) -> HarnessName:
    """Return the name, or skip the test: fail it where all of them must be there, as in CI."""
    if name not in installed_names(default_folder()):
        said = f"the program of {name} is not installed: bulkhead harness install {name}"
        if os.environ.get("BULKHEAD_TEST_HARNESSES") == "all":
            pytest.fail(said)
        pytest.skip(said)
    return name
