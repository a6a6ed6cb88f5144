import asyncio
from pathlib import Path

import pytest
from pydantic import SecretStr

from controlplane.errors import UnavailableError
from controlplane.ids import new_id
from controlplane.store import authorities, credentials, triggers
from controlplane.store.egress import PostgresPolicySource
from controlplane.store.line import Line
from controlplane.store.pool import Connection, Database
from controlplane.store.rewrap import rewrap
from controlplane.store.triggers import Trigger
from controlplane.vault.cipher import SealBrokenError
from controlplane.vault.keyring import Keyring, new_master_key
from sandbox.egress import AuthorityError
from tests.integration.vault.conftest import WORKSPACE, Add, World


async def both(connection: Connection, world: World, credential_id: str, keyring: Keyring) -> tuple[str, bytes]:
    secret = await credentials.reveal(connection, credential_id, keyring=keyring)
    assert secret is not None
    return secret.get_secret_value(), await authorities.seed(connection, world.session, keyring=keyring)


@pytest.fixture
def old() -> str:
    return new_master_key()


@pytest.fixture
def keyring(old: str) -> Keyring:
    return Keyring(text=SecretStr(old))


async def test_every_key_moves_under_the_newest_master_key_and_nothing_else_changes(
    database: Database, keyring: Keyring, old: str, world: World, add: Add
):
    credential = await add(world.first_vault)
    new = new_master_key()
    widened, alone = Keyring(text=SecretStr(f"{old} {new}")), Keyring(text=SecretStr(new))
    async with database.transaction(WORKSPACE) as connection:
        before = await both(connection, world, credential.id, keyring)
    done = await rewrap(database, widened)
    assert (done.master_key_id, done.rewrapped, done.unreadable) == (alone.newest_id, 4, 0)
    async with database.transaction(WORKSPACE) as connection:
        assert await both(connection, world, credential.id, widened) == before
        assert await both(connection, world, credential.id, alone) == before
        with pytest.raises(UnavailableError):
            await both(connection, world, credential.id, keyring)
    assert (await rewrap(database, widened)).rewrapped == 0


async def test_two_that_rewrap_at_once_do_the_work_together(database: Database, old: str, world: World, add: Add):
    for n in range(15):
        await add(world.first_vault if n % 2 else world.second_vault, f"N{n}")
    widened = SecretStr(f"{old} {new_master_key()}")
    done = await asyncio.gather(*(rewrap(database, Keyring(text=widened)) for _ in range(4)))
    assert sum(each.rewrapped for each in done) >= 2
    assert [each.unreadable for each in done] == [0] * 4


async def test_a_file_that_holds_no_key_is_named_in_the_error_of_an_authority(
    database: Database, world: World, tmp_path: Path
):
    file = tmp_path / "master-key"
    file.write_text(new_master_key())
    file.chmod(0o600)
    source = PostgresPolicySource(database=database, line=Line(""), keyring=Keyring(file=file))
    file.write_text("garbage")
    with pytest.raises(AuthorityError, match=f"{file}: a master key .*; write base64 of 32"):
        await source.authority_seed(world.session)


async def test_keys_of_a_missing_master_key_stay_as_they_are_and_are_counted(
    database: Database, keyring: Keyring, world: World, add: Add
):
    credential = await add(world.first_vault)
    done = await rewrap(database, Keyring(text=SecretStr(new_master_key())))
    assert (done.rewrapped, done.unreadable) == (0, 3)
    async with database.transaction(WORKSPACE) as connection:
        assert (await both(connection, world, credential.id, keyring))[0] == "the-secret"


async def test_a_secret_that_was_moved_to_another_row_does_not_open(
    database: Database, keyring: Keyring, world: World, add: Add
):
    one, other = await add(world.first_vault, "ONE", "secret-one"), await add(world.first_vault, "TWO", "secret-two")
    async with database.transaction(WORKSPACE) as connection:
        await connection.execute(
            "UPDATE credentials SET sealed = (SELECT sealed FROM credentials WHERE id = %s) WHERE id = %s",
            (other.id, one.id),
        )
        with pytest.raises(SealBrokenError):
            await credentials.reveal(connection, one.id, keyring=keyring)


async def test_an_old_secret_that_is_put_back_does_not_open(
    database: Database, keyring: Keyring, world: World, add: Add
):
    credential = await add(world.first_vault)
    async with database.transaction(WORKSPACE) as connection:
        row = await (await connection.execute("SELECT sealed FROM credentials")).fetchone()
        assert row is not None
        await credentials.rotate(connection, credential, SecretStr("new-secret"), keyring=keyring)
        await connection.execute("UPDATE credentials SET sealed = %s", (row["sealed"],))
        with pytest.raises(SealBrokenError):
            await credentials.reveal(connection, credential.id, keyring=keyring)


async def test_a_vaults_key_under_another_vault_does_not_open(
    database: Database, keyring: Keyring, world: World, add: Add
):
    credential = await add(world.first_vault)
    async with database.transaction(WORKSPACE) as connection:
        await connection.execute(
            "UPDATE vaults SET wrapped_key = (SELECT wrapped_key FROM vaults WHERE id = %s) WHERE id = %s",
            (world.second_vault, world.first_vault),
        )
        with pytest.raises(SealBrokenError):
            await credentials.reveal(connection, credential.id, keyring=keyring)


async def test_a_triggers_secret_moves_as_well(database: Database, keyring: Keyring, old: str, world: World):
    trigger = Trigger(
        deployment_id=new_id("depl"), workspace_id=WORKSPACE, type="slack", template="x", secret=SecretStr("a-secret")
    )
    async with database.transaction(WORKSPACE) as connection:
        await connection.execute(
            "INSERT INTO deployments (id, workspace_id, name, agent_id, agent_version, environment_id,"
            " initial_events, session, created_by) SELECT %s, workspace_id, 'd', agent_id, 1, environment_id, '[]',"
            " 'new', 'key_x' FROM sessions WHERE id = %s",
            (trigger.deployment_id, world.session),
        )
        await triggers.put(connection, trigger, keyring=keyring)
    new = new_master_key()
    assert (await rewrap(database, Keyring(text=SecretStr(f"{old} {new}")))).rewrapped == 3
    async with database.transaction(WORKSPACE) as connection:
        alone = Keyring(text=SecretStr(new))
        assert await triggers.find(connection, trigger.deployment_id, keyring=alone) == trigger
        with pytest.raises(UnavailableError):
            await triggers.find(connection, trigger.deployment_id, keyring=keyring)
