"""What people say and press at a front door: committed before the service is told that we have it, and known by what
it is, not by how often it was told."""

from typing import Any, Literal

from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict, ValidationError

from controlplane.frontdoors.contract import Crossed, Inbound, Said
from controlplane.ids import new_id
from controlplane.store import front_door_threads
from controlplane.store.front_door_threads import DoorThread
from controlplane.store.frontdoors import FrontDoorRecord
from controlplane.store.pool import Connection, one

Received = Literal["new", "known", "not_ours"]


class Item(BaseModel):
    """What a person did ``age_seconds`` ago, and what is to be sent for it once that is decided."""

    model_config = ConfigDict(frozen=True)

    id: str
    inbound: Inbound
    request: dict[str, Any] | None
    age_seconds: float


class UnreadableItemError(Exception):
    """What is on record of an item is not what this release writes."""

    def __init__(self, item_id: str):
        super().__init__(item_id)
        self.item_id = item_id


async def receive(connection: Connection, door: FrontDoorRecord, inbound: Inbound) -> Received:
    """Put on record what came in; the caller commits before it answers the service.

    What the service gives no time for comes behind all that waits there: its clock may be ahead of ours.
    """
    # A reply that overtakes the message that opens its thread would be left lying otherwise.
    await front_door_threads.order(connection, door.id, inbound.place, inbound.thread)
    fresh = await one(
        connection,
        "INSERT INTO front_door_deliveries (front_door_id, delivery, workspace_id) VALUES (%(door)s, %(id)s, %(ws)s)"
        " ON CONFLICT DO NOTHING RETURNING delivery",
        {"door": door.id, "id": inbound.delivery, "ws": door.workspace_id},
    )
    if fresh is None:
        return "known"
    said = inbound.what if isinstance(inbound.what, Said) else None
    if said is not None and said.addressed:
        await front_door_threads.begin(connection, door, inbound)
    thread = await front_door_threads.hold(connection, door, inbound)
    ours = thread is not None and (thread.let_in or _is_for_us(inbound))
    if not ours and (said is None or said.elsewhere or inbound.thread == inbound.message):
        return "not_ours"
    if ours and said is not None and said.elsewhere:
        return "not_ours"
    state = "waiting" if ours else "parked"
    row = await one(
        connection,
        "INSERT INTO front_door_inbox (id, workspace_id, front_door_id, place, thread, message, person, body,"
        " happened_at, state) VALUES (%(id)s, %(ws)s, %(door)s, %(place)s, %(thread)s, %(message)s, %(person)s,"
        " %(body)s, coalesce(%(at)s, (SELECT greatest(clock_timestamp(), max(w.happened_at) + interval '1 ms')"
        " FROM front_door_inbox w WHERE w.front_door_id = %(door)s AND w.place = %(place)s AND w.thread = %(thread)s"
        " AND w.state IN ('parked', 'held', 'waiting'))), %(state)s)"
        " ON CONFLICT (front_door_id, place, message) DO UPDATE SET state = 'waiting'"
        " WHERE front_door_inbox.state = 'parked' AND excluded.state = 'waiting' RETURNING id",
        {
            "id": new_id("inb"),
            "ws": door.workspace_id,
            "door": door.id,
            "place": inbound.place,
            "thread": inbound.thread,
            "message": inbound.message,
            "person": inbound.person,
            "body": Jsonb(inbound.model_dump(mode="json")),
            "at": inbound.happened_at,
            "state": state,
        },
    )
    if row is None:
        return "known"
    if thread is None or not ours:
        return "not_ours"
    await front_door_threads.wake(connection, thread.id)
    return "new"


def _is_for_us(inbound: Inbound) -> bool:
    """Say whether it is acted on where nobody was let in yet: it addresses us, or is a sign to stop what does."""
    return inbound.what.addressed if isinstance(inbound.what, Said) else isinstance(inbound.what, Crossed)


async def let_in(connection: Connection, at: DoorThread, item: Item) -> None:
    """Have a thread be ours, since who said this may talk, and take up what was said in it since: it waited for that,
    or was delivered before it."""
    await front_door_threads.let_in(connection, at)
    await connection.execute(
        "UPDATE front_door_inbox SET state = 'waiting' WHERE front_door_id = %s AND place = %s AND thread = %s"
        " AND state = 'parked' AND message > %s",
        (at.front_door_id, at.place, at.thread, item.inbound.message),
    )


