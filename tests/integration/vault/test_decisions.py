import asyncio
import hashlib
import json
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import psycopg
import pytest

from controlplane.errors import UnavailableError
from controlplane.store import decisions
from controlplane.store.decisions import Decision, PostgresAudit
from controlplane.store.line import Line
from controlplane.store.pool import Database
from controlplane.vault.keyring import Keyring
from tests.integration.vault.conftest import WORKSPACE, Proxy, World, entry, proxy_process

FIRST = bytes(32)


async def recorded(database: Database, session_id: str) -> list[Decision]:
    async with database.transaction(WORKSPACE) as connection:
        return await decisions.listing(connection, session_id, verdicts=None, beyond_seq=None, limit=10_000)


def canonical(decision: Decision) -> bytes:
    """Write a decision as the chain's hashes have it; made without the code under test."""
    d = decision
    fields: list[Any] = [d.session_id, d.seq, d.id, d.exchange_id, d.ended, WORKSPACE, d.sandbox_id, d.turn_id]
    fields += [
        d.tool_use_id,
        d.credential,
        d.method,
        d.host,
        d.port,
        d.path,
        d.verdict,
        d.reason,
        d.message,
        d.status,
    ]
    fields += [
        d.bytes_up,
        d.bytes_down,
        d.duration_us,
        d.created_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    ]
    return json.dumps(fields, ensure_ascii=False).encode()


def broken_at(chain: list[Decision]) -> int | None:
    """Return the seq of the first decision that does not follow from the one before."""
    previous = FIRST
    for place, each in enumerate(chain, 1):
        digest = hashlib.sha256(previous + canonical(each)).digest()
        if (each.seq, each.previous_hash, each.hash) != (place, previous, digest):
            return place
        previous = each.hash
    return None


async def call(database: Database, world: World, name: str, *, state: str = "dispatched") -> None:
    """Journal a tool call that runs in the sandbox."""
    async with database.transaction(WORKSPACE) as connection:
        await connection.execute(
            "INSERT INTO turns (id, workspace_id, session_id) VALUES ('turn_1', %s, %s) ON CONFLICT DO NOTHING",
            (WORKSPACE, world.session),
        )
        await connection.execute(
            "INSERT INTO tool_calls (id, workspace_id, session_id, turn_id, name, input, verdict, state, sandbox_id,"
            " started_at) VALUES (%s, %s, %s, 'turn_1', 'x', '{}', 'allow', %s, %s, now())",
            (name, WORKSPACE, world.session, state, world.sandbox),
        )


async def test_a_decision_is_there_when_record_returns(database: Database, proxy: Proxy, world: World):
    made = entry(
        world,
        verdict="denied",
        reason="host_not_allowed",
        message="no",
        credential="TOKEN",
        status=403,
        bytes_up=5,
        bytes_down=7,
        duration_ms=1.5,
    )
    await proxy.audit.record(made)
    [found] = await recorded(database, world.session)
    assert found.id.startswith("egr_")
    assert found.duration_us == 1500
    shared = made.model_dump(exclude={"duration_ms"})
    assert {name: value for name, value in found.model_dump().items() if name in shared} == shared


async def test_a_decision_belongs_to_the_call_that_ran_alone(database: Database, proxy: Proxy, world: World):
    await proxy.audit.record(entry(world))
    await call(database, world, "call_before", state="confirmed")
    await call(database, world, "call_1")
    await proxy.audit.record(entry(world))
    await call(database, world, "call_2")
    await proxy.audit.record(entry(world))
    found = await recorded(database, world.session)
    assert [(d.tool_use_id, d.turn_id) for d in found] == [(None, None), ("call_1", "turn_1"), (None, None)]


async def test_decisions_of_many_proxies_are_one_chain(database: Database, keyring: Keyring, world: World):
    async def work(proxy: Proxy) -> None:
        for n in range(25):
            await proxy.audit.record(entry(world, path=f'/ü/{n}\t\\"\x01', host="x\x7f", duration_ms=n / 7))

    async with proxy_process(database, keyring) as one, proxy_process(database, keyring) as other:
        await asyncio.gather(*(work(each) for each in (one, other) for _ in range(4)))
    chain = await recorded(database, world.session)
    assert len(chain) == 200
    assert broken_at(chain) is None


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE egress_decisions SET verdict = 'denied' WHERE seq = 2",
        "UPDATE egress_decisions SET bytes_down = bytes_down + 1 WHERE seq = 2",
        "UPDATE egress_decisions SET credential = 'OTHER' WHERE seq = 2",
        "UPDATE egress_decisions SET created_at = created_at - interval '1 microsecond' WHERE seq = 2",
        "DELETE FROM egress_decisions WHERE seq = 2",
    ],
)
async def test_a_row_that_was_tampered_with_shows(database: Database, proxy: Proxy, world: World, tampering: str):
    for _ in range(3):
        await proxy.audit.record(entry(world))
    async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as superuser:
        await superuser.execute(tampering.encode())
    assert broken_at(await recorded(database, world.session)) == 2


