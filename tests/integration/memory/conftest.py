"""Memory with a real Postgres behind it."""

import pytest

from controlplane.store.pool import Database
from tests.support.house import hands, house, open_house
from tests.support.memory import Mind

__all__ = ["hands", "house", "open_house"]


@pytest.fixture
def mind(database: Database) -> Mind:
    """Stores and sessions in a fresh database."""
    return Mind(database)
