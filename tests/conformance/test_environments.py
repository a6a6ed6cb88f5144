"""Environments through the public SDK."""

from typing import Any

import pytest
from anthropic import AsyncAnthropic, BadRequestError, ConflictError, NotFoundError


async def create(client: AsyncAnthropic, **fields: Any) -> Any:
    return await client.beta.environments.create(**{"name": "plain", **fields})


async def test_an_environment_is_a_cloud_without_limits_by_default(client: AsyncAnthropic):
    environment = await create(client)
    assert environment.id.startswith("env_")
    assert (environment.config.type, environment.config.networking.type) == ("cloud", "unrestricted")
    assert environment.config.packages.pip == []
    assert (environment.description, environment.metadata, environment.archived_at) == (None, {}, None)
    assert environment.scope == "organization"


async def test_limited_networking_is_resolved(client: AsyncAnthropic):
    environment = await create(
        client,
        config={
            "type": "cloud",
            "networking": {"type": "limited", "allowed_hosts": ["api.example.com", "*.pypi.org"]},
        },
    )
    network = environment.config.networking
    assert network.allowed_hosts == ["api.example.com", "*.pypi.org"]
    assert (network.allow_mcp_servers, network.allow_package_managers) == (False, False)


async def test_our_own_settings_are_kept(client: AsyncAnthropic):
    config: Any = {
        "type": "cloud",
        "packages": {"pip": ["numpy==2.0"], "apt": ["jq"]},
        "image": "python:3.12",
        "cpus": 2,
        "memory_mb": 2048,
        "provider": "docker",
    }
    environment = await create(client, config=config)
    shown = environment.config.model_extra
    assert (shown["image"], shown["cpus"], shown["memory_mb"], shown["provider"]) == (
        "python:3.12",
        2,
        2048,
        "docker",
    )
    assert (environment.config.packages.pip, environment.config.packages.apt) == (["numpy==2.0"], ["jq"])


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": ""}, "name"),
        ({"config": {"type": "self_hosted"}}, "config.type"),
        ({"config": {"type": "moon"}}, "config"),
        ({"scope": "account"}, "scope"),
        ({"config": {"type": "cloud", "provider": "abacus"}}, "config.provider"),
        ({"config": {"type": "cloud", "cpus": 0}}, "config.cpus"),
        ({"config": {"type": "cloud", "cpus": "2"}}, "config.cpus"),
        ({"config": {"type": "cloud", "memory_mb": 1}}, "config.memory_mb"),
        ({"config": {"type": "cloud", "memory_mb": 2**70}}, "config.memory_mb"),
        ({"config": {"type": "cloud", "image": "-v /:/host"}}, "config.image"),
        (
            {"config": {"type": "cloud", "networking": {"type": "limited", "allowed_hosts": ["https://x"]}}},
            "config.networking.allowed_hosts.0",
        ),
        (
            {"config": {"type": "cloud", "networking": {"type": "limited", "allowed_hosts": ["*.com"]}}},
            "config.networking.allowed_hosts.0",
        ),
        (
            {"config": {"type": "cloud", "networking": {"type": "limited"}, "packages": {"pip": ["numpy"]}}},
            "config.packages",
        ),
        ({"metadata": {f"k{i}": "v" for i in range(17)}}, "metadata"),
    ],
)
async def test_what_an_environment_cannot_be_is_refused_with_its_field(
    client: AsyncAnthropic, fields: dict[str, Any], field: str
):
    with pytest.raises(BadRequestError) as caught:
        await create(client, **fields)
    assert caught.value.body["error"]["field"] == field


async def test_an_update_keeps_what_it_omits(client: AsyncAnthropic):
    environment = await create(
        client,
        description="d",
        config={"type": "cloud", "networking": {"type": "limited", "allowed_hosts": ["a.com"]}},
    )
    updated = await client.beta.environments.update(
        environment.id,
        name="renamed",
        config={"type": "cloud", "networking": {"type": "limited", "allow_package_managers": True}},
    )
    assert (updated.name, updated.description) == ("renamed", "d")
    assert updated.config.networking.allowed_hosts == ["a.com"]
    assert updated.config.networking.allow_package_managers is True
    assert (await client.beta.environments.retrieve(environment.id)) == updated


async def test_a_description_is_cleared_by_null_and_kept_empty_by_an_empty_one(client: AsyncAnthropic):
    environment = await create(client, description="d")
    assert (await client.beta.environments.update(environment.id, description="")).description == ""
    assert (await client.beta.environments.update(environment.id, description=None)).description is None


@pytest.mark.parametrize("removed", [None, ""])
async def test_a_metadata_key_is_removed_by_null_or_an_empty_string(client: AsyncAnthropic, removed: str | None):
    environment = await create(client, metadata={"keep": "1", "drop": "2"})
    updated = await client.beta.environments.update(environment.id, metadata={"drop": removed})
    assert updated.metadata == {"keep": "1"}


async def test_an_archived_environment_takes_no_update_and_no_session(client: AsyncAnthropic, agent: Any):
    environment = await create(client)
    archived = await client.beta.environments.archive(environment.id)
    assert archived.archived_at is not None
    with pytest.raises(BadRequestError) as caught:
        await client.beta.environments.update(environment.id, name="x")
    assert caught.value.error_code == "environment_archived"
    with pytest.raises(BadRequestError) as caught:
        await client.beta.sessions.create(agent=agent.id, environment_id=environment.id)
    assert caught.value.error_code == "environment_archived"


async def test_an_environment_can_be_deleted(client: AsyncAnthropic):
    environment = await create(client)
    deleted = await client.beta.environments.delete(environment.id)
    assert (deleted.id, deleted.type) == (environment.id, "environment_deleted")
    with pytest.raises(NotFoundError):
        await client.beta.environments.retrieve(environment.id)


async def test_an_environment_in_use_cannot_be_deleted(client: AsyncAnthropic, session: Any):
    with pytest.raises(ConflictError) as caught:
        await client.beta.environments.delete(session.environment_id)
    assert caught.value.error_code == "environment_in_use"


async def test_a_listing_pages_and_hides_what_is_archived(client: AsyncAnthropic):
    made = [await create(client, name=f"listed-{i}") for i in range(3)]
    await client.beta.environments.archive(made[1].id)
    ids = [environment.id async for environment in client.beta.environments.list(limit=1)]
    assert ids.index(made[2].id) < ids.index(made[0].id)
    assert made[1].id not in ids
    with_archived = [e.id async for e in client.beta.environments.list(include_archived=True)]
    assert made[1].id in with_archived


@pytest.mark.parametrize("verb", ["retrieve", "archive", "update", "delete"])
async def test_an_unknown_environment_is_not_found(client: AsyncAnthropic, verb: str):
    with pytest.raises(NotFoundError) as caught:
        await getattr(client.beta.environments, verb)("env_00000000000000000000000000")
    assert caught.value.error_code == "environment_not_found"
