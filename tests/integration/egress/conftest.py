"""A stage per test."""

from collections.abc import AsyncGenerator

import pytest

from tests.support.egress import Stage, staged


@pytest.fixture
async def stage() -> AsyncGenerator[Stage]:
    """A proxy with everything around it."""
    async with staged() as made:
        yield made
