"""Tools and MCP servers as a request gives them, and how their defaults are filled in."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from controlplane.definitions import (
    AgentTool,
    AgentToolset,
    CustomTool,
    McpServer,
    McpTool,
    McpToolset,
    PermissionPolicy,
    SandboxTool,
    Tool,
    ToolReference,
    ToolSetting,
    UrlSource,
    UrlSources,
    UserLocation,
    WebFetchTool,
    WebSearchTool,
)
from controlplane.wire.common import Request

RESERVED_TOOL_NAMES = frozenset({"sandbox_provision", "sandbox_execute"})
TOOLSET_NAMES = ("bash", "edit", "read", "write", "glob", "grep", "web_fetch", "web_search")
MAX_TOOLS = 256
MAX_MCP_SERVERS = 20

Domains = Annotated[list[Annotated[str, Field(min_length=1, max_length=253)]], Field(min_length=1, max_length=64)]


class PolicyRequest(Request):
    """Whether calls run by themselves, wait for a person, or are judged one by one."""

    type: Literal["always_allow", "always_ask", "auto"]


class SettingRequest(Request):
    """Overrides of a tool's defaults; null and omitted both keep the default."""

    enabled: bool | None = None
    permission_policy: PolicyRequest | None = None

    def over(self, default: ToolSetting) -> ToolSetting:
        """Return ``default`` with what this request sets."""
        policy = self.permission_policy
        return ToolSetting(
            enabled=default.enabled if self.enabled is None else self.enabled,
            permission_policy=PermissionPolicy(type=policy.type) if policy else default.permission_policy,
        )


class _NamedSetting(SettingRequest):
    @model_validator(mode="after")
    def _type_is_name(self) -> "_NamedSetting":
        kind, name = getattr(self, "type", None), getattr(self, "name", None)
        if kind is not None and kind != name:
            raise ValueError("'type' must equal 'name'")
        return self


class SandboxToolRequest(_NamedSetting):
    """Overrides for one of the tools that work inside the sandbox."""

    name: Literal["bash", "edit", "read", "write", "glob", "grep"]
    type: Literal["bash", "edit", "read", "write", "glob", "grep"] | None = None

    def resolve(self, default: ToolSetting) -> AgentTool:
        """Fill in the toolset's defaults."""
        return SandboxTool(type=self.name, name=self.name, **dict(self.over(default)))


class ToolReferenceRequest(Request):
    """The name of a tool."""

    type: Literal["tool_reference"]
    name: Annotated[str, Field(min_length=1, max_length=128)]


class UrlSourceRequest(Request):
    """Whose results contribute URLs that may be fetched."""

    type: Literal["all", "none", "only", "except"]
    tools: Annotated[list[ToolReferenceRequest], Field(min_length=1, max_length=128)] | None = None

    @model_validator(mode="after")
    def _tools_fit_type(self) -> "UrlSourceRequest":
        if (self.type in ("only", "except")) != (self.tools is not None):
            raise ValueError("'tools' goes with the types 'only' and 'except', and only with them")
        return self

    def resolve(self) -> UrlSource:
        """Return the object form."""
        tools = [ToolReference(type="tool_reference", name=tool.name) for tool in self.tools or []]
        return UrlSource(type=self.type, tools=tools or None)


