"""What the endpoints work with, given to the app by whoever makes it."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import cast

from starlette.requests import HTTPConnection

from controlplane.api.auth import Authenticator
from controlplane.api.follow import Hub
from controlplane.api.metrics import Metrics
from controlplane.memory.preparing import Preparer
from controlplane.store.pool import Database
from controlplane.vault.keyring import Keyring
from controlplane.wakeups import Submitter
from harness_adapters.contract import HarnessName

Readiness = Callable[[], Awaitable[dict[str, str | None]]]
"""Each part's name with the reason why it is not ready, or None."""


@dataclass(frozen=True)
class Parts:
    """Everything that an endpoint may need."""

    database: Database
    submitter: Submitter
    readiness: Readiness
    authenticator: Authenticator
    hub: Hub
    metrics: Metrics
    keyring: Keyring
    version: str
    harnesses: Collection[HarnessName]
    preparer: Preparer


def parts_of(request: HTTPConnection) -> Parts:
    """Return the parts of the app that serves ``request``."""
    return cast(Parts, request.app.state.parts)
