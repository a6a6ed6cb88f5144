"""Memory with a real Postgres behind it."""

import pytest

from controlplane.store.pool import Database
from tests.support.house import hands, house, house_provider, open_house
from tests.support.memory import Mind

__all__ = ["hands", "house", "house_provider", "open_house"]


@pytest.fixture
def mind(database: Database) -> Mind:
    """Stores and sessions in a fresh database."""
    return Mind(database)
