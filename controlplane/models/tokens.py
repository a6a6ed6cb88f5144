"""Who may ask a model: a running turn, by the token that was made for it, while its budgets last."""

import asyncio
import hashlib

from controlplane.store import ledger
from controlplane.store.ledger import Outcome, Release, Wanted
from controlplane.store.pool import ALL_WORKSPACES, Database, one

LOOKUP_SECONDS = 5
"""A look-up takes a millisecond; a database that stays away longer must not hold requests up without an answer."""

KNOWN_TOKENS = 10_000
"""Of which the models are remembered: more turns than a gateway serves at a time."""

_RUNNING_TURN = (
    "SELECT coalesce(t.models, jsonb_build_array(s.agent -> 'model' -> 'id')) AS models"
    " FROM turns t JOIN sessions s ON s.id = t.session_id"
    " WHERE t.model_token_hash = %(hash)s AND t.status = 'running'"
)
"""A turn without a list was begun by an earlier release."""


def token_hash(token: str) -> bytes:
    """Return what is stored of a turn's model token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


class TurnGate:
    """The ledger as the gateway asks it: each request is let pass anew, so that a turn's end revokes its token.

    Every method raises if Postgres does not answer; a token goes by its hash.
    """

    def __init__(self, database: Database):
        self._database = database
        self._known: dict[bytes, list[str]] = {}

    async def models_of(self, token: bytes) -> list[str] | None:
        """Return the models of the running turn that a token belongs to; they stay the same while the token lives.

        Only `reserve` lets a request pass: here nobody is kept from ending the turn, and one that has ended meanwhile
        may still be remembered.
        """
        if token in self._known:
            return self._known[token]
        async with asyncio.timeout(LOOKUP_SECONDS), self._database.transaction(ALL_WORKSPACES) as connection:
            found = await one(connection, _RUNNING_TURN, {"hash": token})
        if found is None:
            return None
        if len(self._known) >= KNOWN_TOKENS:
            self._known.pop(next(iter(self._known)))
        return self._known.setdefault(token, found["models"])

    async def reserve(self, token: bytes, wanted: Wanted) -> None:
        """Let a request pass, and reserve what it will cost; raises `RefusedError`."""
        async with (
            asyncio.timeout(LOOKUP_SECONDS),
            self._database.transaction(ALL_WORKSPACES, pipelined=True) as connection,
        ):
            await ledger.reserve(connection, token, wanted)

    async def fall_back(self, token: bytes, wanted: Wanted, *, left: Release) -> None:
        """Let a request go on with another model; raises `RefusedError`, and then nothing has changed."""
        async with asyncio.timeout(LOOKUP_SECONDS), self._database.transaction(ALL_WORKSPACES) as connection:
            await ledger.fall_back(connection, token, wanted, left=left)

    async def settle(self, request_id: str, outcome: Outcome) -> bool:
        """Record what a request came to; say whether it was still to be recorded."""
        async with asyncio.timeout(LOOKUP_SECONDS), self._database.transaction(ALL_WORKSPACES) as connection:
            return await ledger.settle(connection, request_id, outcome)