@pytest.mark.parametrize("statement", ["UPDATE egress_decisions SET host = 'x'", "DELETE FROM egress_decisions"])
async def test_our_own_processes_cannot_change_the_record(
    database: Database, proxy: Proxy, world: World, statement: str
):
    await proxy.audit.record(entry(world))
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        async with database.transaction(WORKSPACE) as connection:
            await connection.execute(statement.encode())


async def test_the_record_outlives_its_session_and_no_other_workspace_sees_it(
    database: Database, proxy: Proxy, world: World
):
    await proxy.audit.record(entry(world))
    async with database.transaction(WORKSPACE) as connection:
        await connection.execute(
            "INSERT INTO deleted_sessions (id, workspace_id, event_id, seq) VALUES (%s, %s, 'sevt_1', 1)",
            (world.session, WORKSPACE),
        )
        await connection.execute("DELETE FROM sessions")
    assert len(await recorded(database, world.session)) == 1
    async with database.transaction("wrkspc_other") as connection:
        cursor = await connection.execute("SELECT count(*) AS n FROM egress_decisions")
        row = await cursor.fetchone()
        assert row is not None
        assert row["n"] == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("path", "/\x00"),
        ("path", "/\udc80"),
        ("host", "x" * 100_000),
        ("method", "\x00" * 100),
        ("message", "\ud800"),
    ],
)
async def test_whatever_a_sandbox_sends_can_be_recorded(
    database: Database, proxy: Proxy, world: World, field: str, value: str
):
    await proxy.audit.record(entry(world, **{field: value}))
    assert broken_at(await recorded(database, world.session)) is None


async def test_one_entry_that_cannot_be_stored_takes_no_other_with_it(database: Database, proxy: Proxy, world: World):
    results = await asyncio.gather(
        *(proxy.audit.record(entry(world, port=2**40 if n == 3 else 443)) for n in range(6)), return_exceptions=True
    )
    assert [type(each) for each in results] == [type(None)] * 3 + [UnavailableError] + [type(None)] * 2
    assert len(await recorded(database, world.session)) == 5


async def test_without_a_line_nothing_is_taken_for_recorded(database: Database, world: World):
    with pytest.raises(UnavailableError) as caught:
        await PostgresAudit(Line(database.url)).record(entry(world))
    assert caught.value.code == "audit_unavailable"


async def test_a_decision_under_way_when_the_database_goes_fails(database: Database, proxy: Proxy, world: World):
    async with await psycopg.AsyncConnection.connect(database.url) as holding:
        await holding.execute("LOCK TABLE egress_decisions")
        waiting = asyncio.create_task(proxy.audit.record(entry(world)))
        async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as superuser:
            while True:
                ended = await superuser.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%record_egress%'"
                    " AND wait_event_type = 'Lock' AND datname = current_database()"
                )
                if await ended.fetchone():
                    break
                await asyncio.sleep(0.01)
        with pytest.raises(UnavailableError):
            await waiting


async def test_what_was_refused_is_told_once_and_in_order(database: Database, proxy: Proxy, world: World):
    before = datetime.now(UTC) - timedelta(seconds=1)
    await call(database, world, "sevt_1")
    for message, verdict in (("b", "denied"), ("a", "cut"), ("fine", "allowed"), ("b", "denied"), ("c", "failed")):
        await proxy.audit.record(entry(world, verdict=verdict, message=message))
    async with database.transaction(WORKSPACE) as connection:
        told = partial(decisions.denials, connection, tool_use_id="sevt_1")
        assert await told(world.sandbox, since=before) == ["b", "a", "c"]
        assert await told("sbx_other", since=before) == []
        later = datetime.now(UTC) + timedelta(hours=1)
        assert await told(world.sandbox, since=later) == []


async def test_a_call_is_not_told_what_another_was_refused(database: Database, proxy: Proxy, world: World):
    before = datetime.now(UTC) - timedelta(seconds=1)
    await proxy.audit.record(entry(world, verdict="denied", message="in the background"))
    await call(database, world, "sevt_1")
    await proxy.audit.record(entry(world, verdict="denied", message="of the first"))
    await call(database, world, "sevt_2")
    await proxy.audit.record(entry(world, verdict="denied", message="of either"))
    shared = [f"While this ran, in this sandbox: {what}" for what in ("in the background", "of either")]
    async with database.transaction(WORKSPACE) as connection:
        told = partial(decisions.denials, connection, world.sandbox, since=before)
        assert await told(tool_use_id="sevt_1") == [shared[0], "of the first", shared[1]]
        assert await told(tool_use_id="sevt_2") == shared