def _expanded(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


class UrlSourcesRequest(Request):
    """Where the URLs that may be fetched come from; ``"all"`` and ``"none"`` are short for their objects."""

    client_tool_results: UrlSourceRequest | None = None
    server_tool_results: UrlSourceRequest | None = None
    user_input: UrlSourceRequest | None = None

    _shorthand = field_validator("client_tool_results", "server_tool_results", "user_input", mode="before")(_expanded)

    def resolve(self) -> UrlSources:
        """Return the object forms."""
        return UrlSources(
            client_tool_results=self.client_tool_results.resolve() if self.client_tool_results else None,
            server_tool_results=self.server_tool_results.resolve() if self.server_tool_results else None,
            user_input=self.user_input.resolve() if self.user_input else None,
        )


class _DomainSetting(_NamedSetting):
    allowed_domains: Domains | None = None
    blocked_domains: Domains | None = None

    @model_validator(mode="after")
    def _one_list(self) -> "_DomainSetting":
        if self.allowed_domains and self.blocked_domains:
            raise ValueError("'allowed_domains' and 'blocked_domains' exclude each other")
        return self


class WebFetchRequest(_DomainSetting):
    """Overrides for ``web_fetch``."""

    name: Literal["web_fetch"]
    type: Literal["web_fetch"] | None = None
    max_content_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    url_sources: UrlSourcesRequest | None = None

    def resolve(self, default: ToolSetting) -> AgentTool:
        """Fill in the toolset's defaults."""
        return WebFetchTool(
            type="web_fetch",
            name="web_fetch",
            allowed_domains=self.allowed_domains,
            blocked_domains=self.blocked_domains,
            max_content_tokens=self.max_content_tokens,
            url_sources=self.url_sources.resolve() if self.url_sources else None,
            **dict(self.over(default)),
        )


class UserLocationRequest(Request):
    """Roughly where the user is."""

    type: Literal["approximate"]
    city: str | None = None
    country: str | None = None
    region: str | None = None
    timezone: str | None = None


class WebSearchRequest(_DomainSetting):
    """Overrides for ``web_search``."""

    name: Literal["web_search"]
    type: Literal["web_search"] | None = None
    user_location: UserLocationRequest | None = None

    def resolve(self, default: ToolSetting) -> AgentTool:
        """Fill in the toolset's defaults."""
        location = UserLocation(**self.user_location.model_dump()) if self.user_location else None
        return WebSearchTool(
            type="web_search",
            name="web_search",
            allowed_domains=self.allowed_domains,
            blocked_domains=self.blocked_domains,
            user_location=location,
            **dict(self.over(default)),
        )


AgentToolRequest = Annotated[SandboxToolRequest | WebFetchRequest | WebSearchRequest, Field(discriminator="name")]


class AgentToolsetRequest(Request):
    """The built-in tools: bash, read, write, edit, glob and grep, which all work inside the sandbox."""

    type: Literal["agent_toolset_20260401"]
    default_config: SettingRequest | None = None
    configs: Annotated[list[AgentToolRequest], Field(max_length=len(TOOLSET_NAMES))] = Field(
        default_factory=list[AgentToolRequest]
    )

    def resolve(self) -> AgentToolset:
        """Fill in the defaults: enabled, and allowed without asking."""
        default = ToolSetting(enabled=True, permission_policy=PermissionPolicy(type="always_allow"))
        default = self.default_config.over(default) if self.default_config else default
        return AgentToolset(
            type=self.type, default_config=default, configs=[config.resolve(default) for config in self.configs]
        )


class McpToolRequest(SettingRequest):
    """Overrides for one tool of an MCP server."""

    name: Annotated[str, Field(min_length=1, max_length=128)]


class McpToolsetRequest(Request):
    """The tools of one of the agent's MCP servers."""

    type: Literal["mcp_toolset"]
    mcp_server_name: Annotated[str, Field(min_length=1, max_length=255)]
    default_config: SettingRequest | None = None
    configs: Annotated[list[McpToolRequest], Field(max_length=MAX_TOOLS)] = Field(
        default_factory=list[McpToolRequest]
    )

    def resolve(self) -> McpToolset:
        """Fill in the defaults: enabled, and nothing runs without being asked for."""
        default = ToolSetting(enabled=True, permission_policy=PermissionPolicy(type="always_ask"))
        default = self.default_config.over(default) if self.default_config else default
        configs = [McpTool(name=config.name, **dict(config.over(default))) for config in self.configs]
        return McpToolset(
            type=self.type, mcp_server_name=self.mcp_server_name, default_config=default, configs=configs
        )


class CustomToolRequest(Request):
    """A tool that the client runs and answers with ``user.custom_tool_result``."""

    type: Literal["custom"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
    description: Annotated[str, Field(min_length=1)]
    input_schema: dict[str, JsonValue]

    @field_validator("input_schema")
    @classmethod
    def _is_object_schema(cls, schema: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if schema.get("type") != "object":
            raise ValueError("a tool's input schema has the type 'object'")
        if not isinstance(schema.get("properties", {}), dict | None):
            raise ValueError("'properties' must be an object")  # noqa: TRY004 - pydantic reports ValueError only
        required = schema.get("required")
        if required is not None and not (
            isinstance(required, list) and all(isinstance(name, str) for name in required)
        ):
            raise ValueError("'required' must be a list of names")
        return schema

    def resolve(self) -> CustomTool:
        """Return the tool as it is kept."""
        return CustomTool(type="custom", name=self.name, description=self.description, input_schema=self.input_schema)


ToolRequest = Annotated[AgentToolsetRequest | McpToolsetRequest | CustomToolRequest, Field(discriminator="type")]
ToolRequests = Annotated[list[ToolRequest], Field(max_length=MAX_TOOLS)]


class McpServerRequest(Request):
    """Where an MCP server is reached."""

    type: Literal["url"]
    name: Annotated[str, Field(min_length=1, max_length=255)]
    url: Annotated[str, Field(pattern=r"^https?://[^\s/]+", max_length=2048)]

    def resolve(self) -> McpServer:
        """Return the server as it is kept."""
        return McpServer(type="url", name=self.name, url=self.url)


McpServerRequests = Annotated[list[McpServerRequest], Field(max_length=MAX_MCP_SERVERS)]


def resolved_tools(requests: list[ToolRequest] | None) -> list[Tool]:
    """Fill in the defaults of every tool; null means none."""
    return [request.resolve() for request in requests or []]


def resolved_servers(requests: list[McpServerRequest] | None) -> list[McpServer]:
    """Return the servers as they are kept; null means none."""
    return [request.resolve() for request in requests or []]
