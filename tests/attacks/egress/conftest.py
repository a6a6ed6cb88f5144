"""A stage per test, and what must hold after every attack: no client and no record has seen the secret."""

from collections.abc import AsyncGenerator

import pytest

from sandbox.egress.scrub import forms
from tests.support.egress import CANARY, Stage, staged


@pytest.fixture
async def stage(capfd: pytest.CaptureFixture[str]) -> AsyncGenerator[Stage]:
    """A proxy with everything around it."""
    async with staged() as made:
        yield made
        audit = "".join(entry.model_dump_json() for entry in made.audit.entries)
    seen = b"".join(bytes(client.seen) for client in made.clients)
    printed = capfd.readouterr()
    for form in forms(CANARY.encode()):
        assert form not in seen, "a client has seen the secret"
        assert form.decode() not in audit, "the audit holds the secret"
        assert form.decode() not in printed.out + printed.err, "a log holds the secret"
