"""Agents on the wire."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from controlplane.definitions import AgentDefinition, Effort, EffortLevel, HarnessMode, ModelChoice, Skill
from controlplane.wire.common import Metadata, MetadataPatch, Reference, Request, Version
from controlplane.wire.tools import McpServerRequests, ToolRequests

Name = Annotated[str, Field(min_length=1, max_length=256)]
System = Annotated[str, Field(max_length=100_000)]
ModelName = Annotated[str, Field(min_length=1, max_length=256)]
MAX_FALLBACKS = 5


def string_or_object(value: Any) -> str:
    """Tell the short form of a union from its object form."""
    return "string" if isinstance(value, str) else "object"


class EffortRequest(Request):
    """How hard the model works on each request."""

    type: EffortLevel


class ModelRequest(Request):
    """A model with further settings."""

    id: ModelName
    effort: (
        Annotated[
            Annotated[EffortLevel, Tag("string")] | Annotated[EffortRequest, Tag("object")],
            Discriminator(string_or_object),
        ]
        | None
    ) = None
    fallbacks: Annotated[list[ModelName], Field(max_length=MAX_FALLBACKS)] | None = Field(
        default=None,
        description="Models that stand in for it, in this order, where it is overloaded, limited or does not answer;"
        " of these only such as are served in the same wire format.",
    )
    inference_geo: Annotated[str, Field(max_length=64)] | None = None
    speed: Literal["standard", "fast"] | None = None

    def resolve(self, before: ModelChoice | None = None) -> ModelChoice:
        """Fill in the defaults; an omitted effort, or omitted fallbacks, keep those ``before``."""
        effort = (
            Effort(type=self.effort.type if isinstance(self.effort, EffortRequest) else self.effort)
            if (self.effort)
            else None
        )
        if "effort" not in self.model_fields_set and before is not None:
            effort = before.effort
        fallbacks = self.fallbacks or []
        if "fallbacks" not in self.model_fields_set and before is not None:
            fallbacks = before.fallbacks
        return ModelChoice(
            id=self.id,
            effort=effort,
            fallbacks=[*dict.fromkeys(each for each in fallbacks if each != self.id)],
            inference_geo=self.inference_geo,
            speed=self.speed or "standard",
        )


Model = Annotated[
    Annotated[ModelName, Tag("string")] | Annotated[ModelRequest, Tag("object")], Discriminator(string_or_object)
]


def resolved_model(model: str | ModelRequest, before: ModelChoice | None = None) -> ModelChoice:
    """Return a model given by name or as an object with its defaults filled in."""
    return (ModelRequest(id=model) if isinstance(model, str) else model).resolve(before)


class SkillRequest(Request):
    """A skill, at the newest version where none is pinned."""

    type: Literal["anthropic", "custom"]
    skill_id: Reference
    version: Reference | None = None

    def resolve(self) -> Skill:
        """Return the skill as it is kept."""
        return Skill(type=self.type, skill_id=self.skill_id, version=self.version or "latest")


SkillRequests = Annotated[list[SkillRequest], Field(max_length=64)]


class ServiceAccountRequest(Request):
    """The default execution identity, and the only one here."""

    type: Literal["service_account"]


class AgentReferenceRequest(Request):
    """An agent, at its newest version where none is given."""

    type: Literal["agent"]
    id: Reference
    version: Version | None = None


class SelfRequest(Request):
    """The agent itself."""

    type: Literal["self"]


class AdvisorRequest(Request):
    """A model that the primary thread may consult."""

    type: Literal["advisor"]
    model: ModelName


RosterEntry = Annotated[
    Annotated[Reference, Tag("string")]
    | Annotated[
        Annotated[AgentReferenceRequest | SelfRequest | AdvisorRequest, Field(discriminator="type")], Tag("object")
    ],
    Discriminator(string_or_object),
]


class CoordinatorRequest(Request):
    """The agents that this one may start threads of."""

    type: Literal["coordinator"]
    agents: Annotated[list[RosterEntry], Field(min_length=1, max_length=20)]


Harness = Annotated[
    str,
    Field(
        min_length=1,
        max_length=64,
        description="What runs the agent's loop: `builtin`, `opencode`, `claude-agent-sdk` or `codex`. What is not"
        " there yet comes with `bulkhead harness install`.",
    ),
]

Mode = Annotated[
    HarnessMode,
    Field(description="`isolated`: a process of a harness's own program holds this session alone."),
]


class AgentCreate(Request):
    """A new agent."""

    name: Name
    model: Model
    description: Annotated[str, Field(max_length=4096)] | None = None
    system: System | None = None
    tools: ToolRequests | None = None
    mcp_servers: McpServerRequests | None = None
    skills: SkillRequests | None = None
    multiagent: CoordinatorRequest | None = None
    execution_identity: ServiceAccountRequest | None = None
    metadata: Metadata | None = None
    harness: Harness | None = None
    harness_mode: Mode | None = None


class AgentUpdate(Request):
    """What changes; an omitted field keeps its value, null clears it where it can be cleared."""

    version: Version | None = Field(
        default=None, description="Refuse the update (409) unless this is the agent's newest version."
    )
    name: Name = ""
    model: Model = ""
    description: Annotated[str, Field(max_length=4096)] | None = None
    system: System | None = None
    tools: ToolRequests | None = None
    mcp_servers: McpServerRequests | None = None
    skills: SkillRequests | None = None
    multiagent: CoordinatorRequest | None = None
    execution_identity: ServiceAccountRequest | None = None
    metadata: MetadataPatch | None = None
    harness: Harness | None = None
    harness_mode: Mode | None = None


class Agent(AgentDefinition):
    """An agent at one of its versions. `frozen_at` is ours: since when none of its sessions may do anything."""

    type: Literal["agent"] = "agent"
    id: str
    version: int
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None
    frozen_at: datetime | None
