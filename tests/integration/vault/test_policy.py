import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg.types.json import Jsonb
from pydantic import SecretStr

from controlplane.store import credentials, decisions, vaults
from controlplane.store.egress import PACKAGE_REGISTRIES, PostgresAdmissions, PostgresPolicySource
from controlplane.store.line import Line
from controlplane.store.pool import Connection, Database
from controlplane.vault.keyring import Keyring
from sandbox.egress.contract import SandboxPolicy
from tests.integration.vault.conftest import LIMITED, WORKSPACE, Add, Proxy, World, entry, proxy_process, stubs
from tests.support.line import until

_HEARD_SECONDS = 1.0
"""A change is heard of at the line's next heartbeat, a quarter of a second later at most."""

Change = Callable[[Connection, World, str, Keyring], Awaitable[Any]]


async def execute(database: Database, query: LiteralString, *parameters: Any) -> None:
    async with database.transaction(WORKSPACE) as connection:
        await connection.execute(query, parameters)


async def policy_of(proxy: Proxy, world: World) -> SandboxPolicy:
    policy = await proxy.source.policy(world.sandbox)
    assert policy is not None
    return policy


async def test_a_policy_says_what_environment_and_vaults_allow(
    database: Database, proxy: Proxy, world: World, add: Add
):
    credential = await add(world.first_vault, methods=["GET"], path_prefixes=["/v1"], query_parameter="key")
    issued = await stubs(database, world.sandbox)
    policy = await policy_of(proxy, world)
    assert (policy.session_id, policy.workspace_id, policy.networking) == (world.session, WORKSPACE, "limited")
    assert policy.allowed_hosts == ["api.example.com"]
    granted = policy.credentials[0]
    assert (granted.credential_id, granted.name, granted.stub) == (credential.id, "TOKEN", issued["TOKEN"])
    assert granted.binding == credential.binding
    assert await proxy.source.secret(policy, credential.id) == SecretStr("the-secret")


async def test_package_registries_and_mcp_servers_are_added_where_the_environment_says_so(
    database: Database, proxy: Proxy, world: World
):
    network = {**LIMITED, "allow_package_managers": True, "allow_mcp_servers": True}
    config = {"type": "cloud", "networking": network}
    await execute(database, "UPDATE environments SET config = %s WHERE id = %s", Jsonb(config), world.environment)
    hosts = (await policy_of(proxy, world)).allowed_hosts
    assert hosts == ["api.example.com", *PACKAGE_REGISTRIES, "mcp.example.com"]


async def test_an_unknown_sandbox_has_no_policy(proxy: Proxy):
    assert await proxy.source.policy("sbx_unknown") is None


async def test_a_stub_is_random_stays_and_is_one_sandboxs_own(database: Database, world: World, add: Add):
    await add(world.first_vault)
    first = await stubs(database, world.sandbox)
    assert re.fullmatch(r"bhstub_[0-9a-f]{40}", first["TOKEN"])
    assert await stubs(database, world.sandbox) == first
    await execute(database, "UPDATE sandboxes SET status = 'ended' WHERE id = %s", world.sandbox)
    await execute(
        database,
        "INSERT INTO sandboxes (id, workspace_id, session_id, environment_id, provider, host, generation, status,"
        " expires_at) SELECT 'sbx_other', workspace_id, session_id, environment_id, provider, host, 2, 'creating',"
        " expires_at FROM sandboxes WHERE id = %s",
        world.sandbox,
    )
    assert (await stubs(database, "sbx_other"))["TOKEN"] != first["TOKEN"]
    assert await stubs(database, world.sandbox) == {}


async def test_of_two_credentials_of_one_name_the_first_vaults_counts(
    database: Database, proxy: Proxy, world: World, add: Add
):
    await add(world.second_vault, "BOTH", "second-secret")
    await add(world.second_vault, "OTHER", "other-secret")
    first = await add(world.first_vault, "BOTH", "first-secret")
    assert set(await stubs(database, world.sandbox)) == {"BOTH", "OTHER"}
    policy = await policy_of(proxy, world)
    assert {each.name for each in policy.credentials} == {"BOTH", "OTHER"}
    assert await proxy.source.secret(policy, first.id) == SecretStr("first-secret")


