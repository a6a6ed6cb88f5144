"""Deployments at work: fires them and ends their runs, each held by its row."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import psycopg
import structlog
from temporalio.client import (
    Client,
)

from controlplane.deployments.firing import Firing
from controlplane.deployments.projection import AWAY, Projection
from controlplane.store import deployments, due
from controlplane.store.due import Due, Rested
from controlplane.store.pool import ALL_WORKSPACES, Connection, Database
from controlplane.wakeups import Submitter
from workflows.contracts import FiringInput
from workflows.limits import (
    FIRE_PATIENCE_SECONDS,
    RECONCILE_SECONDS,
)

_log = structlog.get_logger(__name__)

T = TypeVar("T")

_AT_ONCE = 8


class Scheduler:
    """What is done for deployments in the background. Any number may run: each step holds the deployment's row."""

    def __init__(self, *, database: Database, client: Client, submitter: Submitter):
        self._database = database
        self._projection = Projection(database=database, client=client)
        self._submitter = submitter

    async def fire(self, firing: FiringInput, *, give_up: bool) -> None:
        """Fire a deployment at a time of its schedule (`workflows.schedule.Firings`)."""

        async def step(found: Firing) -> None:
            await found.on_time(firing.fire_at)

        async def leave(found: Firing) -> None:
            await found.on_time(firing.fire_at, give_up=True)

        try:
            await self._with(firing.workspace_id, firing.deployment_id, step)
        except psycopg.OperationalError:
            raise
        except Exception:
            if not give_up:
                raise
            _log.exception("firing_given_up", deployment_id=firing.deployment_id, fire_at=firing.fire_at.isoformat())
            await self._with(firing.workspace_id, firing.deployment_id, leave)

    async def end(self, rested: Rested) -> None:
        """End a run of which nothing is left to do, and begin the one that waits for it."""

        async def step(found: Firing) -> None:
            await found.end_rested(rested.run_id)
            await found.promote()

        await self._with(rested.workspace_id, rested.deployment_id, step)

    async def end_overdue(self, each: Due) -> None:
        """Interrupt a deployment's runs that are beyond their deadline, and begin what waits for them."""

        async def step(found: Firing) -> None:
            await found.end_overdue()
            await found.promote()

        await self._with(each.workspace_id, each.id, step)

    async def promote(self, each: Due) -> None:
        """Begin what waits and need wait no longer."""
        await self._with(each.workspace_id, each.id, Firing.promote)

    async def make_up(self, each: Due) -> None:
        """Fire what should have been and has no run: what is too late by now is recorded as missed."""
        now = datetime.now(UTC)

        async def step(found: Firing) -> None:
            await found.make_up(now - timedelta(seconds=FIRE_PATIENCE_SECONDS))

        await self._with(each.workspace_id, each.id, step)

    async def _with(self, workspace_id: str, deployment_id: str, step: Callable[[Firing], Awaitable[None]]) -> None:
        async with self._database.transaction(workspace_id) as connection:
            record = await deployments.lock(connection, deployment_id)
            firing = Firing(connection, record, now=datetime.now(UTC))
            await step(firing)
        for session_id, events in firing.queued:
            self._submitter.submitted(workspace_id, session_id, events)

    async def run(self) -> None:
        """Look for what is to be done until cancelled; what fails is tried again, and holds nothing else up.

        Temporal is told in a loop of its own: while it is slow or away, what is late is made up for without it.
        """
        await asyncio.gather(self._look_after_runs(), self._tell_temporal())

    async def _look_after_runs(self) -> None:
        while True:
            await self._each(_neglected, self.make_up)
            await self._each(due.rested, self.end)
            await self._each(due.overdue, self.end_overdue)
            await self._each(due.promotable, self.promote)
            await asyncio.sleep(RECONCILE_SECONDS / 2)

    async def _tell_temporal(self) -> None:
        while True:
            await self._each(due.unprojected, self._projection.project)
            await asyncio.sleep(RECONCILE_SECONDS / 2)

    async def _each(
        self, look: Callable[[Connection], Awaitable[list[T]]], act: Callable[[T], Awaitable[None]]
    ) -> None:
        try:
            async with self._database.transaction(ALL_WORKSPACES) as connection:
                found = await look(connection)
        except psycopg.Error as error:
            _log.warning("schedules_unread", step=act.__name__, cause=str(error).strip())
            return
        except Exception:  # noqa: BLE001 - a scheduler that stops is worse than one that failed
            _log.warning("schedules_unread", step=act.__name__, exc_info=True)
            return
        slots = asyncio.Semaphore(_AT_ONCE)

        async def act_once(each: T) -> None:
            async with slots:
                try:
                    await act(each)
                except (*AWAY, TimeoutError, psycopg.Error) as error:
                    _log.warning("schedule_step_failed", step=act.__name__, cause=str(error).strip())
                except Exception:  # noqa: BLE001 - one deployment's trouble must not be all others'
                    _log.warning("schedule_step_failed", step=act.__name__, exc_info=True)

        await asyncio.gather(*map(act_once, found))


async def _neglected(connection: Connection) -> list[Due]:
    return await due.neglected(connection, older_than=timedelta(seconds=FIRE_PATIENCE_SECONDS))
