"""Which parts of the control plane answer, for `/readyz`."""

import asyncio
from datetime import timedelta

import httpx
import psycopg
from psycopg_pool import PoolTimeout
from temporalio.client import Client
from temporalio.service import RPCError

from controlplane.store.pool import ALL_WORKSPACES, Database, rows
from controlplane.store.workers import PostgresLeases
from harness_adapters.guest import PLAIN

_TIMEOUT_SECONDS = 2.0
_WORKERS = {
    "brain": ("brain", "brain worker"),
    "sandboxes": ("sandbox", "sandbox worker"),
    "egress": ("egress", "egress proxy"),
    "memory": ("memory", "memory worker"),
}
"""Part → the kind of its lease, and what it is called."""


class Readiness:
    """Asks every part whether it answers."""

    def __init__(self, *, database: Database, client: Client, gateway_url: str):
        self._database = database
        self._client = client
        self._gateway_url = gateway_url
        self._http = httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, verify=PLAIN)

    async def __call__(self) -> dict[str, str | None]:
        """Return part → None if it is ready, else why it is not."""
        postgres, temporal, gateway = await asyncio.gather(self._workers(), self._temporal(), self._gateway())
        return {**postgres, "temporal": temporal, "gateway": gateway}

    async def _workers(self) -> dict[str, str | None]:
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                dead = set(await PostgresLeases(self._database).dead())
                async with self._database.transaction(ALL_WORKSPACES) as connection:
                    found = await rows(connection, "SELECT id, kind FROM workers", {})
        except (psycopg.Error, PoolTimeout, TimeoutError) as error:
            reason = f"does not answer: {str(error).strip() or 'timed out'}"
            return {"postgres": reason, **dict.fromkeys(_WORKERS, "unknown while postgres is away")}
        alive = {row["kind"] for row in found if row["id"] not in dead}
        parts = {part: None if kind in alive else f"no {name} lives" for part, (kind, name) in _WORKERS.items()}
        return {"postgres": None, **parts}

    async def _temporal(self) -> str | None:
        try:
            healthy = await self._client.service_client.check_health(timeout=timedelta(seconds=_TIMEOUT_SECONDS))
        except (RPCError, RuntimeError) as error:
            return f"does not answer: {error}"
        return None if healthy else "is not serving"

    async def _gateway(self) -> str | None:
        try:
            response = await self._http.get(f"{self._gateway_url}/healthz")
        except httpx.HTTPError as error:
            return f"does not answer: {error}"
        return None if response.is_success else f"answers {response.status_code}"
