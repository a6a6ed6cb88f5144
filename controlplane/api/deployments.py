"""/v1/deployments: agents that run by themselves, on time or when told to."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel
from starlette.responses import Response

from controlplane.api.deployment_runs import wire_run
from controlplane.api.exchange import CurrentExchange, Exchange, json_response, reads
from controlplane.api.pages import DEFAULT_LIMIT, PageParam, SmallLimitParam, Times, cut, decode, times
from controlplane.checks import refused, require_unarchived
from controlplane.deployments import timing
from controlplane.deployments.content import changed, check_trigger, checked, made, put_trigger
from controlplane.deployments.firing import Firing, Queued, run_id
from controlplane.errors import ConflictError
from controlplane.ids import new_id
from controlplane.store import deployment_runs, deployments
from controlplane.store.deployment_runs import NewRun
from controlplane.store.deployments import DeploymentFilter, DeploymentRecord
from controlplane.store.pool import Connection
from controlplane.store.positions import Position
from controlplane.wire.common import Page
from controlplane.wire.deployments import (
    Backfill,
    BackfillRequest,
    DeployedAgentReference,
    Deployment,
    DeploymentCreate,
    DeploymentDryRun,
    DeploymentRun,
    DeploymentUpdate,
    Trigger,
)
from workflows.calendar import between

router = APIRouter(prefix="/v1/deployments", tags=["deployments"])

_LONGEST_BACKFILL = timedelta(days=366)
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)


@router.post("", response_model=Deployment | DeploymentDryRun)
async def create_deployment(
    exchange: CurrentExchange, wanted: DeploymentCreate = reads(DeploymentCreate)
) -> Response:
    """Make a deployment. The answer says in words what was understood; with `dry_run` nothing is made."""
    now = _now()

    async def effect(connection: Connection) -> BaseModel:
        content = await made(connection, wanted, now=now)
        await checked(connection, content, by=exchange.key_id)
        check_trigger(wanted.trigger)
        if wanted.dry_run:
            return DeploymentDryRun(
                name=content.name,
                agent=_wire_agent(content.agent_id, content.agent_version),
                schedule=timing.shown(content.schedule, now=now) if content.schedule else None,
            )
        deployment_id = await deployments.create(
            connection, exchange.workspace_id, content=content, created_by=exchange.key_id, now=now
        )
        if wanted.trigger is not None:
            record = await deployments.get(connection, deployment_id)
            await put_trigger(connection, record, wanted.trigger, keyring=exchange.parts.keyring)
        return _wire(await deployments.get(connection, deployment_id), now=now)

    return await exchange.once(effect)


@router.get("", response_model=Page[Deployment])
async def list_deployments(
    exchange: CurrentExchange,
    window: Annotated[Times, Depends(times)],
    agent_id: Annotated[str | None, Query(max_length=128)] = None,
    status: Annotated[Literal["active", "paused"] | None, Query(description="Not with include_archived.")] = None,
    include_archived: bool = False,
    limit: SmallLimitParam = DEFAULT_LIMIT,
    page: PageParam = None,
) -> Response:
    """List deployments, newest first."""
    if status is not None and include_archived:
        raise refused("status", "cannot be combined with include_archived", next_step="use one of the two")
    narrowed = DeploymentFilter(
        agent_id=agent_id,
        status=status,
        include_archived=include_archived,
        created_at_gte=window.gte,
        created_at_lte=window.lte,
        beyond=decode(page, "deployments").position(),
    )
    async with exchange.transaction() as connection:
        found = await deployments.listing(connection, narrowed, limit=limit + 1)
    shown, following = cut(found, limit, "deployments", lambda d: Position(created_at=d.created_at, id=d.id))
    now = _now()
    return json_response(Page[Deployment](data=[_wire(record, now=now) for record in shown], next_page=following))


@router.get("/{deployment_id}", response_model=Deployment)
async def get_deployment(exchange: CurrentExchange, deployment_id: str) -> Response:
    """Get a deployment."""
    async with exchange.transaction() as connection:
        record = await deployments.get(connection, deployment_id)
    return json_response(_wire(record, now=_now()))


@router.post("/{deployment_id}", response_model=Deployment)
async def update_deployment(
    exchange: CurrentExchange, deployment_id: str, wanted: DeploymentUpdate = reads(DeploymentUpdate)
) -> Response:
    """Change a deployment. Runs that run already go on as they are, and what was due goes by the old schedule.

    What waits begins as the deployment is by then.
    """

    async def change(connection: Connection, firing: Firing, before: DeploymentRecord, now: datetime) -> None:
        content = await changed(connection, before, wanted, now=now)
        await checked(connection, content, by=exchange.key_id)
        if content.schedule != before.schedule and not await firing.make_up(now):
            raise ConflictError(
                "firings of the schedule as it was are still being made up for",
                code="firings_due",
                field="schedule",
                next_step="send it again in some seconds",
            )
        await deployments.replace(connection, before, content, now=now)
        if "trigger" in wanted.model_fields_set:
            await put_trigger(connection, before, wanted.trigger, keyring=exchange.parts.keyring)

    return await _changed(exchange, deployment_id, change)


@router.post("/{deployment_id}/pause", response_model=Deployment)
async def pause_deployment(exchange: CurrentExchange, deployment_id: str) -> Response:
    """Keep a deployment from running by itself; pausing it again changes nothing."""

    async def change(connection: Connection, firing: Firing, before: DeploymentRecord, now: datetime) -> None:
        await firing.call_off("the deployment was paused before it could begin")
        await deployments.pause(connection, before.id, {"type": "manual"}, now=now)

    return await _changed(exchange, deployment_id, change)


@router.post("/{deployment_id}/unpause", response_model=Deployment)
async def unpause_deployment(exchange: CurrentExchange, deployment_id: str) -> Response:
    """Let a deployment run by itself again, from now on. What it missed while it was paused is not made up for.

    Where the key that it acted for was revoked, it acts for the caller's from now on.
    """

    async def change(connection: Connection, _: Firing, before: DeploymentRecord, now: datetime) -> None:
        if before.paused_reason is not None:
            await deployments.unpause(connection, before.id, by=exchange.key_id, now=now)

    return await _changed(exchange, deployment_id, change)


@router.post("/{deployment_id}/archive", response_model=Deployment)
async def archive_deployment(exchange: CurrentExchange, deployment_id: str) -> Response:
    """End a deployment for good. Its runs go on to their end; what waits does not begin."""

    async def effect(connection: Connection) -> Deployment:
        now = _now()
        before = await deployments.lock(connection, deployment_id)
        if before.archived_at is None:
            await Firing(connection, before, now=now).call_off("the deployment was archived before it could begin")
            await deployments.archive(connection, deployment_id, now=now)
        return _wire(await deployments.get(connection, deployment_id), now=now)

    return await exchange.once(effect)


@router.post("/{deployment_id}/run", response_model=DeploymentRun)
async def run_deployment(exchange: CurrentExchange, deployment_id: str) -> Response:
    """Run a deployment now, also one that is paused, and whatever else runs. The run says what came of it."""
    queued: Queued = []

    async def effect(connection: Connection) -> DeploymentRun:
        record = await deployments.lock(connection, deployment_id)
        require_unarchived("deployment", record.id, record.archived_at)
        firing = Firing(connection, record, now=_now())
        run = await firing.at_once(NewRun(id=new_id("drun"), kind="manual"))
        queued.extend(firing.queued)
        return wire_run(run)

    response = await exchange.once(effect)
    _tell(exchange, queued)
    return response


@router.post("/{deployment_id}/backfill", response_model=Backfill)
async def backfill_deployment(
    exchange: CurrentExchange, deployment_id: str, wanted: BackfillRequest = reads(BackfillRequest)
) -> Response:
    """Run a deployment for the times of a past range that it has no run of, one after the other.

    The range has at most `limit` fire times, and a year at most. With `dry_run` nothing is run.
    """
    now = _now()
    _check_range(wanted, now)
    queued: Queued = []

    async def effect(connection: Connection) -> Backfill:
        record = await deployments.lock(connection, deployment_id)
        missed = await _missed(connection, record, wanted)
        if wanted.dry_run:
            return Backfill(dry_run=True, times=missed, runs=[])
        firing = Firing(connection, record, now=now)
        new = [NewRun(id=run_id(record.id, at), kind="backfill", scheduled_at=at) for at in missed]
        runs = await firing.in_line(*new)
        queued.extend(firing.queued)
        return Backfill(dry_run=False, times=missed, runs=[wire_run(run) for run in runs])

    response = await exchange.once(effect)
    _tell(exchange, queued)
    return response


async def _changed(
    exchange: Exchange,
    deployment_id: str,
    change: Callable[[Connection, Firing, DeploymentRecord, datetime], Awaitable[None]],
) -> Response:
    queued: Queued = []

    async def effect(connection: Connection) -> Deployment:
        now = _now()
        before = await deployments.lock(connection, deployment_id)
        require_unarchived("deployment", before.id, before.archived_at)
        firing = Firing(connection, before, now=now)
        await change(connection, firing, before, now)
        queued.extend(firing.queued)
        return _wire(await deployments.get(connection, deployment_id), now=now)

    response = await exchange.once(effect)
    _tell(exchange, queued)
    return response


def _check_range(wanted: BackfillRequest, now: datetime) -> None:
    if wanted.start_at < _EARLIEST:
        raise refused("start_at", f"before {_EARLIEST:%Y-%m-%d}", next_step="give a later start")
    if wanted.end_at > now:
        raise refused("end_at", "not in the past", next_step="give an earlier end; the schedule runs what is to come")
    if wanted.end_at - wanted.start_at > _LONGEST_BACKFILL:
        raise refused("start_at", "the range is longer than a year", next_step="give a shorter range")


async def _missed(connection: Connection, record: DeploymentRecord, wanted: BackfillRequest) -> list[datetime]:
    require_unarchived("deployment", record.id, record.archived_at)
    if record.schedule is None:
        raise refused("deployment_id", "the deployment has no schedule", next_step="run it with /run")
    if record.paused_reason is not None:
        raise ConflictError(
            "the deployment is paused",
            code="deployment_paused",
            field="deployment_id",
            next_step="unpause it, then backfill",
        )
    found = between(record.schedule, wanted.start_at, wanted.end_at, most=wanted.limit + 1)
    if len(found) > wanted.limit:
        raise refused(
            "limit",
            f"the range has more than {wanted.limit} fire times",
            code="too_many_runs",
            next_step="give a shorter range",
        )
    recorded = await deployment_runs.recorded_times(connection, record.id, start=wanted.start_at, end=wanted.end_at)
    return [at for at in found if at not in recorded]


def _tell(exchange: Exchange, queued: Queued) -> None:
    for session_id, events in queued:
        exchange.parts.submitter.submitted(exchange.workspace_id, session_id, events)


def _now() -> datetime:
    return datetime.now(UTC)


def _wire(record: DeploymentRecord, *, now: datetime) -> Deployment:
    """Return a deployment as clients see it."""
    same = (
        "id", "name", "description", "metadata", "environment_id", "initial_events", "resources", "vault_ids",
        "budget", "paused_reason", "created_at", "updated_at", "archived_at", "budget_ids", "session", "session_id",
        "pause_on_failure", "failures", "created_by", "reports_to",
    )  # fmt: skip
    trigger = None
    if record.trigger_type is not None:
        path = f"/v1/deployments/{record.id}/trigger"
        trigger = Trigger(type=record.trigger_type, template=record.trigger_template or "", path=path)
    return Deployment(
        **{name: getattr(record, name) for name in same},
        agent=_wire_agent(record.agent_id, record.agent_version),
        schedule=timing.shown(record.schedule, now=now, record=record) if record.schedule else None,
        status="active" if record.paused_reason is None else "paused",
        deadline=record.deadline_seconds,
        trigger=trigger,
    )


def _wire_agent(agent_id: str, version: int) -> DeployedAgentReference:
    """Return an agent at a version as clients see it."""
    return DeployedAgentReference(id=agent_id, version=version)
