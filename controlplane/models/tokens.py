"""Who may ask a model: a running turn, by the token that was made for it, while its budgets last."""

import asyncio
import hashlib
from typing import Protocol

from controlplane.store import ledger
from controlplane.store.ledger import Wanted
from controlplane.store.pool import ALL_WORKSPACES, Database, one

LOOKUP_SECONDS = 5
"""A look-up takes a millisecond; a database that stays away longer must not hold requests up without an answer."""

_RUNNING_TURN = "SELECT id FROM turns WHERE model_token_hash = %(hash)s AND status = 'running'"


class Gate(Protocol):
    """Who may ask a model, and for how much; both raise if that cannot be found out."""

    async def turn_of(self, token: str) -> str | None:
        """Return the id of the running turn that a token belongs to."""
        ...

    async def reserve(self, turn_id: str, wanted: Wanted) -> None:
        """Reserve what a request will cost; raises `RefusedError`."""
        ...


def token_hash(token: str) -> bytes:
    """Return what is stored of a turn's model token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


class TurnGate:
    """`Gate` on Postgres, which is asked anew for each request: a turn's end revokes its token."""

    def __init__(self, database: Database):
        self._database = database

    async def turn_of(self, token: str) -> str | None:
        """See `Gate.turn_of`."""
        async with asyncio.timeout(LOOKUP_SECONDS), self._database.transaction(ALL_WORKSPACES) as connection:
            found = await one(connection, _RUNNING_TURN, {"hash": token_hash(token)})
            return found["id"] if found else None

    async def reserve(self, turn_id: str, wanted: Wanted) -> None:
        """See `Gate.reserve`."""
        async with asyncio.timeout(LOOKUP_SECONDS), self._database.transaction(ALL_WORKSPACES) as connection:
            await ledger.reserve(connection, turn_id, wanted)
