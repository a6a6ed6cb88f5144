"""Agents through the public SDK."""

import asyncio
from typing import Any

import pytest
from anthropic import AsyncAnthropic, BadRequestError, ConflictError, NotFoundError

TOOL = {
    "type": "custom",
    "name": "weather",
    "description": "Says what the weather is.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
SERVER = {"type": "url", "name": "docs", "url": "https://mcp.example.com/sse"}
MCP_TOOLSET = {"type": "mcp_toolset", "mcp_server_name": "docs"}


async def create(client: AsyncAnthropic, **fields: Any) -> Any:
    return await client.beta.agents.create(**{"name": "tester", "model": "scripted/demo", **fields})


async def test_an_agent_starts_at_version_one_with_every_default(client: AsyncAnthropic):
    agent = await create(client)
    assert agent.id.startswith("agent_")
    assert (agent.type, agent.version, agent.archived_at) == ("agent", 1, None)
    assert (agent.tools, agent.mcp_servers, agent.skills, agent.metadata) == ([], [], [], {})
    assert (agent.system, agent.description, agent.multiagent) == (None, None, None)
    assert agent.execution_identity.type == "service_account"
    assert agent.created_at.tzinfo is not None


async def test_a_model_string_becomes_an_object(client: AsyncAnthropic):
    agent = await create(client, model="claude-opus-5-5")
    assert (agent.model.id, agent.model.speed) == ("claude-opus-5-5", "standard")


@pytest.mark.parametrize("effort", ["low", {"type": "xhigh"}])
async def test_effort_comes_in_two_forms_and_leaves_in_one(client: AsyncAnthropic, effort: Any):
    agent = await create(client, model={"id": "m", "effort": effort, "speed": "fast"})
    assert agent.model.effort.type == (effort if isinstance(effort, str) else effort["type"])
    assert agent.model.speed == "fast"


async def test_the_toolset_is_resolved_with_its_defaults(client: AsyncAnthropic):
    agent = await create(
        client,
        tools=[
            {
                "type": "agent_toolset_20260401",
                "default_config": {"permission_policy": {"type": "always_ask"}},
                "configs": [
                    {"name": "bash", "permission_policy": {"type": "always_allow"}},
                    {"name": "write", "enabled": False},
                    {"name": "web_fetch", "allowed_domains": ["example.com"], "url_sources": {"user_input": "none"}},
                    {"name": "web_search", "user_location": {"type": "approximate", "country": "DE"}},
                ],
            }
        ],
    )
    [toolset] = agent.tools
    bash, write, fetch, search = toolset.configs
    assert toolset.default_config.enabled is True
    assert (bash.type, bash.enabled, bash.permission_policy.type) == ("bash", True, "always_allow")
    assert (write.enabled, write.permission_policy.type) == (False, "always_ask")
    assert (fetch.allowed_domains, fetch.url_sources.user_input.type) == (["example.com"], "none")
    assert search.user_location.country == "DE"


async def test_custom_and_mcp_tools_are_kept(client: AsyncAnthropic):
    agent = await create(
        client,
        tools=[TOOL, {**MCP_TOOLSET, "configs": [{"name": "search", "enabled": False}]}],
        mcp_servers=[SERVER],
    )
    custom, mcp = agent.tools
    assert custom.input_schema.properties == TOOL["input_schema"]["properties"]
    assert mcp.default_config.permission_policy.type == "always_ask"
    assert (mcp.configs[0].name, mcp.configs[0].enabled) == ("search", False)
    assert agent.mcp_servers[0].url == SERVER["url"]


async def test_skills_are_pinned_to_latest(client: AsyncAnthropic):
    agent = await create(
        client,
        skills=[{"type": "anthropic", "skill_id": "xlsx"}, {"type": "custom", "skill_id": "skill_1", "version": "3"}],
    )
    assert [skill.version for skill in agent.skills] == ["latest", "3"]


async def test_a_roster_is_resolved_to_versions(client: AsyncAnthropic):
    other = await create(client, name="other")
    agent = await create(
        client,
        multiagent={"type": "coordinator", "agents": [other.id, {"type": "self"}, {"type": "advisor", "model": "m"}]},
    )
    first, itself, advisor = agent.multiagent.agents
    assert (first.id, first.version) == (other.id, 1)
    assert (itself.id, itself.version) == (agent.id, 1)
    assert advisor.model == "m"


@pytest.mark.parametrize(
    "entries", [["agent_nobody"], [{"type": "self"}, {"type": "self"}], []], ids=["unknown", "twice", "empty"]
)
async def test_a_roster_that_cannot_be_is_refused(client: AsyncAnthropic, entries: list[Any]):
    with pytest.raises((BadRequestError, NotFoundError)):
        await create(client, multiagent={"type": "coordinator", "agents": entries})


@pytest.mark.parametrize("harness", ["opencode", "claude-agent-sdk", "codex"])
async def test_a_harness_that_is_not_installed_is_refused(client: AsyncAnthropic, harness: str):
    with pytest.raises(BadRequestError, match="is not installed; installed are builtin") as caught:
        await create(client, extra_body={"harness": harness})
    assert caught.value.error_code == "harness_not_installed"


async def test_an_unknown_harness_is_refused(client: AsyncAnthropic):
    with pytest.raises(BadRequestError) as caught:
        await create(client, extra_body={"harness": "abacus"})
    assert caught.value.error_code == "unknown_harness"


async def test_the_builtin_harness_is_shown(client: AsyncAnthropic):
    agent = await create(client, extra_body={"harness": "builtin"})
    assert agent.model_extra["harness"] == "builtin"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": ""}, "name"),
        ({"model": ""}, "model"),
        ({"model": {"effort": "high"}}, "model.id"),
        ({"model": {"id": "m", "effort": "extreme"}}, "model.effort"),
        ({"system": "x" * 100_001}, "system"),
        ({"metadata": {f"k{i}": "v" for i in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: "v"}}, "metadata.(a long name)"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k"),
        ({"metadata": {"k": 1}}, "metadata.k"),
        ({"tools": [{"type": "abacus"}]}, "tools.0"),
        ({"tools": [{**TOOL, "name": "no spaces"}]}, "tools.0.name"),
        ({"tools": [{**TOOL, "input_schema": {"type": "string"}}]}, "tools.0.input_schema"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [{**TOOL, "name": "sandbox_execute"}]}, "tools"),
        ({"tools": [{"type": "agent_toolset_20260401"}, {**TOOL, "name": "bash"}]}, "tools"),
        ({"tools": [{"type": "agent_toolset_20260401"}] * 2}, "tools"),
        ({"tools": [{"type": "agent_toolset_20260401", "configs": [{"name": "abacus"}]}]}, "tools.0.configs.0"),
        ({"tools": [{**TOOL, "name": f"t{i}"} for i in range(257)]}, "tools"),
        ({"tools": [MCP_TOOLSET]}, "tools"),
        ({"mcp_servers": [SERVER]}, "mcp_servers"),
        ({"mcp_servers": [SERVER, SERVER], "tools": [MCP_TOOLSET]}, "mcp_servers"),
        ({"mcp_servers": [{**SERVER, "name": f"s{i}"} for i in range(21)]}, "mcp_servers"),
        ({"mcp_servers": [{**SERVER, "url": "ftp://x"}], "tools": [MCP_TOOLSET]}, "mcp_servers.0.url"),
        ({"execution_identity": {"type": "aws_role", "role_arn": "arn:x"}}, "execution_identity.type"),
        ({"extra_body": {"abacus": 1}}, "abacus"),
    ],
)
async def test_what_an_agent_cannot_be_is_refused_with_its_field(
    client: AsyncAnthropic, fields: dict[str, Any], field: str
):
    with pytest.raises(BadRequestError) as caught:
        await create(client, **fields)
    assert caught.value.body["error"]["field"] == field
    assert caught.value.body["error"]["type"] == "invalid_request_error"


