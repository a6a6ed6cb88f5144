"""What end-to-end tests of sessions share."""

from collections.abc import AsyncGenerator

import pytest

from tests.support.client import Client
from tests.support.stack import Stack


@pytest.fixture
async def client(stack: Stack) -> AsyncGenerator[Client]:
    """A client of the control plane that all tests share, whatever the last one did to it."""
    await stack.ready_again()
    async with Client(stack) as made:
        yield made
