"""A Slack workspace in front of the control plane that all tests share; what these change there they change back."""

from collections.abc import AsyncGenerator

import pytest

from tests.support.slack import Workspace, workspace
from tests.support.stack import Stack

_CHANNELS = 12


@pytest.fixture(scope="package")
async def slack(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Workspace]:
    """A workspace that is told things by signed HTTP requests."""
    async with workspace(stack, tmp_path_factory.mktemp("slack"), "events", channels=_CHANNELS) as opened:
        yield opened