CHANGES: dict[str, Change] = {
    "credential archived": lambda c, w, i, k: credentials.archive(c, w.first_vault, i),
    "credential deleted": lambda c, w, i, k: credentials.delete(c, w.first_vault, i),
    "vault archived": lambda c, w, i, k: vaults.archive(c, w.first_vault),
    "vault deleted": lambda c, w, i, k: vaults.delete(c, w.first_vault),
    "egress revoked": lambda c, w, i, k: decisions.set_revoked(c, w.session, revoked=True),
    "session archived": lambda c, w, i, k: c.execute("UPDATE sessions SET archived_at = now()"),
    "session terminated": lambda c, w, i, k: c.execute("UPDATE sessions SET status = 'terminated'"),
    "session deleted": lambda c, w, i, k: c.execute("DELETE FROM sessions"),
    "sandbox ended": lambda c, w, i, k: c.execute("UPDATE sandboxes SET status = 'ended'"),
    "vault taken from the session": lambda c, w, i, k: c.execute("UPDATE sessions SET vault_ids = '[]'"),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_what_takes_a_credential_away_holds_for_the_next_decision_in_every_process(
    database: Database, keyring: Keyring, proxy: Proxy, world: World, add: Add, change: str
):
    credential = await add(world.first_vault)
    await stubs(database, world.sandbox)
    async with proxy_process(database, keyring) as other:
        before = [await policy_of(each, world) for each in (proxy, other)]
        assert all(policy.credentials for policy in before)
        async with database.transaction(WORKSPACE) as connection:
            await CHANGES[change](connection, world, credential.id, keyring)
        for each, policy in zip((proxy, other), before, strict=True):
            await each.audit.record(entry(world))
            now = await each.source.policy(world.sandbox)
            assert now is None or (now.epoch > policy.epoch and all(each.is_withdrawn for each in now.credentials))
            if change.startswith(("credential", "vault")):
                assert now is not None
                kept = [(each.name, each.stub, each.binding) for each in now.credentials]
                assert kept == [(each.name, each.stub, each.binding) for each in policy.credentials]
            assert await each.source.secret(policy, credential.id) is None


@pytest.mark.parametrize("change", ["secret rotated", "binding changed", "environment changed", "stub issued"])
async def test_a_change_makes_the_epoch_grow(
    database: Database, keyring: Keyring, proxy: Proxy, world: World, add: Add, change: str
):
    credential = await add(world.first_vault)
    await stubs(database, world.sandbox)
    before = await policy_of(proxy, world)
    assert await proxy.source.secret(before, credential.id) == SecretStr("the-secret")
    if change == "stub issued":
        await add(world.second_vault, "NEW")
    async with database.transaction(WORKSPACE) as connection:
        if change == "secret rotated":
            await credentials.rotate(connection, credential, SecretStr("new-secret"), keyring=keyring)
        elif change == "binding changed":
            binding = credential.binding.model_copy(update={"hosts": ["other.example.com"]})
            await credentials.replace(connection, credential, credential.model_copy(update={"binding": binding}))
        elif change == "environment changed":
            await connection.execute("UPDATE environments SET config = %s", (Jsonb({"type": "cloud"}),))
    if change == "stub issued":
        await stubs(database, world.sandbox)
    await proxy.audit.record(entry(world))
    after = await policy_of(proxy, world)
    assert after.epoch > before.epoch
    assert await proxy.source.secret(before, credential.id) is None
    expected = "new-secret" if change == "secret rotated" else "the-secret"
    assert await proxy.source.secret(after, credential.id) == SecretStr(expected)


async def test_what_changes_nothing_for_a_sandbox_leaves_its_epoch(
    database: Database, proxy: Proxy, world: World, add: Add
):
    credential = await add(world.first_vault)
    await stubs(database, world.sandbox)
    before = await policy_of(proxy, world)
    async with database.transaction(WORKSPACE) as connection:
        await connection.execute("UPDATE credentials SET display_name = 'x' WHERE id = %s", (credential.id,))
        await connection.execute("UPDATE sessions SET last_seq = 7")
    await proxy.audit.record(entry(world))
    assert (await policy_of(proxy, world)).epoch == before.epoch


async def test_egress_that_is_restored_is_as_it_was(database: Database, proxy: Proxy, world: World, add: Add):
    await add(world.first_vault)
    await stubs(database, world.sandbox)
    before = await policy_of(proxy, world)
    for revoked in (True, False):
        async with database.transaction(WORKSPACE) as connection:
            await decisions.set_revoked(connection, world.session, revoked=revoked)
        await proxy.audit.record(entry(world))
    after = await policy_of(proxy, world)
    assert after.model_copy(update={"epoch": before.epoch}) == before


async def test_without_a_line_every_look_up_asks_the_database(
    database: Database, keyring: Keyring, world: World, add: Add
):
    source = PostgresPolicySource(database=database, line=Line(database.url), keyring=keyring)
    credential = await add(world.first_vault)
    await stubs(database, world.sandbox)
    policy = await source.policy(world.sandbox)
    assert policy is not None
    assert await source.secret(policy, credential.id) == SecretStr("the-secret")
    await execute(database, "UPDATE sessions SET egress_revoked_at = now()")
    after = await source.policy(world.sandbox)
    assert after is not None
    assert (after.networking, after.credentials) == ("none", [])
    assert await source.secret(policy, credential.id) is None


async def test_a_line_that_was_cut_is_put_up_again_and_nothing_is_believed_meanwhile(
    database: Database, keyring: Keyring, proxy: Proxy, world: World, add: Add
):
    await add(world.first_vault)
    await stubs(database, world.sandbox)
    before = await policy_of(proxy, world)
    async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as other:
        await other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND datname = current_database()"
        )
    await until(lambda: not proxy.line.is_up)
    await execute_patiently(database, "UPDATE sessions SET egress_revoked_at = now()")
    assert (await policy_of(proxy, world)).networking == "none"
    await until(lambda: proxy.line.is_up)
    assert (await policy_of(proxy, world)).epoch > before.epoch