async def test_an_update_makes_a_version_and_the_old_one_stays(client: AsyncAnthropic):
    agent = await create(client, system="first", description="d")
    updated = await client.beta.agents.update(agent.id, version=1, system="second")
    assert (updated.version, updated.system, updated.description) == (2, "second", "d")
    assert (await client.beta.agents.retrieve(agent.id)).version == 2
    first = await client.beta.agents.retrieve(agent.id, version=1)
    assert (first.version, first.system) == (1, "first")
    assert updated.updated_at > agent.updated_at


async def test_an_update_that_changes_nothing_makes_no_version(client: AsyncAnthropic):
    agent = await create(client, system="same", tools=[{"type": "agent_toolset_20260401"}], metadata={"a": "b"})
    updated = await client.beta.agents.update(
        agent.id, system="same", tools=[{"type": "agent_toolset_20260401"}], metadata={"a": "b", "c": None}
    )
    assert updated == agent


async def test_a_roster_with_itself_does_not_change_by_itself(client: AsyncAnthropic):
    roster: Any = {"type": "coordinator", "agents": [{"type": "self"}]}
    agent = await create(client, multiagent=roster)
    assert (await client.beta.agents.update(agent.id, multiagent=roster)).version == 1


async def test_an_update_from_an_old_version_is_refused(client: AsyncAnthropic):
    agent = await create(client)
    await client.beta.agents.update(agent.id, version=1, name="second")
    with pytest.raises(ConflictError) as caught:
        await client.beta.agents.update(agent.id, version=1, name="third")
    assert caught.value.error_code == "version_conflict"
    assert caught.value.type == "conflict_error"


