"""Deployments: an agent with everything that it needs to run by itself, and when it does."""

from datetime import datetime
from typing import Any, Literal, LiteralString

from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict, Field

from controlplane.definitions import stored
from controlplane.errors import NotFoundError
from controlplane.ids import new_id, shown_id
from controlplane.store.pool import Connection, one, rows
from controlplane.store.positions import Position
from controlplane.store.sessions import Budget
from workflows.calendar import Rule, upcoming

Overlap = Literal["skip", "buffer_one", "cancel_other", "allow"]
SessionMode = Literal["new", "continue"]
TriggerType = Literal["github", "slack", "standard_webhooks"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class ScheduleSettings(Rule):
    """When a deployment fires, and what bounds it."""

    jitter_seconds: int = 0
    overlap: Overlap = "skip"
    catchup_window_seconds: int = 600
    max_runs: int | None = None


class ReportsTo(_Frozen):
    """Where what runs come to is told: in a place of a front door."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    front_door_id: str = Field(min_length=1, max_length=128)
    place: str = Field(min_length=1, max_length=128)


class DeploymentContent(_Frozen):
    """What the owner of a deployment says; ``initial_events`` and ``resources`` in the wire format's shape."""

    name: str
    description: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    agent_id: str
    agent_version: int
    environment_id: str
    initial_events: list[dict[str, Any]]
    resources: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])
    vault_ids: list[str] = Field(default_factory=list[str])
    budget: Budget | None = None
    budget_ids: list[str] = Field(default_factory=list[str])
    schedule: ScheduleSettings | None = None
    session: SessionMode = "new"
    deadline_seconds: int | None = None
    pause_on_failure: int | None = None
    reports_to: ReportsTo | None = None


class DeploymentRecord(DeploymentContent):
    """A deployment as recorded; the columns of the migration say what each is."""

    id: str
    workspace_id: str
    created_by: str
    session_id: str | None
    paused_reason: dict[str, Any] | None
    failures: int
    runs_started: int
    next_at: datetime | None
    last_run_at: datetime | None
    version: int
    projected_version: int
    renew_at: datetime | None
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None
    trigger_type: TriggerType | None
    trigger_template: str | None

    @property
    def overlap(self) -> Overlap:
        """What happens to a run that comes while another one runs."""
        return self.schedule.overlap if self.schedule else "skip"

    @property
    def fires(self) -> bool:
        """Whether its schedule starts runs."""
        return self.paused_reason is None and self.has_fire_times

    @property
    def has_fire_times(self) -> bool:
        """Whether its schedule would start runs, were it not paused."""
        schedule = self.schedule
        if schedule is None or self.archived_at is not None:
            return False
        return schedule.max_runs is None or self.runs_started < schedule.max_runs


_SELECT: LiteralString = """
    SELECT d.*, t.type AS trigger_type, t.template AS trigger_template
      FROM deployments d LEFT JOIN deployment_triggers t ON t.deployment_id = d.id"""


async def create(
    connection: Connection, workspace_id: str, *, content: DeploymentContent, created_by: str, now: datetime
) -> str:
    """Make a deployment and return its id."""
    deployment_id = new_id("depl")
    await connection.execute(
        "INSERT INTO deployments (id, workspace_id, name, description, metadata, agent_id, agent_version,"
        " environment_id, initial_events, resources, vault_ids, budget, budget_ids, schedule, session,"
        " deadline_seconds, pause_on_failure, reports_to, created_by, next_at)"
        " VALUES (%(id)s, %(workspace_id)s, %(name)s, %(description)s, %(metadata)s, %(agent_id)s,"
        " %(agent_version)s, %(environment_id)s, %(initial_events)s, %(resources)s, %(vault_ids)s, %(budget)s,"
        " %(budget_ids)s, %(schedule)s, %(session)s, %(deadline_seconds)s, %(pause_on_failure)s,"
        " %(reports_to)s, %(created_by)s,"
        " %(next_at)s)",
        {
            "id": deployment_id,
            "workspace_id": workspace_id,
            "created_by": created_by,
            "next_at": next(iter(upcoming(content.schedule, now, 1)), None) if content.schedule else None,
            **_columns(content),
        },
    )
    return deployment_id


async def get(connection: Connection, deployment_id: str) -> DeploymentRecord:
    """Return a deployment; raises `NotFoundError`."""
    found = await find(connection, deployment_id)
    if found is None:
        raise unknown(deployment_id)
    return found


