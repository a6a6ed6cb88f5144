"""What people do at a front door: whose thread it becomes, and in which order it is acted on."""

from datetime import UTC, datetime, timedelta

from controlplane.frontdoors.contract import Crossed, Pressed, Said
from controlplane.store import front_door_inbox, front_door_threads
from controlplane.store.front_door_threads import DoorThread
from controlplane.store.frontdoors import FrontDoorRecord
from controlplane.store.pool import Connection, Database, rows
from tests.integration.store.conftest import WORKSPACE
from tests.support.frontdoors import inbound, make_door, make_thread

MENTION, REPLY = Said(text="hello", addressed=True), Said(text="and?", addressed=False)


async def mentioned(connection: Connection, door: FrontDoorRecord) -> DoorThread:
    """Have somebody begin a thread who was not asked about yet."""
    assert await front_door_inbox.receive(connection, door, inbound(MENTION, person="U02BOB")) == "new"
    found = await front_door_threads.at(connection, door.id, "C001", "1.0")
    assert found is not None
    return found


async def done_in_turn(connection: Connection, at: DoorThread) -> list[str]:
    """Act on all that waits, and return by what it is known."""
    done: list[str] = []
    while (item := await front_door_inbox.next_item(connection, at)) is not None:
        done.append(item.inbound.message)
        await front_door_inbox.settle(connection, item.id)
    return done


async def test_a_thread_is_ours_once_who_addressed_us_was_let_in(database: Database) -> None:
    async with database.transaction(WORKSPACE) as connection:
        door = await make_door(connection)
        at = await mentioned(connection, door)
        reply = inbound(REPLY, message="2.0")
        assert await front_door_inbox.receive(connection, door, reply) == "not_ours"
        assert await front_door_threads.of_person(connection, door.id, "C001", "U01ALICE") is None
        assert await front_door_threads.of_person(connection, door.id, "C001", "U02BOB") == "1.0", "it waits"
        first = await front_door_inbox.next_item(connection, at)
        assert first is not None
        await front_door_inbox.let_in(connection, at, first)
        assert await front_door_inbox.receive(connection, door, inbound(REPLY, message="3.0")) == "new"
        assert await done_in_turn(connection, at) == ["1.0", "2.0", "3.0"], "what was said meanwhile is not lost"
        assert await front_door_threads.of_person(connection, door.id, "C001", "U02BOB") == "1.0"


async def test_what_is_said_below_a_mention_is_kept_as_long_as_the_mention_waits(database: Database) -> None:
    async with database.transaction(WORKSPACE) as connection:
        door = await make_door(connection)
        at = await mentioned(connection, door)
        for thread in ("1.0", "9.0"):
            reply = inbound(REPLY, thread=thread, message=f"{thread}1")
            assert await front_door_inbox.receive(connection, door, reply) == "not_ours"
        await connection.execute("UPDATE front_door_inbox SET received_at = now() - interval '11 minutes'")
        await front_door_inbox.forget(connection, door.id)
        kept = await rows(connection, "SELECT message FROM front_door_inbox ORDER BY message", {})
        assert [each["message"] for each in kept] == ["1.0", "1.01"], "nobody was asked into the other thread"
        first = await front_door_inbox.next_item(connection, at)
        assert first is not None
        await front_door_inbox.settle(connection, first.id, "refused")
        await front_door_inbox.forget(connection, door.id)
        kept = await rows(connection, "SELECT state FROM front_door_inbox", {})
    assert [each["state"] for each in kept] == ["refused"]


async def test_what_is_said_below_a_mention_that_was_refused_is_not_for_us(database: Database) -> None:
    async with database.transaction(WORKSPACE) as connection:
        door = await make_door(connection)
        at = await mentioned(connection, door)
        await front_door_inbox.receive(connection, door, inbound(REPLY, message="2.0"))
        refused = await front_door_inbox.next_item(connection, at)
        assert refused is not None
        await front_door_inbox.settle(connection, refused.id, "refused")
        assert await front_door_threads.of_person(connection, door.id, "C001", "U02BOB") is None
        assert await front_door_inbox.receive(connection, door, inbound(REPLY, message="3.0")) == "not_ours"
        press = inbound(Pressed(action="stop", value="stop"), message="4.0:U01ALICE:stop")
        assert await front_door_inbox.receive(connection, door, press) == "not_ours"
        assert await done_in_turn(connection, at) == []
        assert await front_door_inbox.receive(connection, door, inbound(MENTION, message="5.0")) == "new"


async def test_things_are_acted_on_in_the_order_in_which_they_happened(database: Database) -> None:
    now = datetime.now(UTC)
    async with database.transaction(WORKSPACE) as connection:
        door = await make_door(connection)
        at = await make_thread(connection, door)
        assert await done_in_turn(connection, at) == ["1.0"]
        said = [
            inbound(Crossed(), message="3.0:U01ALICE:x", happened_at=now - timedelta(seconds=1)),
            inbound(REPLY, message="2.0", happened_at=now - timedelta(seconds=2)),
            inbound(Said(text="new", addressed=False), message="command:1.2.3"),
            inbound(REPLY, message="4.0", happened_at=now + timedelta(hours=1)),
        ]
        for each in said:
            assert await front_door_inbox.receive(connection, door, each) == "new"
        assert await done_in_turn(connection, at) == ["2.0", "3.0:U01ALICE:x", "command:1.2.3", "4.0"]


async def test_what_comes_without_a_time_comes_behind_what_a_clock_ahead_of_ours_gave_one(database: Database) -> None:
    ahead = datetime.now(UTC) + timedelta(seconds=5)
    async with database.transaction(WORKSPACE) as connection:
        door = await make_door(connection)
        at = await make_thread(connection, door)
        assert await done_in_turn(connection, at) == ["1.0"]
        said = [
            inbound(REPLY, message="2.0", happened_at=ahead),
            inbound(Said(text="stop", addressed=False), message="command:9"),
            inbound(Said(text="new", addressed=False), message="command:1"),
        ]
        for each in said:
            assert await front_door_inbox.receive(connection, door, each) == "new"
        assert await done_in_turn(connection, at) == ["2.0", "command:9", "command:1"]


async def test_a_sign_to_stop_what_was_not_let_in_yet_waits_behind_it(database: Database) -> None:
    async with database.transaction(WORKSPACE) as connection:
        door = await make_door(connection)
        at = await mentioned(connection, door)
        crossed = inbound(Crossed(), message="1.5:U01ALICE:x")
        assert await front_door_inbox.receive(connection, door, crossed) == "new"
        assert await done_in_turn(connection, at) == ["1.0", "1.5:U01ALICE:x"]
