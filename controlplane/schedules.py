"""Deployments at work: fires them, ends their runs, and has Temporal's schedules follow their rows."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import psycopg
import structlog
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleCalendarSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleRange,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from controlplane.api.parts import Submitter
from controlplane.firing import Firing
from controlplane.store import deployments, due
from controlplane.store.deployments import DeploymentRecord, ScheduleSettings
from controlplane.store.due import Due, Rested
from controlplane.store.pool import ALL_WORKSPACES, Connection, Database
from workflows.calendar import upcoming
from workflows.contracts import DEPLOYMENT_WORKFLOW, SCHEDULE_QUEUE, DeploymentInput, FiringInput, schedule_id
from workflows.limits import (
    FIRE_PATIENCE_SECONDS,
    PROJECTION_LEASE,
    PROJECTION_TIMEOUT,
    RECONCILE_SECONDS,
    SCHEDULE_HORIZON,
    SCHEDULE_HORIZON_LEAST,
    SCHEDULE_HORIZON_TIME,
    WORKFLOW_TASK_TIMEOUT,
)

_log = structlog.get_logger(__name__)

T = TypeVar("T")

_AWAY = (RPCError, RuntimeError)
"""What a call raises while Temporal is away: the second from a client that has never been connected."""

_RPC_TIMEOUT = timedelta(seconds=5)
_AT_ONCE = 8


class Scheduler:
    """What is done for deployments in the background. Any number may run: each step holds the deployment's row."""

    def __init__(self, *, database: Database, client: Client, submitter: Submitter):
        self._database = database
        self._client = client
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

    async def project(self, each: Due) -> None:
        """Have Temporal's schedule be as the deployment's row says. The row comes first: killed in between, again.

        No transaction is open while Temporal is talked to: while it is slow, requests need the connections.
        """
        async with self._database.transaction(each.workspace_id) as connection:
            if not await due.claim_projection(connection, each.id, lease=PROJECTION_LEASE):
                return
            record = await deployments.get(connection, each.id)
        try:
            async with asyncio.timeout(PROJECTION_TIMEOUT.total_seconds()):
                renew_at = await self._tell(record)
        except (*_AWAY, TimeoutError):
            async with self._database.transaction(each.workspace_id) as connection:
                await due.release_projection(connection, each.id)
            raise
        async with self._database.transaction(each.workspace_id) as connection:
            await due.projected(connection, each.id, version=record.version, renew_at=renew_at)

    async def _tell(self, record: DeploymentRecord) -> datetime | None:
        """Tell Temporal of a deployment, and return when it must be told of more times."""
        times, renew_at = _ahead(record.schedule, datetime.now(UTC)) if record.schedule else ([], None)
        if record.schedule is None or not record.fires or not times:
            await self._delete(record.id)
            return None
        await self._put(record, record.schedule, times)
        return renew_at

    async def _put(self, record: DeploymentRecord, settings: ScheduleSettings, times: list[datetime]) -> None:
        wanted = _schedule(record, settings, times)
        handle = self._client.get_schedule_handle(schedule_id(record.id))

        def replaced(_: ScheduleUpdateInput) -> ScheduleUpdate:
            return ScheduleUpdate(schedule=wanted)

        try:
            await self._client.create_schedule(schedule_id(record.id), wanted, rpc_timeout=_RPC_TIMEOUT)
        except ScheduleAlreadyRunningError:
            await handle.update(replaced, rpc_timeout=_RPC_TIMEOUT)

    async def _delete(self, deployment_id: str) -> None:
        try:
            await self._client.get_schedule_handle(schedule_id(deployment_id)).delete(rpc_timeout=_RPC_TIMEOUT)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise

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
            await self._each(due.unprojected, self.project)
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
                except (*_AWAY, TimeoutError, psycopg.Error) as error:
                    _log.warning("schedule_step_failed", step=act.__name__, cause=str(error).strip())
                except Exception:  # noqa: BLE001 - one deployment's trouble must not be all others'
                    _log.warning("schedule_step_failed", step=act.__name__, exc_info=True)

        await asyncio.gather(*map(act_once, found))


async def _neglected(connection: Connection) -> list[Due]:
    return await due.neglected(connection, older_than=timedelta(seconds=FIRE_PATIENCE_SECONDS))


def _ahead(settings: ScheduleSettings, now: datetime) -> tuple[list[datetime], datetime | None]:
    """Return the fire times that Temporal is given, and when it must be given more.

    Half of them are there for whoever comes late to give more.
    """
    found = upcoming(settings, now, SCHEDULE_HORIZON + 1)
    near = sum(at <= now + SCHEDULE_HORIZON_TIME for at in found)
    given = found[: min(SCHEDULE_HORIZON, max(SCHEDULE_HORIZON_LEAST, near))]
    return given, given[len(given) // 2] if len(given) < len(found) else None


def _schedule(record: DeploymentRecord, settings: ScheduleSettings, times: list[datetime]) -> Schedule:
    return Schedule(
        action=ScheduleActionStartWorkflow(
            DEPLOYMENT_WORKFLOW,
            DeploymentInput(deployment_id=record.id, workspace_id=record.workspace_id),
            id=schedule_id(record.id),
            task_queue=SCHEDULE_QUEUE,
            task_timeout=WORKFLOW_TASK_TIMEOUT,
        ),
        spec=ScheduleSpec(
            calendars=[calendar_of(each) for each in times], jitter=timedelta(seconds=settings.jitter_seconds)
        ),
        policy=SchedulePolicy(
            # What overlaps is decided where the runs are, for those of all kinds together.
            overlap=ScheduleOverlapPolicy.ALLOW_ALL,
            catchup_window=timedelta(seconds=settings.catchup_window_seconds),
        ),
        state=ScheduleState(note=f"of deployment {record.id}, version {record.version}"),
    )


def calendar_of(at: datetime) -> ScheduleCalendarSpec:
    """Return an instant as Temporal is told of it."""

    def only(value: int) -> list[ScheduleRange]:
        return [ScheduleRange(value)]

    return ScheduleCalendarSpec(
        year=only(at.year),
        month=only(at.month),
        day_of_month=only(at.day),
        hour=only(at.hour),
        minute=only(at.minute),
        second=only(at.second),
    )
