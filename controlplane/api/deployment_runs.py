"""/v1/deployment_runs: what deployments did, or did not, and why."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from controlplane.api.exchange import CurrentExchange, json_response
from controlplane.api.pages import DEFAULT_LIMIT, LimitParam, PageParam, Times, cut, decode, times
from controlplane.store import deployment_runs
from controlplane.store.deployment_runs import RunFilter, RunRecord
from controlplane.store.positions import Position
from controlplane.wire.common import Page
from controlplane.wire.deployments import DeployedAgentReference, DeploymentRun, TriggerContext

router = APIRouter(prefix="/v1/deployment_runs", tags=["deployments"])


@router.get("", response_model=Page[DeploymentRun])
async def list_runs(
    exchange: CurrentExchange,
    window: Annotated[Times, Depends(times)],
    deployment_id: Annotated[str | None, Query(max_length=128)] = None,
    has_error: bool | None = None,
    trigger_type: Annotated[Literal["schedule", "manual"] | None, Query(description="What started them.")] = None,
    limit: LimitParam = DEFAULT_LIMIT,
    page: PageParam = None,
) -> Response:
    """List the runs of one deployment or of all, newest first."""
    narrowed = RunFilter(
        deployment_id=deployment_id,
        scheduled=trigger_type == "schedule" if trigger_type is not None else None,
        has_error=has_error,
        created_at_gt=window.gt,
        created_at_gte=window.gte,
        created_at_lt=window.lt,
        created_at_lte=window.lte,
        beyond=decode(page, "deployment_runs").position(),
    )
    async with exchange.transaction() as connection:
        found = await deployment_runs.listing(connection, narrowed, limit=limit + 1)
    shown, following = cut(found, limit, "deployment_runs", lambda r: Position(created_at=r.created_at, id=r.id))
    return json_response(Page[DeploymentRun](data=[wire_run(record) for record in shown], next_page=following))


@router.get("/{deployment_run_id}", response_model=DeploymentRun)
async def get_run(exchange: CurrentExchange, deployment_run_id: str) -> Response:
    """Get a run."""
    async with exchange.transaction() as connection:
        return json_response(wire_run(await deployment_runs.get(connection, deployment_run_id)))


def wire_run(record: RunRecord) -> DeploymentRun:
    """Return a run as clients see it."""
    same = ("id", "deployment_id", "session_id", "error", "created_at", "state", "outcome", "detail", "cost_usd",
            "started_at", "ended_at")  # fmt: skip
    late = None
    if record.scheduled_at is not None and record.started_at is not None:
        late = (record.started_at - record.scheduled_at).total_seconds()
    is_scheduled = record.kind in ("schedule", "backfill")
    return DeploymentRun(
        **{name: getattr(record, name) for name in same},
        agent=DeployedAgentReference(id=record.agent_id, version=record.agent_version),
        trigger_context=TriggerContext(
            type="schedule" if is_scheduled else "manual",
            source=record.kind,
            scheduled_at=record.scheduled_at,
            delivery_id=record.delivery_id,
        ),
        lateness_seconds=late,
    )
