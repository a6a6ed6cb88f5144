"""Hands a dead worker's activities back to Temporal at once, instead of waiting for their heartbeats to time out."""

import asyncio
from collections import Counter

import structlog
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from workflows.limits import SWEEP_LOOKS, SWEEP_SECONDS
from workflows.records import DeadWork, Leases

_log = structlog.get_logger(__name__)


class Sweeper:
    """Every worker runs one: the living look after the work of the dead."""

    def __init__(self, *, worker_id: str, client: Client, leases: Leases):
        self._worker_id = worker_id
        self._client = client
        self._leases = leases
        self._looks: Counter[str] = Counter()

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            try:
                await self.sweep()
            except Exception:  # noqa: BLE001 - a sweeper that stops is worse than one that failed
                # Postgres or Temporal is away: the dead can wait until it is back.
                _log.warning("sweep_failed", exc_info=True)
                self._looks.clear()
            await asyncio.sleep(SWEEP_SECONDS)

    async def sweep(self) -> None:
        """Look once. A worker is dead when its lease was free in several looks in a row."""
        free = set(await self._leases.dead()) - {self._worker_id}
        self._looks = Counter({worker_id: self._looks[worker_id] + 1 for worker_id in free})
        for worker_id, looks in self._looks.items():
            if looks < SWEEP_LOOKS:
                continue
            for work in await self._leases.work_of(worker_id):
                await self._hand_back(work)
            await self._leases.forget(worker_id)
            _log.info("dead_worker_swept", worker_id=worker_id)

    async def _hand_back(self, work: DeadWork) -> None:
        handle = self._client.get_async_activity_handle(task_token=work.task_token)
        try:
            await handle.fail(ApplicationError(f"worker {work.worker_id} died", type="worker_died"))
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