async def next_item(connection: Connection, at: DoorThread) -> Item | None:
    """Return what happened first of what waits in a thread; raises `UnreadableItemError`."""
    row = await one(
        connection,
        "SELECT id, body AS inbound, request,"
        " extract(epoch FROM clock_timestamp() - received_at)::float8 AS age_seconds"
        " FROM front_door_inbox WHERE front_door_id = %(door)s"
        " AND place = %(place)s AND thread = %(thread)s AND state = 'waiting'"
        " ORDER BY happened_at, message LIMIT 1",
        {"door": at.front_door_id, "place": at.place, "thread": at.thread},
    )
    if row is None:
        return None
    try:
        return Item.model_validate(row)
    except ValidationError as error:
        raise UnreadableItemError(row["id"]) from error


async def failed(connection: Connection, item_id: str) -> int:
    """Count that an item could not be acted on, and return how often it could not by now."""
    row = await one(
        connection,
        "UPDATE front_door_inbox SET failures = failures + 1 WHERE id = %(id)s RETURNING failures",
        {"id": item_id},
    )
    return row["failures"] if row else 0


async def reword(connection: Connection, item_id: str, text: str) -> None:
    """Have an item say this, without what has been acted on of it."""
    await connection.execute(
        "UPDATE front_door_inbox SET body = jsonb_set(body, '{what,text}', to_jsonb(%s::text)) WHERE id = %s",
        (text, item_id),
    )


async def plan(connection: Connection, item_id: str, request: dict[str, Any]) -> None:
    """Lay down what is sent for an item, before it is."""
    await connection.execute("UPDATE front_door_inbox SET request = %s WHERE id = %s", (Jsonb(request), item_id))


async def hold(connection: Connection, item_id: str) -> None:
    """Have an item wait for the choice of an agent."""
    await connection.execute("UPDATE front_door_inbox SET state = 'held' WHERE id = %s", (item_id,))


async def release_held(connection: Connection, at: DoorThread) -> bool:
    """Let what waited for the choice of an agent go on; say whether anything had."""
    released = await connection.execute(
        "UPDATE front_door_inbox SET state = 'waiting' WHERE front_door_id = %s AND place = %s AND thread = %s"
        " AND state = 'held'",
        (at.front_door_id, at.place, at.thread),
    )
    return released.rowcount > 0


async def settle(
    connection: Connection,
    item_id: str,
    state: Literal["done", "refused"] = "done",
) -> None:
    """Note what became of an item; what was said is in its session now, and is not kept twice."""
    await connection.execute(
        "UPDATE front_door_inbox SET state = %(state)s, done_at = clock_timestamp(), body = '{}', request = NULL"
        " WHERE id = %(id)s",
        {"id": item_id, "state": state},
    )


async def settle_all(connection: Connection, session_id: str) -> None:
    """Refuse what waits in the threads of a session that is about to be deleted, within that transaction.

    Holds the threads, so that what comes in meanwhile is either among it or finds none of them.
    """
    await connection.execute(
        "SELECT FROM front_door_threads WHERE session_id = %(session)s FOR UPDATE", {"session": session_id}
    )
    await connection.execute(
        "UPDATE front_door_inbox i SET state = 'refused', done_at = clock_timestamp(), body = '{}', request = NULL"
        " FROM front_door_threads t WHERE t.session_id = %(session)s AND i.front_door_id = t.front_door_id"
        " AND i.place = t.place AND i.thread = t.thread AND i.state IN ('parked', 'held', 'waiting')",
        {"session": session_id},
    )


async def told_before(connection: Connection, session_id: str, item: Item) -> bool:
    """Say whether a session took what was sent for an item since it came, though we never heard so."""
    sent = (item.request or {})["events"][0]
    row = await one(
        connection,
        "SELECT id FROM events WHERE session_id = %(session)s AND type = 'user.message'"
        " AND created_at >= clock_timestamp() - %(age)s * interval '1 second' AND payload -> 'content' @> %(content)s"
        " LIMIT 1",
        {"session": session_id, "age": item.age_seconds, "content": Jsonb(sent["content"])},
    )
    return row is not None


async def forget(connection: Connection, front_door_id: str) -> None:
    """Forget what nobody tells again: deliveries after three days, what was said to others after ten minutes unless
    something in its thread still waits that may make it ours, and what became of the rest after thirty days."""
    await connection.execute(
        "DELETE FROM front_door_deliveries WHERE front_door_id = %s AND received_at < now() - interval '3 days'",
        (front_door_id,),
    )
    await connection.execute(
        "DELETE FROM front_door_inbox said WHERE front_door_id = %s AND state = 'parked'"
        " AND received_at < now() - interval '10 minutes' AND NOT EXISTS (SELECT FROM front_door_inbox waiting"
        " WHERE waiting.front_door_id = said.front_door_id AND waiting.place = said.place"
        " AND waiting.thread = said.thread AND waiting.state IN ('held', 'waiting'))",
        (front_door_id,),
    )
    await connection.execute(
        "DELETE FROM front_door_inbox WHERE front_door_id = %s AND done_at < now() - interval '30 days'",
        (front_door_id,),
    )
