"""A store with the labelled set in it."""

import pytest

from controlplane.store.pool import Database
from tests.support.memory import Mind


@pytest.fixture
def mind(database: Database) -> Mind:
    """Stores in a fresh database."""
    return Mind(database)