async def test_the_sdk_is_told_not_to_repeat_what_cannot_succeed(client: AsyncAnthropic):
    agent = await create(client)
    await client.beta.agents.update(agent.id, version=1, name="second")
    with pytest.raises(ConflictError) as caught:
        await client.with_options(max_retries=2).beta.agents.update(agent.id, version=1, name="third")
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"


async def test_of_two_updates_from_the_same_version_one_wins(client: AsyncAnthropic):
    agent = await create(client)
    results = await asyncio.gather(
        *(client.beta.agents.update(agent.id, version=1, name=f"n{i}") for i in range(8)), return_exceptions=True
    )
    assert sum(isinstance(result, ConflictError) for result in results) == 7
    assert (await client.beta.agents.retrieve(agent.id)).version == 2


@pytest.mark.parametrize("cleared", [None, ""])
async def test_null_and_empty_clear_a_text(client: AsyncAnthropic, cleared: str | None):
    agent = await create(client, system="s", description="d")
    updated = await client.beta.agents.update(agent.id, system=cleared, description=cleared)
    assert (updated.system, updated.description) == (None, None)


@pytest.mark.parametrize("cleared", [None, []])
async def test_null_and_empty_clear_a_list(client: AsyncAnthropic, cleared: list[Any] | None):
    agent = await create(
        client, tools=[MCP_TOOLSET], mcp_servers=[SERVER], skills=[{"type": "anthropic", "skill_id": "x"}]
    )
    updated = await client.beta.agents.update(agent.id, tools=cleared, mcp_servers=cleared, skills=cleared)
    assert (updated.tools, updated.mcp_servers, updated.skills) == ([], [], [])


async def test_removing_a_toolset_whose_server_stays_is_refused(client: AsyncAnthropic):
    agent = await create(client, tools=[MCP_TOOLSET], mcp_servers=[SERVER])
    with pytest.raises(BadRequestError):
        await client.beta.agents.update(agent.id, tools=[])


async def test_metadata_is_patched_key_by_key(client: AsyncAnthropic):
    agent = await create(client, metadata={"keep": "1", "drop": "2"})
    updated = await client.beta.agents.update(agent.id, metadata={"drop": None, "add": "3"})
    assert updated.metadata == {"keep": "1", "add": "3"}


