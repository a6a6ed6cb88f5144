"""What memory needs in the background: vectors that are lacking, another model's, and an end to what has expired."""

import asyncio

import httpx
import psycopg
import structlog
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.service import RPCError

from controlplane.errors import NotFoundError, UnavailableError
from controlplane.memory.preparation import LocalPreparer
from controlplane.store import memories, memory_stores, memory_vectors
from controlplane.store.memories import Author
from controlplane.store.memory_search import EXACT_UP_TO
from controlplane.store.pool import ALL_WORKSPACES, Database
from workflows.contracts import MEMORY_QUEUE
from workflows.reembed import REEMBED_WORKFLOW, ReembedInput

_log = structlog.get_logger(__name__)

_LOOK_SECONDS = 10.0
_BATCH = 100
_DROPPED = 2_000
_INDEXED = 500


class Upkeep:
    """Looks after vectors and expiry; any number of processes may at the same time. `workflows.reembed.Vectors`."""

    def __init__(self, database: Database, preparer: LocalPreparer, client: Client):
        self._database = database
        self._preparer = preparer
        self._client = client
        self._wanted = asyncio.Event()

    def hurry(self, _channel: str, _payload: str) -> None:
        """Look at once: something was saved without a vector."""
        self._wanted.set()

    def hurry_at_once(self) -> None:
        """Look at once: what was told meanwhile is not known."""
        self._wanted.set()

    async def run(self) -> None:
        """Look after everything until cancelled."""
        while True:
            try:
                await self.look()
            except (UnavailableError, psycopg.Error, httpx.HTTPError, RPCError) as error:
                _log.warning("memory_upkeep_failed", cause=type(error).__name__)
            self._wanted.clear()
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._wanted.wait()
            except TimeoutError:
                continue

    async def look(self) -> None:
        """Look once."""
        await self._forget_expired()
        await self._index_large()
        wanted = self._preparer.wanted
        if wanted is None:
            return
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            searched = await memory_vectors.active(connection)
        active = searched.model if searched else wanted
        if searched is None:
            await self._activate(wanted)
        if active != wanted:
            await self._client.start_workflow(
                REEMBED_WORKFLOW,
                ReembedInput(model=wanted),
                id=f"reembed-{wanted}",
                task_queue=MEMORY_QUEUE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            )
        # The move away from a model waits for nothing that this one can be had for, or not.
        while self._preparer.has(active) and await self._preparer.fill(active, limit=_BATCH):
            pass

    async def fill(self, model: str) -> int:
        """See `Vectors.fill`."""
        return await self._preparer.fill(model, limit=_BATCH)

    async def switch(self, model: str) -> bool:
        """See `Vectors.switch`."""
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            if await memory_vectors.lacking(connection, model, limit=1):
                return False
        await self._activate(model)
        _log.info("memory_model_switched", model=model)
        return True

    async def drop(self, model: str) -> int:
        """See `Vectors.drop`."""
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            return await memory_vectors.drop_others(connection, [model], limit=_DROPPED)

    async def _activate(self, model: str) -> None:
        vector = await self._preparer.probe(model)
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            await memory_vectors.activate(connection, model, dimension=len(vector.values))

    async def _index_large(self) -> None:
        """Put the vectors of stores that have grown large into the index: the last few under its lock."""
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            found = await memory_vectors.to_index(connection, larger_than=EXACT_UP_TO)
        for workspace_id, store_id in found:
            done = _INDEXED
            while done == _INDEXED:
                async with self._database.transaction(workspace_id) as connection:
                    done = await memory_vectors.index_some(connection, store_id, limit=_INDEXED)
            async with self._database.transaction(workspace_id) as connection:
                await memory_stores.lock(connection, store_id)
                await memory_vectors.index_rest(connection, store_id)

    async def _forget_expired(self) -> None:
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            found = await memories.expired(connection, limit=_BATCH)
        for memory in found:
            async with self._database.transaction(memory.workspace_id) as connection:
                try:
                    store = await memory_stores.lock(connection, memory.store_id)
                except NotFoundError:
                    continue  # deleted since it was listed, with all that it held
                still = await memories.has_expired(connection, memory.id)
                if still is not None:
                    await memories.remove(connection, store, still, Author(is_person=True))
