"""What a front door's ledger keeps of sessions that are deleted."""

import asyncio

from slack_sdk.web.async_client import AsyncWebClient

from controlplane.frontdoors.contract import Said, Text
from controlplane.frontdoors.courier import Courier
from controlplane.frontdoors.failures import MOST_FAILURES
from controlplane.frontdoors.leaving import Leaving
from controlplane.frontdoors.slack.service import SlackService
from controlplane.store import front_door_inbox, front_door_posts, front_door_threads, sessions
from controlplane.store.front_door_threads import DoorThread
from controlplane.store.frontdoors import FrontDoorRecord
from controlplane.store.pool import Connection, Database, rows
from tests.integration.store.conftest import WORKSPACE
from tests.support.frontdoors import inbound, make_door, make_thread


async def opened(connection: Connection, door: FrontDoorRecord, session_id: str) -> DoorThread:
    """A thread that is the session."""
    at = await make_thread(connection, door)
    await front_door_threads.opened(connection, at.id, session_id)
    found = await front_door_threads.find(connection, at.id)
    assert found is not None
    return found


async def test_what_was_said_in_a_session_goes_with_it_from_the_thread_that_has_left_it(
    database: Database, session_id: str
) -> None:
    async with database.transaction(WORKSPACE) as connection:
        at = await opened(connection, await make_door(connection), session_id)
        await front_door_posts.intend(connection, at, WORKSPACE, "answer", Text(markdown="of the session"))
        await front_door_threads.choose(connection, at.id, None)
        left = await front_door_threads.find(connection, at.id)
        assert left is not None
        await front_door_posts.intend(connection, left, WORKSPACE, "reply", Text(markdown="of the thread"))
        await sessions.delete(connection, WORKSPACE, session_id=session_id, seq=1)
        assert await front_door_posts.bodies(connection, at.id, "") == {"reply": Text(markdown="of the thread")}
        assert await front_door_inbox.next_item(connection, at) is not None, (
            "it is not the session's that the thread left"
        )


async def test_nothing_waits_in_the_thread_of_a_session_that_is_deleted(database: Database, session_id: str) -> None:
    async with database.transaction(WORKSPACE) as connection:
        at = await opened(connection, await make_door(connection), session_id)
        await sessions.delete(connection, WORKSPACE, session_id=session_id, seq=1)
        (item,) = await rows(connection, "SELECT state, body, request FROM front_door_inbox", {})
        assert item == {"state": "refused", "body": {}, "request": None}
        assert await front_door_inbox.next_item(connection, at) is None


async def test_what_comes_in_while_a_session_is_deleted_does_not_wait_for_nobody(
    database: Database, session_id: str
) -> None:
    async with database.transaction(WORKSPACE) as connection:
        door = await make_door(connection)
        await opened(connection, door, session_id)
    async with database.transaction(WORKSPACE) as connection:
        await sessions.delete(connection, WORKSPACE, session_id=session_id, seq=1)
        coming = asyncio.create_task(received(database, door, message="2.0"))
        await waits_for_a_lock(database)
    assert await coming == "not_ours"
    async with database.transaction(WORKSPACE) as connection:
        states = [row["state"] for row in await rows(connection, "SELECT state FROM front_door_inbox", {})]
    assert sorted(states) == ["parked", "refused"]


async def test_who_gives_up_a_message_of_a_session_that_is_being_deleted_waits_for_that(
    database: Database, session_id: str, leaving: Leaving
) -> None:
    async def content(file_id: str) -> bytes:
        raise AssertionError(file_id)

    async with database.transaction(WORKSPACE) as connection:
        door = await make_door(connection)
        at = await opened(connection, door, session_id)
        await front_door_posts.intend(connection, at, WORKSPACE, "answer", Text(markdown="lost"))
        await connection.execute("UPDATE front_door_posts SET body = '{}', failures = %s", (MOST_FAILURES - 1,))
    nowhere = AsyncWebClient(token="xoxb-x", base_url="http://127.0.0.1:1/")
    service = SlackService(nowhere, team="T1", bot_user="U0BOT")
    courier = Courier(database=database, service=service, door=door, content=content, leaving=leaving)
    async with database.transaction(WORKSPACE) as connection:
        await connection.execute("SELECT FROM sessions WHERE id = %s FOR UPDATE", (session_id,))
        delivering = asyncio.create_task(courier.deliver(at))
        await waits_for_a_lock(database)
        await sessions.delete(connection, WORKSPACE, session_id=session_id, seq=1)
    assert await delivering, "nothing is left of it that could be told"
    async with database.transaction(WORKSPACE) as connection:
        assert await front_door_posts.bodies(connection, at.id, "") == {}


async def test_what_came_of_an_item_is_forgotten_after_a_month(database: Database) -> None:
    async with database.transaction(WORKSPACE) as connection:
        door = await make_door(connection)
        at = await make_thread(connection, door)
        item = await front_door_inbox.next_item(connection, at)
        assert item is not None
        await front_door_inbox.settle(connection, item.id)
        await make_thread(connection, door, thread="2.0")
        await connection.execute("UPDATE front_door_inbox SET received_at = now() - interval '32 days'")
        await connection.execute("UPDATE front_door_inbox SET done_at = done_at - interval '29 days'")
        await front_door_inbox.forget(connection, door.id)
        assert len(await rows(connection, "SELECT FROM front_door_inbox", {})) == 2
        await connection.execute("UPDATE front_door_inbox SET done_at = done_at - interval '2 days'")
        await front_door_inbox.forget(connection, door.id)
        (left,) = await rows(connection, "SELECT thread FROM front_door_inbox", {})
    assert left["thread"] == "2.0", "what still waits is not"


async def received(database: Database, door: FrontDoorRecord, *, message: str) -> str:
    async with database.transaction(WORKSPACE) as connection:
        return await front_door_inbox.receive(
            connection, door, inbound(Said(text="and?", addressed=False), message=message)
        )


async def waits_for_a_lock(database: Database) -> None:
    """Return when a transaction waits for another one."""
    async with asyncio.timeout(20):
        while True:
            async with database.transaction(WORKSPACE) as connection:
                if await rows(connection, "SELECT FROM pg_locks WHERE NOT granted", {}):
                    return
            await asyncio.sleep(0.05)
