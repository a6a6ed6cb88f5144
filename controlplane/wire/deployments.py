"""Deployments and their runs on the wire."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, TypeAdapter, field_validator

from controlplane.store.deployment_runs import Outcome, RunState
from controlplane.store.deployments import Overlap, ReportsTo, SessionMode, TriggerType
from controlplane.store.sessions import Budget
from controlplane.wire.agents import string_or_object
from controlplane.wire.budgets import Shown
from controlplane.wire.common import Answer, Metadata, MetadataPatch, NonEmpty, Reference, Request
from controlplane.wire.events import MAX_EVENTS, InputEvent, SystemMessage, UserDefineOutcome, UserMessage
from controlplane.wire.sessions import (
    MAX_RESOURCES,
    MAX_VAULTS,
    AgentAtVersion,
    BudgetIds,
    BudgetRequest,
    Moment,
    MountRequest,
)
from workflows.calendar import Dst

MAX_EXCLUDED = 400
MAX_BACKFILL = 100

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DAY = 86_400


def _seconds(value: object) -> object:
    if not isinstance(value, str):
        return value
    number, unit = value[:-1], value[-1:]
    if unit not in _UNITS or not number.isascii() or not number.isdigit() or len(number) > 9:
        raise ValueError("a duration is a number of seconds, or a text such as '90s', '10m', '2h' or '1d'")
    return int(number) * _UNITS[unit]


Duration = Annotated[int, BeforeValidator(_seconds, json_schema_input_type=int | str)]
Day = Annotated[date, Field(strict=False)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
Description = Annotated[str, Field(max_length=2048)]
Expression = Annotated[str, Field(min_length=1, max_length=256, examples=["0 9 * * 1-5"])]
Zone = Annotated[str, Field(min_length=1, max_length=64, examples=["Europe/Berlin"])]

DeployedAgent = Annotated[
    Annotated[Reference, Tag("string")] | Annotated[AgentAtVersion, Tag("object")],
    Discriminator(string_or_object),
]
InitialEvent = Annotated[UserMessage | UserDefineOutcome | SystemMessage, Field(discriminator="type")]
InitialEvents = Annotated[list[InitialEvent], Field(min_length=1, max_length=MAX_EVENTS)]
INITIAL_EVENTS = TypeAdapter[Sequence[InputEvent]](Sequence[InitialEvent])
"""Reads them as they are kept."""

Resources = Annotated[list[MountRequest], Field(max_length=MAX_RESOURCES)]
VaultIds = Annotated[list[Reference], Field(max_length=MAX_VAULTS)]
Deadline = Annotated[Duration, Field(ge=1, le=7 * _DAY)]
PauseOnFailure = Annotated[int, Field(ge=1, le=1000)]


class ScheduleRequest(Request):
    """When a deployment fires: by ``expression``, or every ``interval``. Ours are all fields but the first three."""

    type: Literal["cron"]
    expression: Expression | None = None
    timezone: Zone = "UTC"
    interval: Annotated[Duration, Field(ge=1, le=366 * _DAY)] | None = Field(
        default=None, description="In place of an expression, counted from the schedule's making."
    )
    more_than_once_a_minute: bool = Field(default=False, description="Must be said for an interval below 60 s.")
    exclude_dates: Annotated[list[Day], Field(max_length=MAX_EXCLUDED)] = Field(
        default_factory=list[date], description="Dates, in the schedule's zone, on which nothing fires."
    )
    dst: Dst = Field(
        default="run_once", description="What happens at the times that a clock change skips or repeats."
    )
    jitter: Annotated[Duration, Field(ge=0, le=_DAY)] = Field(
        default=0, description="By how much each firing is put off at most."
    )
    overlap: Overlap = Field(default="skip", description="What happens to a run while the one before it runs.")
    catchup_window: Annotated[Duration, Field(ge=10, le=7 * _DAY)] = Field(
        default=600, description="How late a firing may be made up for."
    )
    max_runs: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    ends_at: Moment | None = None


class TriggerRequest(Request):
    """Who may start a run from outside, and what the payload becomes. ``secret`` is never shown."""

    type: TriggerType
    secret: Annotated[str, Field(min_length=1, max_length=512)] | None = Field(
        default=None,
        description="Write-only. Left out in an update, it stays.",
        json_schema_extra={"writeOnly": True},
    )
    template: NonEmpty = Field(examples=["A new issue: {{ payload.issue.title }}"])


class DeploymentCreate(Request):
    """A new deployment."""

    name: Name
    agent: DeployedAgent
    environment_id: Reference
    initial_events: InitialEvents
    description: Description | None = None
    metadata: Metadata | None = None
    resources: Resources | None = None
    vault_ids: VaultIds | None = None
    budget: BudgetRequest | None = Field(default=None, description="Of each run's session.")
    budget_ids: BudgetIds = Field(
        default_factory=list[Reference], description="Budgets that all its sessions draw on; a spent one pauses it."
    )
    schedule: ScheduleRequest | None = None
    session: SessionMode = Field(default="new", description="Whether each run has a session of its own.")
    deadline: Deadline | None = Field(default=None, description="How long a run may take before it is interrupted.")
    pause_on_failure: PauseOnFailure | None = Field(
        default=None, description="After how many failed runs in a row it is paused."
    )
    trigger: TriggerRequest | None = None
    reports_to: ReportsTo | None = Field(
        default=None, description="The channel that is told what each run came to; one can go on talking there."
    )
    dry_run: bool = False


class DeploymentUpdate(Request):
    """What changes; an omitted field keeps its value, null clears what may be cleared."""

    name: Name = ""
    agent: DeployedAgent = ""
    environment_id: Reference = ""
    initial_events: InitialEvents = Field(default_factory=list[InitialEvent])
    description: Description | None = None
    metadata: MetadataPatch | None = None
    resources: Resources | None = None
    vault_ids: VaultIds | None = None
    budget: BudgetRequest | None = None
    budget_ids: BudgetIds = Field(default_factory=list[Reference])
    schedule: ScheduleRequest | None = None
    session: SessionMode = "new"
    deadline: Deadline | None = None
    pause_on_failure: PauseOnFailure | None = None
    trigger: TriggerRequest | None = None
    reports_to: ReportsTo | None = None


class BackfillRequest(Request):
    """A past range, both ends counted in, whose fire times are to be run."""

    start_at: Moment
    end_at: Moment
    limit: Annotated[int, Field(ge=1, le=MAX_BACKFILL)] = MAX_BACKFILL
    dry_run: bool = False

    @field_validator("end_at")
    @classmethod
    def _forwards(cls, end_at: datetime, info: Any) -> datetime:
        start_at = info.data.get("start_at")
        if start_at is not None and end_at < start_at:
            raise ValueError("the range ends before it starts")
        return end_at


class Schedule(Answer):
    """A schedule. ``expression`` is `@every Ns` for one with an interval. Durations are seconds."""

    type: Literal["cron"] = "cron"
    expression: str
    timezone: str
    last_run_at: datetime | None
    upcoming_runs_at: list[datetime]
    in_words: str
    interval: int | None
    exclude_dates: list[date]
    dst: Dst
    jitter: int
    overlap: Overlap
    catchup_window: int
    max_runs: int | None
    runs_started: int
    ends_at: datetime | None


class Trigger(Answer):
    """A trigger, without its secret. ``path``: where its deliveries go."""

    type: TriggerType
    template: str
    path: str


class DeployedAgentReference(Answer):
    """An agent at a version."""

    type: Literal["agent"] = "agent"
    id: str
    version: int


class Deployment(Answer):
    """A deployment. Ours are ``budget_ids`` and what comes after it."""

    type: Literal["deployment"] = "deployment"
    id: str
    name: str
    description: str | None
    metadata: dict[str, str]
    agent: DeployedAgentReference
    environment_id: str
    initial_events: list[dict[str, Any]]
    resources: list[dict[str, Any]]
    vault_ids: list[str]
    budget: Budget | None
    schedule: Schedule | None
    status: Literal["active", "paused"]
    paused_reason: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None
    budget_ids: list[str]
    session: SessionMode
    session_id: str | None
    deadline: int | None
    pause_on_failure: int | None
    failures: int
    trigger: Trigger | None
    reports_to: ReportsTo | None
    created_by: str


class DeploymentDryRun(Answer):
    """What would have been made: nothing was."""

    type: Literal["deployment_dry_run"] = "deployment_dry_run"
    name: str
    agent: DeployedAgentReference
    schedule: Schedule | None


class TriggerContext(Answer):
    """What started a run. ``source``: the word that we have for it, for the wire format has two."""

    type: Literal["schedule", "manual"]
    source: Literal["schedule", "backfill", "manual", "trigger"]
    scheduled_at: datetime | None
    delivery_id: str | None


class DeploymentRun(Answer):
    """A run. Ours are ``state`` and what comes after it; ``error``, too, says why a run was skipped or missed.

    ``lateness_seconds``: from the scheduled time to the start of its session.
    """

    type: Literal["deployment_run"] = "deployment_run"
    id: str
    deployment_id: str
    agent: DeployedAgentReference
    session_id: str | None
    error: dict[str, Any] | None
    trigger_context: TriggerContext
    created_at: datetime
    state: RunState
    outcome: Outcome | None
    detail: str | None
    cost_usd: Shown | None
    started_at: datetime | None
    ended_at: datetime | None
    lateness_seconds: float | None


class Backfill(Answer):
    """The fire times of a range, and the runs that they became; of those that have a run already there is none."""

    type: Literal["deployment_backfill"] = "deployment_backfill"
    dry_run: bool
    times: list[datetime]
    runs: list[DeploymentRun]


class TriggerAnswer(Answer):
    """A delivery's run. ``duplicate``: it had started one before, and this is that."""

    type: Literal["deployment_trigger"] = "deployment_trigger"
    run_id: str | None
    duplicate: bool