async def execute_patiently(database: Database, query: LiteralString) -> None:
    """Run a statement, however many connections of the pool are found broken first."""
    while True:
        try:
            return await execute(database, query)
        except psycopg.OperationalError:
            await asyncio.sleep(0.05)


async def test_a_seed_is_the_sessions_own_and_the_same_in_every_process(
    database: Database, keyring: Keyring, proxy: Proxy, world: World
):
    async with proxy_process(database, keyring) as other:
        both = await asyncio.gather(*(each.source.authority_seed(world.session) for each in (proxy, other) * 3))
    assert len(set(both)) == 1
    assert len(both[0]) == 32
    await execute(
        database,
        "INSERT INTO sessions (id, workspace_id, agent_id, agent_version, agent, environment_id)"
        " SELECT 'sesn_other', workspace_id, agent_id, 1, agent, environment_id FROM sessions",
    )
    assert await proxy.source.authority_seed("sesn_other") != both[0]


async def test_what_a_sandbox_says_at_the_gate_is_held_until_it_is_another_or_the_sandbox_ends(
    database: Database, proxy: Proxy, world: World
):
    first, second = b"1" * 32, b"2" * 32
    admissions = PostgresAdmissions(database)
    assert await proxy.source.gate_sha256(world.sandbox, fresh=True) is None
    await admissions.expect(world.sandbox, first)
    assert await proxy.source.gate_sha256(world.sandbox, fresh=True) == first
    await until(lambda: proxy.line.is_up)
    assert await proxy.source.gate_sha256(world.sandbox, fresh=True) == first
    assert await proxy.source.gate_sha256(world.sandbox) == first
    epoch = (await policy_of(proxy, world)).epoch
    await admissions.expect(world.sandbox, second)
    await asyncio.sleep(_HEARD_SECONDS)
    assert await proxy.source.gate_sha256(world.sandbox) is None
    assert await proxy.source.gate_sha256(world.sandbox, fresh=True) == second
    # What the sandbox may do is not another for it: what is open goes on.
    assert (await policy_of(proxy, world)).epoch == epoch
    await execute(database, "UPDATE sandboxes SET status = 'ended' WHERE id = %s", world.sandbox)
    await asyncio.sleep(_HEARD_SECONDS)
    assert await proxy.source.gate_sha256(world.sandbox) is None
    assert await proxy.source.gate_sha256(world.sandbox, fresh=True) is None
