"""What the endpoints work with, given to the app by whoever makes it."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from starlette.requests import HTTPConnection

from controlplane.api.auth import Authenticator
from controlplane.api.follow import Hub
from controlplane.api.metrics import Metrics
from controlplane.memory.preparing import Preparer
from controlplane.store.events import Event
from controlplane.store.pool import Database
from controlplane.vault.keyring import Keyring
from harness_adapters.contract import HarnessName


class Submitter(Protocol):
    """Tells the workflow of a session that its queue has grown."""

    def submitted(self, workspace_id: str, session_id: str, events: Sequence[Event]) -> None:
        """Pass on that ``events`` were committed; never raises and never blocks."""
        ...


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