async def find(connection: Connection, deployment_id: str) -> DeploymentRecord | None:
    """Return a deployment, if it is there."""
    row = await one(connection, _SELECT + " WHERE d.id = %(id)s", {"id": deployment_id})
    return DeploymentRecord.model_validate(row) if row else None


async def lock(connection: Connection, deployment_id: str) -> DeploymentRecord:
    """Return a deployment and keep others from changing it, or starting runs of it, until the transaction ends."""
    await connection.execute("SELECT 1 FROM deployments WHERE id = %(id)s FOR UPDATE", {"id": deployment_id})
    return await get(connection, deployment_id)


async def replace(
    connection: Connection, before: DeploymentRecord, content: DeploymentContent, *, now: datetime
) -> None:
    """Give a deployment new content; with another agent, environment or means its next run begins a new session.

    Another schedule counts its runs anew: one that has no run left would never fire.
    """
    same_session = _session_means(before) == _session_means(content)
    same_schedule = before.schedule == content.schedule
    await connection.execute(
        "UPDATE deployments SET name = %(name)s, description = %(description)s, metadata = %(metadata)s,"
        " agent_id = %(agent_id)s, agent_version = %(agent_version)s, environment_id = %(environment_id)s,"
        " initial_events = %(initial_events)s, resources = %(resources)s, vault_ids = %(vault_ids)s,"
        " budget = %(budget)s, budget_ids = %(budget_ids)s, schedule = %(schedule)s, session = %(session)s,"
        " deadline_seconds = %(deadline_seconds)s, pause_on_failure = %(pause_on_failure)s,"
        " reports_to = %(reports_to)s, session_id = CASE WHEN %(same_session)s THEN session_id END,"
        " updated_at = clock_timestamp(),"
        " runs_started = CASE WHEN %(same_schedule)s THEN runs_started ELSE 0 END"
        " WHERE id = %(id)s",
        {"id": before.id, "same_session": same_session, "same_schedule": same_schedule, **_columns(content)},
    )
    if not same_schedule:
        await rearm(connection, before.id, now=now)


async def rearm(connection: Connection, deployment_id: str, *, now: datetime) -> None:
    """Find out when the deployment fires next, from now on, and have Temporal's schedule hear of it."""
    record = await get(connection, deployment_id)
    next_at = next(iter(upcoming(record.schedule, now, 1)), None) if record.schedule and record.fires else None
    await connection.execute(
        "UPDATE deployments SET next_at = %s, version = version + 1 WHERE id = %s", (next_at, deployment_id)
    )


async def advance(connection: Connection, record: DeploymentRecord, *, beyond: datetime) -> None:
    """Note that runs are recorded of all fire times up to ``beyond``."""
    schedule = record.schedule
    next_at = next(iter(upcoming(schedule, beyond, 1)), None) if schedule and record.fires else None
    await connection.execute("UPDATE deployments SET next_at = %s WHERE id = %s", (next_at, record.id))


async def count_started(connection: Connection, record: DeploymentRecord, *, now: datetime) -> None:
    """Count a run that the schedule starts; after the last one it starts no more."""
    await connection.execute("UPDATE deployments SET runs_started = runs_started + 1 WHERE id = %s", (record.id,))
    if record.schedule is not None and record.schedule.max_runs == record.runs_started + 1:
        await rearm(connection, record.id, now=now)


async def count_failure(connection: Connection, deployment_id: str, *, failed: bool) -> int:
    """Count the failed runs in a row, and return how many there are."""
    row = await one(
        connection,
        "UPDATE deployments SET failures = CASE WHEN %(failed)s THEN failures + 1 ELSE 0 END WHERE id = %(id)s"
        " RETURNING failures",
        {"id": deployment_id, "failed": failed},
    )
    return row["failures"] if row else 0


async def keep_session(connection: Connection, deployment_id: str, session_id: str) -> None:
    """Have later runs go on in a session."""
    await connection.execute("UPDATE deployments SET session_id = %s WHERE id = %s", (session_id, deployment_id))


async def pause(connection: Connection, deployment_id: str, reason: dict[str, Any], *, now: datetime) -> None:
    """Keep a deployment from running by itself; one that is paused already keeps its reason."""
    await connection.execute(
        "UPDATE deployments SET paused_reason = coalesce(paused_reason, %s), updated_at = clock_timestamp()"
        " WHERE id = %s",
        (Jsonb(reason), deployment_id),
    )
    await rearm(connection, deployment_id, now=now)


