"""What runs in the background of a process outlives whatever it meets."""

import asyncio
from typing import LiteralString

import psycopg

from controlplane.store.listening import listen
from controlplane.store.pool import Database
from controlplane.wakeups import Reconciler, Wakeups
from tests.integration.store.conftest import WORKSPACE, Say
from workflows.connection import TemporalServer, connect_patiently
from workflows.contracts import session_workflow_id


async def test_who_listens_hears_what_comes_after_a_notification_that_it_failed_at(database_url: str) -> None:
    heard: list[str] = []

    def hear(_: str, payload: str) -> None:
        heard.append(payload)
        if payload == "bad":
            raise ValueError(payload)

    connections: list[bool] = []
    listening = asyncio.create_task(listen(database_url, ["told"], hear, connected=lambda: connections.append(True)))
    async with (
        asyncio.timeout(10),
        await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection,
    ):
        for payload, connected in (("bad", 1), ("good", 2)):
            while len(connections) < connected:  # noqa: ASYNC110 - it reconnects when it does
                await asyncio.sleep(0.01)
            await connection.execute("SELECT pg_notify('told', %s)", (payload,))
        while "good" not in heard:  # noqa: ASYNC110 - a notification comes when it comes
            await asyncio.sleep(0.01)
    listening.cancel()


_A_CALL_THAT_NOBODY_CAN_EXPIRE: tuple[LiteralString, ...] = (
    "UPDATE events SET created_at = now() - interval '1 minute'",
    "ALTER TABLE tool_calls DROP CONSTRAINT tool_calls_on_expiry_check",
    "INSERT INTO sessions (id, workspace_id, agent_id, agent_version, agent, environment_id)"
    " SELECT 'sesn_asks', workspace_id, agent_id, 1, agent, environment_id FROM sessions",
    "INSERT INTO turns (id, workspace_id, session_id, begun_seq, status)"
    " VALUES ('turn_1', %(workspace)s, 'sesn_asks', 0, 'ended')",
    "INSERT INTO tool_calls (id, workspace_id, session_id, turn_id, name, input, verdict, expires_at, on_expiry)"
    " VALUES ('sevt_1', %(workspace)s, 'sesn_asks', 'turn_1', 'bash', '{}', 'ask', now(), 'nonsense')",
)


async def test_a_call_that_cannot_be_expired_keeps_no_session_from_being_woken(
    database: Database, temporal_address: str, session_id: str, say: Say
) -> None:
    await say("one")
    async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as owner:
        for statement in _A_CALL_THAT_NOBODY_CAN_EXPIRE:
            await owner.execute(statement, {"workspace": WORKSPACE})
    client = await connect_patiently(TemporalServer(temporal_address))
    running = asyncio.create_task(Reconciler(database=database, wakeups=Wakeups(client)).run())
    handle = client.get_workflow_handle(session_workflow_id(session_id))
    async with asyncio.timeout(10):
        while not [each async for each in client.list_workflows(f"WorkflowId = '{handle.id}'")]:
            assert not running.done()
            await asyncio.sleep(0.1)
    running.cancel()
    await handle.terminate()
