"""Sessions, their resources and their thread on the wire."""

import posixpath
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, ConfigDict, Discriminator, Field, RootModel, Tag, field_validator

from controlplane.definitions import SessionAgent, SessionAgentBase
from controlplane.explanation import Explanation
from controlplane.store.sessions import Budget, SessionStatus
from controlplane.wire.agents import Harness, Mode, Model, SkillRequests, System, string_or_object
from controlplane.wire.common import Answer, Metadata, MetadataPatch, Page, Reference, Request, Version
from controlplane.wire.events import MAX_EVENTS, UserDefineOutcome, UserMessage
from controlplane.wire.tools import McpServerRequests, ToolRequests
from workflows.failures import Cause, Failure

MOUNT_ROOTS = ("/workspace/", "/mnt/session/")
MAX_RESOURCES = 500
MAX_VAULTS = 20
MAX_BUDGETS = 10

Moment = Annotated[AwareDatetime, Field(strict=False)]
Title = Annotated[str, Field(max_length=512)]


class AgentAtVersion(Request):
    """An agent, at its newest version where none is given."""

    type: Literal["agent"]
    id: Reference
    version: Version | None = None


class AgentWithOverrides(Request):
    """An agent with replacements for this session: omitted inherits, null or empty clears, a value replaces."""

    type: Literal["agent_with_overrides"]
    id: Reference
    version: Version | None = None
    model: Model = ""
    system: System | None = None
    tools: ToolRequests | None = None
    mcp_servers: McpServerRequests | None = None
    skills: SkillRequests | None = None


AgentChoice = Annotated[
    Annotated[Reference, Tag("string")]
    | Annotated[Annotated[AgentAtVersion | AgentWithOverrides, Field(discriminator="type")], Tag("object")],
    Discriminator(string_or_object),
]


class AmountRequest(Request):
    """Minor units, as a decimal string: "2500" is $25.00."""

    amount: Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,17})$")]
    currency: Literal["USD"]


class BudgetRequest(Request):
    """The most that the session may cost at list price, and the most tokens of any kind that it may use."""

    type: Literal["limit"]
    max_list_cost: AmountRequest
    max_tokens: Annotated[int, Field(ge=1, le=2**53)] | None = None


BudgetIds = Annotated[list[Reference], Field(max_length=MAX_BUDGETS)]


class FileMountRequest(Request):
    """A file to mount in the session's sandbox."""

    type: Literal["file"]
    file_id: Reference
    mount_path: Annotated[str, Field(max_length=1024)] | None = None

    @field_validator("mount_path")
    @classmethod
    def _inside_roots(cls, path: str | None) -> str | None:
        if path is None:
            return None
        if not path.startswith(MOUNT_ROOTS) or posixpath.normpath(path) != path:
            raise ValueError(f"a mount path is absolute, normalized, and under one of {', '.join(MOUNT_ROOTS)}")
        return path


class StoreMountRequest(Request):
    """A memory store that the session's agent may read, and write to unless it is to be ``read_only``."""

    type: Literal["memory_store"]
    memory_store_id: Reference
    access: Literal["read_write", "read_only"] | None = None
    instructions: Annotated[str, Field(max_length=4096)] | None = None


class UnsupportedMount(Request):
    """Repositories are not in this version."""

    model_config = ConfigDict(extra="allow")
    type: Literal["github_repository"]


MountRequest = Annotated[FileMountRequest | StoreMountRequest | UnsupportedMount, Field(discriminator="type")]


class AddedMount(RootModel[Annotated[FileMountRequest | StoreMountRequest, Field(discriminator="type")]]):
    """What may be added to a session that is there."""

    model_config = ConfigDict(frozen=True, strict=True, hide_input_in_errors=True)


InitialEvent = Annotated[UserMessage | UserDefineOutcome, Field(discriminator="type")]


class SessionCreate(Request):
    """A new session."""

    agent: AgentChoice
    environment_id: Reference
    title: Title | None = None
    metadata: Metadata | None = None
    resources: Annotated[list[MountRequest], Field(max_length=MAX_RESOURCES)] | None = None
    vault_ids: Annotated[list[Reference], Field(max_length=MAX_VAULTS)] | None = Field(
        default=None, description="Of two credentials of one name, that of the first vault counts."
    )
    budget: BudgetRequest | None = None
    budget_ids: BudgetIds = Field(
        default_factory=list[Reference], description="Budgets that it draws on together with other sessions."
    )
    user_id: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        default=None, description="On whose behalf the session works; memory stores of that user may be attached."
    )
    initial_events: Annotated[list[InitialEvent], Field(max_length=MAX_EVENTS)] | None = None


