"""Who is asking: the API key of a request."""

import hashlib
import time

from starlette.requests import Request

from controlplane.errors import AuthenticationError, PermissionDeniedError
from controlplane.store import keys
from controlplane.store.keys import KeyRecord
from controlplane.store.pool import ALL_WORKSPACES, Database

CACHE_SECONDS = 1.0
"""How long a revoked key may still open a door that it opened before."""

_CACHE_SIZE = 1024


class Authenticator:
    """Looks up API keys; one that held is believed for `CACHE_SECONDS`."""

    def __init__(self, database: Database):
        self._database = database
        self._cache: dict[bytes, tuple[float, KeyRecord]] = {}

    async def authenticate(self, request: Request) -> KeyRecord:
        """Return the key of a request; raises `AuthenticationError` or `PermissionDeniedError`."""
        key = await self._look_up(_secret(request))
        wanted = request.headers.get("anthropic-workspace-id")
        if wanted and wanted != key.workspace_id:
            raise PermissionDeniedError(
                "the API key belongs to another workspace",
                code="wrong_workspace",
                field="anthropic-workspace-id",
                next_step="omit the header, or use a key of that workspace",
            )
        return key

    async def _look_up(self, secret: str) -> KeyRecord:
        digest = hashlib.sha256(secret.encode()).digest()
        now = time.monotonic()
        expires, key = self._cache.get(digest, (0.0, None))
        if key is not None and now < expires:
            return key
        self._cache.pop(digest, None)
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            found = await keys.authenticate(connection, secret)
        if found is None:
            raise AuthenticationError(
                "the API key does not hold",
                code="invalid_api_key",
                field="x-api-key",
                next_step="check the key, or make one with `bulkhead keys create`",
            )
        if len(self._cache) >= _CACHE_SIZE:
            self._cache.clear()
        self._cache[digest] = (now + CACHE_SECONDS, found)
        return found


def _secret(request: Request) -> str:
    direct = request.headers.get("x-api-key")
    if direct:
        return direct
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    raise AuthenticationError(
        "no API key",
        code="missing_api_key",
        field="x-api-key",
        next_step="send the key as x-api-key, or as Authorization: Bearer",
    )