async def unpause(connection: Connection, deployment_id: str, *, by: str, now: datetime) -> None:
    """Let a deployment run by itself again, from now on; ``by`` acts for it if its creator's key holds no more."""
    await connection.execute(
        "UPDATE deployments SET paused_reason = NULL, failures = 0, updated_at = clock_timestamp(),"
        " created_by = CASE WHEN EXISTS (SELECT FROM api_keys k WHERE k.id = created_by AND k.revoked_at IS NULL)"
        " THEN created_by ELSE %s END WHERE id = %s",
        (by, deployment_id),
    )
    await rearm(connection, deployment_id, now=now)


async def archive(connection: Connection, deployment_id: str, *, now: datetime) -> None:
    """End a deployment for good, with its trigger's secret; doing it again changes nothing."""
    await connection.execute(
        "UPDATE deployments SET archived_at = coalesce(archived_at, now()), paused_reason = NULL,"
        " updated_at = clock_timestamp() WHERE id = %s",
        (deployment_id,),
    )
    await connection.execute("DELETE FROM deployment_triggers WHERE deployment_id = %s", (deployment_id,))
    await rearm(connection, deployment_id, now=now)


async def acts(connection: Connection, record: DeploymentRecord) -> bool:
    """Say whether the key that the deployment acts for still holds."""
    key = await one(
        connection,
        "SELECT FROM api_keys WHERE id = %(id)s AND revoked_at IS NULL",
        {"id": record.created_by},
    )
    return key is not None


class DeploymentFilter(_Frozen):
    """What a listing of deployments is narrowed to."""

    agent_id: str | None = None
    status: Literal["active", "paused"] | None = None
    include_archived: bool = False
    created_at_gte: datetime | None = None
    created_at_lte: datetime | None = None
    beyond: Position | None = None


async def listing(connection: Connection, narrowed: DeploymentFilter, *, limit: int) -> list[DeploymentRecord]:
    """Return up to ``limit`` deployments, newest first."""
    found = await rows(
        connection,
        _SELECT
        + """
         WHERE (%(agent_id)s::text IS NULL OR d.agent_id = %(agent_id)s)
           AND (%(status)s::text IS NULL OR (%(status)s = 'paused') = (d.paused_reason IS NOT NULL))
           AND (%(include_archived)s OR d.archived_at IS NULL)
           AND (%(gte)s::timestamptz IS NULL OR d.created_at >= %(gte)s)
           AND (%(lte)s::timestamptz IS NULL OR d.created_at <= %(lte)s)
           AND (%(beyond_at)s::timestamptz IS NULL
                OR (d.created_at, d.id) < (%(beyond_at)s::timestamptz, %(beyond_id)s::text))
         ORDER BY d.created_at DESC, d.id DESC LIMIT %(limit)s""",
        {
            "agent_id": narrowed.agent_id,
            "status": narrowed.status,
            "include_archived": narrowed.include_archived,
            "gte": narrowed.created_at_gte,
            "lte": narrowed.created_at_lte,
            "beyond_at": narrowed.beyond.created_at if narrowed.beyond else None,
            "beyond_id": narrowed.beyond.id if narrowed.beyond else None,
            "limit": limit,
        },
    )
    return [DeploymentRecord.model_validate(row) for row in found]


def unknown(deployment_id: str) -> NotFoundError:
    """The error for a deployment that is not there."""
    return NotFoundError(
        f"no deployment {shown_id(deployment_id)!r}",
        code="deployment_not_found",
        field="deployment_id",
        next_step="list the deployments",
    )


def _session_means(content: DeploymentContent) -> tuple[object, ...]:
    return (
        content.agent_id, content.agent_version, content.environment_id, content.resources, content.vault_ids,
        content.budget, content.budget_ids, content.session,
    )  # fmt: skip


def _columns(content: DeploymentContent) -> dict[str, object]:
    plain = ("name", "description", "agent_id", "agent_version", "environment_id", "session", "deadline_seconds",
             "pause_on_failure")  # fmt: skip
    return {
        **{name: getattr(content, name) for name in plain},
        "metadata": Jsonb(content.metadata),
        "initial_events": Jsonb(content.initial_events),
        "resources": Jsonb(content.resources),
        "vault_ids": Jsonb(content.vault_ids),
        "budget": Jsonb(stored(content.budget)) if content.budget else None,
        "budget_ids": Jsonb(content.budget_ids),
        "schedule": Jsonb(content.schedule.model_dump(mode="json")) if content.schedule else None,
        "reports_to": Jsonb(stored(content.reports_to)) if content.reports_to else None,
    }
