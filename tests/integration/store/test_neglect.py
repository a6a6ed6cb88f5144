from datetime import timedelta

from controlplane.ids import new_id
from controlplane.store import approvals, events, idempotency, journal, neglect
from controlplane.store.approvals import CallDecision
from controlplane.store.events import NewEvent
from controlplane.store.neglect import Neglected
from controlplane.store.pool import ALL_WORKSPACES, Database
from controlplane.store.turns import PostgresTurns
from harness_adapters.contract import ToolUse
from tests.integration.store.conftest import WORKSPACE, Say
from workflows.contracts import TurnInput
from workflows.records import TurnStart
from workflows.verdicts import Judgement

NOW = timedelta(0)


async def neglected(database: Database, *, older_than: timedelta = NOW) -> list[Neglected]:
    async with database.transaction(ALL_WORKSPACES) as connection:
        return await neglect.sessions(connection, older_than=older_than)


async def begin(database: Database, session_id: str) -> tuple[PostgresTurns, TurnStart]:
    """A turn whose worker lives."""
    worker = new_id("wrk")
    async with database.transaction(WORKSPACE) as connection:
        await connection.execute(
            "INSERT INTO workers (id, kind, host, pid) VALUES (%s, 'brain', 'here', 1)", (worker,)
        )
    turns = PostgresTurns(database, gateway_url="http://127.0.0.1:1")
    turn = TurnInput(session_id=session_id, workspace_id=WORKSPACE, turn_id=new_id("turn"))
    start = await turns.begin(turn, worker_id=worker, task_token=b"")
    assert isinstance(start, TurnStart)
    return turns, start


async def test_a_session_without_a_message_is_left_alone(database: Database, session_id: str) -> None:
    assert await neglected(database) == []


async def test_a_message_that_no_turn_takes_is_found_once_it_is_old_enough(
    database: Database, session_id: str, say: Say
) -> None:
    await say("one")
    found = Neglected(session_id=session_id, workspace_id=WORKSPACE, interrupt=False)
    assert await neglected(database) == [found]
    assert await neglected(database, older_than=timedelta(hours=1)) == []


async def test_a_message_that_waits_behind_a_living_turn_is_left_alone(
    database: Database, session_id: str, say: Say
) -> None:
    await say("one", "two")
    await begin(database, session_id)
    assert await neglected(database) == []


async def test_an_interrupt_that_the_turn_has_not_seen_is_sent_again(
    database: Database, session_id: str, say: Say
) -> None:
    await say("one")
    await begin(database, session_id)
    async with database.transaction(WORKSPACE) as connection:
        await events.append(connection, session_id, [NewEvent(type="user.interrupt", queued=True)])
    assert [each.interrupt for each in await neglected(database)] == [True]


async def test_a_session_whose_call_waits_for_somebody_is_left_alone_until_it_is_decided_or_stopped(
    database: Database, session_id: str, say: Say
) -> None:
    await say("one", "two")
    turns, start = await begin(database, session_id)
    async with database.transaction(WORKSPACE) as connection:
        use = ToolUse(event_id=new_id("sevt"), name="bash", input={})
        await journal.intend(connection, start.input, [use], judgements={use.event_id: Judgement("ask")})
    await turns.end(start, "requires_action")
    assert await neglected(database) == []
    async with database.transaction(WORKSPACE) as connection:
        decision = CallDecision(tool_use_id=use.event_id, kind="allow", by="key_a")
        await approvals.decide(connection, session_id, decision, field="tool_use_id")
    assert [each.session_id for each in await neglected(database)] == [session_id]
    async with database.transaction(WORKSPACE) as connection:
        await connection.execute("UPDATE tool_calls SET decision = NULL")
        await events.append(connection, session_id, [NewEvent(type="user.interrupt", queued=True)])
    assert [each.session_id for each in await neglected(database)] == [session_id]


async def test_a_turn_whose_worker_is_gone_is_found(database: Database, session_id: str, say: Say) -> None:
    await say("one")
    await begin(database, session_id)
    async with database.transaction(WORKSPACE) as connection:
        await connection.execute("DELETE FROM workers")
    assert [each.session_id for each in await neglected(database)] == [session_id]


async def test_a_failed_turn_that_is_to_be_resumed_is_found(database: Database, session_id: str, say: Say) -> None:
    await say("one")
    turns, start = await begin(database, session_id)
    await turns.end(start, "retries_exhausted")
    assert await neglected(database) == []
    async with database.transaction(WORKSPACE) as connection:
        await connection.execute("UPDATE sessions SET resume_wanted = true")
    assert [each.session_id for each in await neglected(database)] == [session_id]


async def test_idempotency_keys_are_forgotten_when_they_are_old(database: Database) -> None:
    async with database.transaction(WORKSPACE) as connection:
        await idempotency.claim(connection, WORKSPACE, key="k", request_hashes=[b"h"])
        await idempotency.record(connection, WORKSPACE, key="k", status_code=200, response={}, session_id=None)
    for age, known in ((timedelta(hours=1), True), (NOW, False)):
        async with database.transaction(ALL_WORKSPACES) as connection:
            await idempotency.forget(connection, older_than=age)
        async with database.transaction(WORKSPACE) as connection:
            cursor = await connection.execute("SELECT FROM idempotency_keys")
            assert (await cursor.fetchone() is not None) is known
