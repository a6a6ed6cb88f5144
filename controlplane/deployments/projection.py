"""Temporal's schedules, as the rows of deployments say."""

import asyncio
from datetime import UTC, datetime, timedelta

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

from controlplane.store import deployments, due
from controlplane.store.deployments import DeploymentRecord, ScheduleSettings
from controlplane.store.due import Due
from controlplane.store.pool import Database
from workflows.calendar import upcoming
from workflows.contracts import DEPLOYMENT_WORKFLOW, SCHEDULE_QUEUE, DeploymentInput, schedule_id
from workflows.limits import (
    PROJECTION_LEASE,
    PROJECTION_TIMEOUT,
    SCHEDULE_HORIZON,
    SCHEDULE_HORIZON_LEAST,
    SCHEDULE_HORIZON_TIME,
    WORKFLOW_TASK_TIMEOUT,
)

AWAY = (RPCError, RuntimeError)
"""What a call raises while Temporal is away: the second from a client that has never been connected."""

_RPC_TIMEOUT = timedelta(seconds=5)


class Projection:
    """Tells Temporal when deployments fire. Any number may: each has a deployment's row leased while it does."""

    def __init__(self, *, database: Database, client: Client):
        self._database = database
        self._client = client

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
        except (*AWAY, TimeoutError):
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
