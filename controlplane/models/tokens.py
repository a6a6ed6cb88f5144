"""Who may ask a model: a running turn, by the token that was made for it."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

from controlplane.store.pool import ALL_WORKSPACES, Database, one

LOOKUP_SECONDS = 5
"""A look-up takes a millisecond; a database that stays away longer must not hold requests up without an answer."""

TokenLookup = Callable[[str], Awaitable[bool]]
"""Says whether a token belongs to a running turn; raises if that cannot be found out."""

_RUNNING_TURN = "SELECT id FROM turns WHERE model_token_hash = %(hash)s AND status = 'running'"


def token_hash(token: str) -> bytes:
    """Return what is stored of a turn's model token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


class TurnTokens:
    """Model tokens as the turns table knows them, read anew for each request: a turn's end revokes its token."""

    def __init__(self, database: Database):
        self._database = database

    async def hold(self, token: str) -> bool:
        """Return whether ``token`` belongs to a turn that is running now."""
        async with asyncio.timeout(LOOKUP_SECONDS), self._database.transaction(ALL_WORKSPACES) as connection:
            return await one(connection, _RUNNING_TURN, {"hash": token_hash(token)}) is not None