class SessionAgentUpdate(Request):
    """Replacements for the tools and servers of a session's agent; omitted keeps, empty clears."""

    tools: ToolRequests | None = None
    mcp_servers: McpServerRequests | None = None


class MoveSettings(Request):
    """What the session's agent works with from its next turn on; omitted keeps."""

    model: Model | None = None
    harness: Harness | None = None
    harness_mode: Mode | None = None


class SessionUpdate(MoveSettings):
    """What changes; an omitted field keeps its value."""

    title: Title | None = None
    metadata: MetadataPatch | None = None
    budget: BudgetRequest | None = None
    budget_ids: BudgetIds = Field(default_factory=list[Reference])
    agent: SessionAgentUpdate | None = None
    vault_ids: list[str] | None = None


class SessionResume(MoveSettings):
    """How to try a failed turn again."""

    budget: BudgetRequest | None = None


class SessionsResume(MoveSettings):
    """Which failed sessions to try again, and how fast. Omitted fields narrow nothing."""

    agent_id: Reference | None = None
    statuses: Annotated[list[Literal["exhausted", "terminal"]], Field(min_length=1)] = Field(
        default=["exhausted"], description="Of the failure: another try cannot help one that is `terminal`."
    )
    causes: Annotated[list[Cause], Field(min_length=1)] | None = None
    failed_after: Moment | None = None
    failed_before: Moment | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 1000
    rate_per_second: Annotated[float, Field(ge=0.01, le=100)] = Field(
        default=2.0, description="How many are tried again in a second."
    )
    dry_run: bool = False


class ResumedSession(Answer):
    """A session that is tried again, at ``resume_at`` at the earliest."""

    session_id: str
    resume_at: datetime


class SessionsResumed(Answer):
    """The sessions that are tried again, or would be; ``has_more``: more than the limit did match."""

    type: Literal["sessions_resumed"] = "sessions_resumed"
    dry_run: bool
    data: list[ResumedSession]
    has_more: bool


class ResourceUpdate(Request):
    """A new token for a repository; files have none."""

    authorization_token: str


class FileResource(Answer):
    """A mounted file."""

    type: Literal["file"] = "file"
    id: str
    file_id: str
    mount_path: str
    created_at: datetime
    updated_at: datetime


class StoreResource(Answer):
    """An attached memory store; `id` and the times are ours."""

    type: Literal["memory_store"] = "memory_store"
    id: str
    memory_store_id: str
    access: Literal["read_write", "read_only"]
    name: str
    description: str
    instructions: str | None
    mount_path: str
    created_at: datetime
    updated_at: datetime


AnyResource = Annotated[FileResource | StoreResource, Field(discriminator="type")]


class ResourceAnswer(RootModel[AnyResource]):
    """A file or a memory store."""


class ResourceDeleted(Answer):
    """The resource is gone."""

    type: Literal["session_resource_deleted"] = "session_resource_deleted"
    id: str


class SessionStats(Answer):
    """How long a session has been there, and how long it worked."""

    active_seconds: float
    duration_seconds: float


class SessionFailure(Failure):
    """Why a session's last turn failed."""

    turn_id: str
    at: datetime


class Session(Answer):
    """A session. Ours are `last_seq`, its newest event; `stop_reason`, why it is idle; and `failure`, why its last
    turn failed or is being tried again."""

    type: Literal["session"] = "session"
    id: str
    agent: SessionAgent
    environment_id: str
    title: str | None
    metadata: dict[str, str]
    status: SessionStatus
    stop_reason: dict[str, Any] | None
    failure: SessionFailure | None
    last_seq: int
    budget: Budget | None
    budget_ids: list[str]
    user_id: str | None
    resources: list[AnyResource]
    vault_ids: list[str]
    outcome_evaluations: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])
    usage: dict[str, Any]
    stats: SessionStats
    deployment_id: str | None = None
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None


class SessionExplanation(Explanation, Answer):
    """Where a session stands, why, what runs for it, what waits, and what to do."""

    type: Literal["session_explanation"] = "session_explanation"
    session_id: str


class SessionPage(Page[Session]):
    """A page of sessions, with the way back."""

    prev_page: str | None = None


class SessionDeleted(Answer):
    """The session is gone."""

    type: Literal["session_deleted"] = "session_deleted"
    id: str


class SessionThread(Answer):
    """The one thread of a session."""

    type: Literal["session_thread"] = "session_thread"
    id: str
    session_id: str
    agent: SessionAgentBase
    parent_thread_id: str | None = None
    workflow_run_id: str | None = None
    status: SessionStatus
    stats: SessionStats | None
    usage: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None