async def test_a_patch_beyond_sixteen_pairs_is_refused(client: AsyncAnthropic):
    agent = await create(client, metadata={f"k{i}": "v" for i in range(16)})
    with pytest.raises(BadRequestError):
        await client.beta.agents.update(agent.id, metadata={"one-more": "v"})


async def test_a_new_model_object_keeps_the_effort_and_drops_the_geography(client: AsyncAnthropic):
    agent = await create(client, model={"id": "m", "effort": "low", "inference_geo": "eu"})
    updated = await client.beta.agents.update(agent.id, model={"id": "n"})
    assert (updated.model.id, updated.model.effort.type, updated.model.inference_geo) == ("n", "low", None)


@pytest.mark.parametrize("field", ["name", "model"])
async def test_what_cannot_be_cleared_is_not(client: AsyncAnthropic, field: str):
    agent = await create(client)
    with pytest.raises(BadRequestError):
        await client.beta.agents.update(agent.id, **{field: None})


async def test_versions_are_listed_newest_first_in_pages(client: AsyncAnthropic):
    agent = await create(client)
    for number in range(4):
        await client.beta.agents.update(agent.id, name=f"n{number}")
    found = [version.version async for version in client.beta.agents.versions.list(agent.id, limit=2)]
    assert found == [5, 4, 3, 2, 1]


async def test_an_archived_agent_stays_readable_and_closed(client: AsyncAnthropic):
    agent = await create(client)
    archived = await client.beta.agents.archive(agent.id)
    assert archived.archived_at is not None
    assert (await client.beta.agents.archive(agent.id)).archived_at == archived.archived_at
    assert (await client.beta.agents.retrieve(agent.id)).archived_at == archived.archived_at
    with pytest.raises(BadRequestError) as caught:
        await client.beta.agents.update(agent.id, name="x")
    assert caught.value.error_code == "agent_archived"


async def test_a_listing_shows_newest_first_and_hides_what_is_archived(client: AsyncAnthropic):
    made = [await create(client, name=f"listed-{i}") for i in range(3)]
    await client.beta.agents.archive(made[1].id)
    since = made[0].created_at
    shown = [a.id async for a in client.beta.agents.list(created_at_gte=since, limit=1)]
    assert shown == [made[2].id, made[0].id]
    everything = [a.id async for a in client.beta.agents.list(created_at_gte=since, include_archived=True)]
    assert everything == [made[2].id, made[1].id, made[0].id]


async def test_a_listing_can_end_at_a_time(client: AsyncAnthropic):
    first, second = await create(client), await create(client)
    shown = [
        a.id async for a in client.beta.agents.list(created_at_gte=first.created_at, created_at_lte=first.created_at)
    ]
    assert shown == [first.id]
    assert second.id not in shown


@pytest.mark.parametrize("limit", [0, 101, -1])
async def test_a_limit_out_of_range_is_refused(client: AsyncAnthropic, limit: int):
    with pytest.raises(BadRequestError) as caught:
        await client.beta.agents.list(limit=limit)
    assert caught.value.body["error"]["field"] == "limit"


@pytest.mark.parametrize("verb", ["retrieve", "archive", "update"])
async def test_an_unknown_agent_is_not_found(client: AsyncAnthropic, verb: str):
    with pytest.raises(NotFoundError) as caught:
        await getattr(client.beta.agents, verb)("agent_00000000000000000000000000")
    assert caught.value.error_code == "agent_not_found"
    assert caught.value.request_id.startswith("req_")


async def test_the_versions_of_an_unknown_agent_are_not_found(client: AsyncAnthropic):
    with pytest.raises(NotFoundError):
        await client.beta.agents.versions.list("agent_00000000000000000000000000")


async def test_an_unknown_version_is_not_found(client: AsyncAnthropic):
    agent = await create(client)
    with pytest.raises(NotFoundError):
        await client.beta.agents.retrieve(agent.id, version=2)
