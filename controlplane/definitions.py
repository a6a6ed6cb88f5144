"""What an agent and an environment are once every default is filled in: what is stored, and what a turn runs."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from harness_adapters.contract import HarnessName


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


EffortLevel = Literal["low", "medium", "high", "xhigh", "max"]
HarnessMode = Literal["inline", "isolated"]


class PermissionPolicy(_Frozen):
    """Whether a tool call runs by itself, waits for a person, or is judged one by one."""

    type: Literal["always_allow", "always_ask", "auto"]


class Effort(_Frozen):
    """How hard the model works on each request."""

    type: EffortLevel


class ModelChoice(_Frozen):
    """The model that an agent runs on."""

    id: str
    effort: Effort | None = None
    fallbacks: list[str] = Field(default_factory=list[str])
    """Models that stand in for it, in this order, where it does not answer."""
    inference_geo: str | None = None
    speed: Literal["standard", "fast"] = "standard"


class ToolSetting(_Frozen):
    """Whether a tool is there, and who lets it run."""

    enabled: bool
    permission_policy: PermissionPolicy


class SandboxTool(ToolSetting):
    """One of the tools of the toolset that work inside the sandbox."""

    type: Literal["bash", "edit", "read", "write", "glob", "grep"]
    name: Literal["bash", "edit", "read", "write", "glob", "grep"]


class ToolReference(_Frozen):
    """The name of a tool."""

    type: Literal["tool_reference"]
    name: Annotated[str, Field(min_length=1, max_length=128)]


class UrlSource(_Frozen):
    """Whose results contribute URLs that may be fetched; ``tools`` only with ``only`` and ``except``."""

    type: Literal["all", "none", "only", "except"]
    tools: list[ToolReference] | None = None


class UrlSources(_Frozen):
    """Where the URLs that may be fetched come from; null allows every URL of that source."""

    client_tool_results: UrlSource | None = None
    server_tool_results: UrlSource | None = None
    user_input: UrlSource | None = None


class WebFetchTool(ToolSetting):
    """The settings of ``web_fetch``."""

    type: Literal["web_fetch"]
    name: Literal["web_fetch"]
    allowed_domains: list[str] | None = None
    blocked_domains: list[str] | None = None
    max_content_tokens: int | None = None
    url_sources: UrlSources | None = None


class UserLocation(_Frozen):
    """Roughly where the user is."""

    type: Literal["approximate"]
    city: str | None = None
    country: str | None = None
    region: str | None = None
    timezone: str | None = None


class WebSearchTool(ToolSetting):
    """The settings of ``web_search``."""

    type: Literal["web_search"]
    name: Literal["web_search"]
    allowed_domains: list[str] | None = None
    blocked_domains: list[str] | None = None
    user_location: UserLocation | None = None


AgentTool = Annotated[SandboxTool | WebFetchTool | WebSearchTool, Field(discriminator="type")]


class AgentToolset(_Frozen):
    """The wire format's built-in tools."""

    type: Literal["agent_toolset_20260401"]
    default_config: ToolSetting
    configs: list[AgentTool]


class McpTool(ToolSetting):
    """The settings of one tool of an MCP server."""

    name: str


class McpToolset(_Frozen):
    """The tools of one MCP server."""

    type: Literal["mcp_toolset"]
    mcp_server_name: str
    default_config: ToolSetting
    configs: list[McpTool]


class CustomTool(_Frozen):
    """A tool that the client runs."""

    type: Literal["custom"]
    name: str
    description: str
    input_schema: dict[str, JsonValue]


Tool = Annotated[AgentToolset | McpToolset | CustomTool, Field(discriminator="type")]


class McpServer(_Frozen):
    """Where an MCP server is reached."""

    type: Literal["url"]
    name: str
    url: str


class Skill(_Frozen):
    """A skill at a version; ``latest`` where none was pinned."""

    type: Literal["anthropic", "custom"]
    skill_id: str
    version: str


class AgentReference(_Frozen):
    """One version of an agent."""

    type: Literal["agent"]
    id: str
    version: int


class Advisor(_Frozen):
    """A model that the primary thread may consult."""

    type: Literal["advisor"]
    model: str


class ServiceAccount(_Frozen):
    """Runs carry no principal named by the customer."""

    type: Literal["service_account"] = "service_account"


class Coordinator(_Frozen):
    """The agents that this one may start threads of."""

    type: Literal["coordinator"]
    agents: list[Annotated[AgentReference | Advisor, Field(discriminator="type")]]


class AgentDefinition(_Frozen):
    """Everything that a version of an agent says."""

    name: str
    description: str | None = None
    model: ModelChoice
    system: str | None = None
    tools: list[Tool] = Field(default_factory=list)
    mcp_servers: list[McpServer] = Field(default_factory=list)
    skills: list[Skill] = Field(default_factory=list)
    multiagent: Coordinator | None = None
    execution_identity: ServiceAccount = Field(default_factory=ServiceAccount)
    metadata: dict[str, str] = Field(default_factory=dict)
    harness: HarnessName = "builtin"
    harness_mode: HarnessMode = "inline"


class SessionAgentBase(_Frozen):
    """An agent as a session runs it, without those that it may start."""

    type: Literal["agent"] = "agent"
    id: str
    version: int
    name: str
    description: str | None = None
    model: ModelChoice
    system: str | None = None
    tools: list[Tool]
    mcp_servers: list[McpServer]
    skills: list[Skill]
    execution_identity: ServiceAccount = Field(default_factory=ServiceAccount)
    harness: HarnessName = "builtin"
    harness_mode: HarnessMode = "inline"


class SessionCoordinator(_Frozen):
    """The agents that a session may start threads of, in full."""

    type: Literal["coordinator"]
    agents: list[Annotated[SessionAgentBase | Advisor, Field(discriminator="type")]]


class SessionAgent(SessionAgentBase):
    """The agent as it was when its session was created, with the session's overrides."""

    multiagent: SessionCoordinator | None = None


class UnrestrictedNetwork(_Frozen):
    """Any host."""

    type: Literal["unrestricted"]


class LimitedNetwork(_Frozen):
    """Only the hosts named."""

    type: Literal["limited"]
    allowed_hosts: list[str]
    allow_mcp_servers: bool
    allow_package_managers: bool


Networking = Annotated[UnrestrictedNetwork | LimitedNetwork, Field(discriminator="type")]


class Packages(_Frozen):
    """What is installed in the sandbox, by package manager."""

    type: Literal["packages"] = "packages"
    apt: list[str] = Field(default_factory=list)
    cargo: list[str] = Field(default_factory=list)
    gem: list[str] = Field(default_factory=list)
    go: list[str] = Field(default_factory=list)
    npm: list[str] = Field(default_factory=list)
    pip: list[str] = Field(default_factory=list)


class EnvironmentConfig(_Frozen):
    """What a session's sandbox is made from; ``image`` and all behind it are ours."""

    type: Literal["cloud"] = "cloud"
    networking: Networking = Field(default_factory=lambda: UnrestrictedNetwork(type="unrestricted"))
    packages: Packages = Field(default_factory=Packages)
    image: str | None = None
    cpus: float | None = None
    memory_mb: int | None = None
    workspace_mb: int | None = None
    pids: int | None = None
    lifetime_seconds: int | None = None
    provider: Literal["auto", "docker", "namespace", "kubernetes"] = "auto"


def stored(model: BaseModel) -> dict[str, Any]:
    """Return ``model`` as the JSON that goes into a row."""
    return model.model_dump(mode="json")
