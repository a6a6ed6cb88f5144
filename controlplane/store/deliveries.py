"""The ledger of a front door: what people did, which thread is which session, and every message that is to stand.

What comes in is committed before the service is told that we have it, and known by what it is, not by how often it
was told. What goes out is committed before it is sent, under a name that it has again when it is made again.
"""

from typing import Any, Literal, LiteralString

from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict, TypeAdapter

from controlplane.frontdoors.contract import Body, Inbound, Post, Said
from controlplane.ids import new_id
from controlplane.store.frontdoors import FrontDoorRecord
from controlplane.store.pool import Connection, one, rows

CHANNEL = "bulkhead_front_doors"
"""Notified on commit when a front door has something to do."""

Received = Literal["new", "known", "not_ours"]

_BODY: TypeAdapter[Body] = TypeAdapter(Body)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Thread(_Frozen):
    """A thread that is, or is to be, a session."""

    id: str
    front_door_id: str
    place: str
    thread: str
    agent_id: str | None
    opening: dict[str, Any] | None
    session_id: str | None
    seen_seq: int
    lock_key: int


class Item(_Frozen):
    """What a person did, and what is to be sent for it once that is decided."""

    id: str
    inbound: Inbound
    request: dict[str, Any] | None


class DuePost(_Frozen):
    """A message and what is to be done about it. ``sent_seconds``: since it was last sent."""

    id: str
    body: Body
    state: Literal["intended", "sending", "posted"]
    revision: int
    withdrawn: bool
    remote: str | None
    sent_seconds: float | None

    def post(self) -> Post:
        """Return it as services take it."""
        return Post(id=self.id, body=self.body, remote=self.remote)


_THREADS: LiteralString = """
    SELECT t.id, t.front_door_id, t.place, t.thread, t.agent_id, t.opening, t.session_id, t.seen_seq, t.lock_key
      FROM front_door_threads t"""

_WITH_WORK: LiteralString = """
    SELECT t.id, t.front_door_id, t.place, t.thread, t.agent_id, t.opening, t.session_id, t.seen_seq, t.lock_key
      FROM front_door_threads t LEFT JOIN sessions s ON s.id = t.session_id
     WHERE t.front_door_id = %(door)s
       AND (s.last_seq > t.seen_seq
            OR EXISTS (SELECT FROM front_door_inbox i WHERE i.front_door_id = t.front_door_id AND i.place = t.place
                                                        AND i.thread = t.thread AND i.state = 'waiting')
            OR EXISTS (SELECT FROM front_door_posts p
                        WHERE p.thread_id = t.id
                          AND (p.state IN ('intended', 'sending')
                               OR (p.state = 'posted' AND (p.withdrawn OR p.revision > p.shown)))))"""


async def receive(connection: Connection, door: FrontDoorRecord, inbound: Inbound) -> Received:
    """Put on record what came in; the caller commits before it answers the service."""
    # One at a time in a thread: a reply that overtakes the message that opens it would be left lying otherwise.
    await connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"{door.id} {inbound.place} {inbound.thread}",)
    )
    fresh = await one(
        connection,
        "INSERT INTO front_door_deliveries (front_door_id, delivery, workspace_id) VALUES (%(door)s, %(id)s, %(ws)s)"
        " ON CONFLICT DO NOTHING RETURNING delivery",
        {"door": door.id, "id": inbound.delivery, "ws": door.workspace_id},
    )
    if fresh is None:
        return "known"
    said = inbound.what if isinstance(inbound.what, Said) else None
    addressed = said is not None and said.addressed
    if addressed:
        await _open_thread(connection, door, inbound)
    ours = await _is_ours(connection, door, inbound)
    if not ours and (said is None or said.elsewhere or inbound.thread == inbound.message):
        return "not_ours"
    if ours and said is not None and said.elsewhere:
        return "not_ours"
    state = "waiting" if ours else "parked"
    row = await one(
        connection,
        "INSERT INTO front_door_inbox (id, workspace_id, front_door_id, place, thread, message, body, state)"
        " VALUES (%(id)s, %(ws)s, %(door)s, %(place)s, %(thread)s, %(message)s, %(body)s, %(state)s)"
        " ON CONFLICT (front_door_id, place, message) DO UPDATE SET state = 'waiting'"
        " WHERE front_door_inbox.state = 'parked' AND excluded.state = 'waiting' RETURNING id",
        {
            "id": new_id("inb"),
            "ws": door.workspace_id,
            "door": door.id,
            "place": inbound.place,
            "thread": inbound.thread,
            "message": inbound.message,
            "body": Jsonb(inbound.model_dump(mode="json")),
            "state": state,
        },
    )
    if addressed:
        await _unpark(connection, door, inbound)
    if row is None:
        return "known"
    if state == "waiting":
        await wake(connection)
    return "new" if ours else "not_ours"


async def wake(connection: Connection) -> None:
    """Have the front doors' processes look when the caller's transaction commits."""
    await connection.execute("SELECT pg_notify(%s, '')", (CHANNEL,))


async def _open_thread(connection: Connection, door: FrontDoorRecord, inbound: Inbound) -> None:
    await connection.execute(
        "INSERT INTO front_door_threads (id, workspace_id, front_door_id, place, thread) VALUES (%s, %s, %s, %s, %s)"
        " ON CONFLICT DO NOTHING",
        (new_id("fth"), door.workspace_id, door.id, inbound.place, inbound.thread),
    )


async def _is_ours(connection: Connection, door: FrontDoorRecord, inbound: Inbound) -> bool:
    found = await one(
        connection,
        "SELECT id FROM front_door_threads WHERE front_door_id = %(door)s AND place = %(place)s"
        " AND thread = %(thread)s",
        {"door": door.id, "place": inbound.place, "thread": inbound.thread},
    )
    return found is not None


async def _unpark(connection: Connection, door: FrontDoorRecord, inbound: Inbound) -> None:
    """Take up what was said in the thread after a message that addresses us, and was delivered before it."""
    await connection.execute(
        "UPDATE front_door_inbox SET state = 'waiting' WHERE front_door_id = %s AND place = %s AND thread = %s"
        " AND state = 'parked' AND message > %s",
        (door.id, inbound.place, inbound.thread, inbound.message),
    )


async def threads_with_work(connection: Connection, front_door_id: str) -> list[Thread]:
    """Return the threads where something was said, has happened, or is to be posted."""
    found = await rows(connection, _WITH_WORK, {"door": front_door_id})
    return [Thread.model_validate(row) for row in found]


async def thread(connection: Connection, thread_id: str) -> Thread | None:
    """Return a thread; None: it is gone, with its session."""
    row = await one(connection, _THREADS + " WHERE t.id = %(id)s", {"id": thread_id})
    return Thread.model_validate(row) if row else None


async def thread_at(connection: Connection, front_door_id: str, place: str, name: str) -> Thread | None:
    """Return the thread of this name in a place, if it is ours."""
    row = await one(
        connection,
        _THREADS + " WHERE t.front_door_id = %(door)s AND t.place = %(place)s AND t.thread = %(thread)s",
        {"door": front_door_id, "place": place, "thread": name},
    )
    return Thread.model_validate(row) if row else None


async def thread_with(connection: Connection, front_door_id: str, place: str, message: str) -> str | None:
    """Return in which thread a message stands that somebody has said, or we."""
    row = await one(
        connection,
        "SELECT thread FROM front_door_inbox WHERE front_door_id = %(door)s AND place = %(place)s"
        " AND message = %(message)s UNION ALL SELECT t.thread FROM front_door_posts p JOIN front_door_threads t"
        " ON t.id = p.thread_id WHERE t.front_door_id = %(door)s AND t.place = %(place)s AND p.remote = %(message)s"
        " LIMIT 1",
        {"door": front_door_id, "place": place, "message": message},
    )
    return row["thread"] if row else None


async def last_seq(connection: Connection, thread_id: str) -> int:
    """Return the newest seq of a thread's session."""
    row = await one(
        connection,
        "SELECT s.last_seq FROM front_door_threads t JOIN sessions s ON s.id = t.session_id WHERE t.id = %(id)s",
        {"id": thread_id},
    )
    return row["last_seq"] if row else 0


async def next_item(connection: Connection, at: Thread) -> Item | None:
    """Return what was said first of what waits in a thread."""
    row = await one(
        connection,
        "SELECT id, body AS inbound, request FROM front_door_inbox WHERE front_door_id = %(door)s"
        " AND place = %(place)s AND thread = %(thread)s AND state = 'waiting'"
        " ORDER BY (body #>> '{what,type}') = 'said', message LIMIT 1",
        {"door": at.front_door_id, "place": at.place, "thread": at.thread},
    )
    return Item.model_validate(row) if row else None


async def plan(connection: Connection, item_id: str, request: dict[str, Any]) -> None:
    """Lay down what is sent for an item, before it is."""
    await connection.execute("UPDATE front_door_inbox SET request = %s WHERE id = %s", (Jsonb(request), item_id))


async def settle(
    connection: Connection,
    item_id: str,
    state: Literal["done", "refused", "held"] = "done",
    *,
    event_id: str | None = None,
) -> None:
    """Note what became of an item; what was said is in its session now, and is not kept twice."""
    await connection.execute(
        "UPDATE front_door_inbox SET state = %(state)s, event_id = %(event)s, done_at = clock_timestamp(),"
        " body = CASE WHEN %(state)s = 'held' THEN body ELSE '{}' END,"
        " request = CASE WHEN %(state)s = 'held' THEN request END WHERE id = %(id)s",
        {"id": item_id, "state": state, "event": event_id},
    )


async def release_held(connection: Connection, at: Thread) -> None:
    """Let what waited for the choice of an agent go on."""
    await connection.execute(
        "UPDATE front_door_inbox SET state = 'waiting' WHERE front_door_id = %s AND place = %s AND thread = %s"
        " AND state = 'held'",
        (at.front_door_id, at.place, at.thread),
    )


async def choose(connection: Connection, thread_id: str, agent_id: str | None) -> None:
    """Have an agent answer in a thread; its session, if it has one, is left for another."""
    await connection.execute(
        "UPDATE front_door_threads SET agent_id = coalesce(%s, agent_id), opening = NULL, session_id = NULL,"
        " seen_seq = 0 WHERE id = %s",
        (agent_id, thread_id),
    )


async def open_with(connection: Connection, thread_id: str, opening: dict[str, Any]) -> None:
    """Lay down the request that makes a thread's session, before it is sent."""
    await connection.execute("UPDATE front_door_threads SET opening = %s WHERE id = %s", (Jsonb(opening), thread_id))


async def opened(connection: Connection, thread_id: str, session_id: str) -> None:
    """Note which session a thread is."""
    await connection.execute(
        "UPDATE front_door_threads SET session_id = %s, seen_seq = 0 WHERE id = %s", (session_id, thread_id)
    )


async def seen(connection: Connection, thread_id: str, session_id: str, seq: int) -> None:
    """Note that all that a session did up to ``seq`` is in the ledger."""
    await connection.execute(
        "UPDATE front_door_threads SET seen_seq = greatest(seen_seq, %s) WHERE id = %s AND session_id = %s",
        (seq, thread_id, session_id),
    )


async def intend(connection: Connection, at: Thread, workspace_id: str, name: str, body: Body) -> None:
    """Have a message stand in a thread; the same name again changes nothing."""
    await connection.execute(
        "INSERT INTO front_door_posts (id, workspace_id, thread_id, name, body) VALUES (%s, %s, %s, %s, %s)"
        " ON CONFLICT (thread_id, name) DO NOTHING",
        (new_id("post"), workspace_id, at.id, name, Jsonb(body.model_dump(mode="json"))),
    )


async def revise(connection: Connection, thread_id: str, name: str, body: Body) -> None:
    """Have a message say something else."""
    await connection.execute(
        "UPDATE front_door_posts SET body = %(body)s, revision = revision + 1 WHERE thread_id = %(thread)s"
        " AND name = %(name)s AND body <> %(body)s",
        {"body": Jsonb(body.model_dump(mode="json")), "thread": thread_id, "name": name},
    )


async def withdraw(connection: Connection, thread_id: str, prefix: str) -> None:
    """Have messages whose names begin with ``prefix`` taken away."""
    await connection.execute(
        "UPDATE front_door_posts SET withdrawn = true, state = CASE state WHEN 'intended' THEN 'gone' ELSE state END"
        " WHERE thread_id = %s AND starts_with(name, %s) AND state IN ('intended', 'sending', 'posted')",
        (thread_id, prefix),
    )


async def bodies(connection: Connection, thread_id: str, prefix: str) -> dict[str, Body]:
    """Return what messages say whose names begin with ``prefix``."""
    found = await rows(
        connection,
        "SELECT name, body FROM front_door_posts WHERE thread_id = %(thread)s AND starts_with(name, %(prefix)s)"
        " AND state <> 'gone'",
        {"thread": thread_id, "prefix": prefix},
    )
    return {row["name"]: _BODY.validate_python(row["body"]) for row in found}


async def due(connection: Connection, thread_id: str) -> DuePost | None:
    """Return the first message of a thread about which something is to be done."""
    row = await one(
        connection,
        "SELECT id, body, state, revision, withdrawn, remote,"
        " extract(epoch FROM clock_timestamp() - sent_at)::float8 AS sent_seconds"
        " FROM front_door_posts WHERE thread_id = %(id)s AND (state IN ('intended', 'sending')"
        " OR (state = 'posted' AND (withdrawn OR revision > shown))) ORDER BY ordinal LIMIT 1",
        {"id": thread_id},
    )
    return DuePost.model_validate(row) if row else None


async def remote_of(connection: Connection, thread_id: str, name: str) -> str | None:
    """Return under which id a message stands, if it does."""
    row = await one(
        connection,
        "SELECT remote FROM front_door_posts WHERE thread_id = %(id)s AND name = %(name)s AND state = 'posted'",
        {"id": thread_id, "name": name},
    )
    return row["remote"] if row else None


async def sending(connection: Connection, post_id: str) -> None:
    """Note that a message is about to be sent."""
    await connection.execute(
        "UPDATE front_door_posts SET state = 'sending', sent_at = clock_timestamp() WHERE id = %s", (post_id,)
    )


async def prepared(connection: Connection, post_id: str, body: Body) -> None:
    """Note what the service calls an attachment that it holds for us."""
    await connection.execute(
        "UPDATE front_door_posts SET body = %s WHERE id = %s", (Jsonb(body.model_dump(mode="json")), post_id)
    )


async def unsent(connection: Connection, post_id: str) -> None:
    """Note that the service did not take a message."""
    await connection.execute(
        "UPDATE front_door_posts SET state = CASE WHEN withdrawn THEN 'gone' ELSE 'intended' END"
        " WHERE id = %s AND state = 'sending'",
        (post_id,),
    )


async def posted(connection: Connection, post_id: str, remote: str, *, revision: int) -> None:
    """Note under which id a message stands, and what it says there."""
    await connection.execute(
        "UPDATE front_door_posts SET state = 'posted', remote = %s, shown = %s WHERE id = %s",
        (remote, revision, post_id),
    )


async def ended(
    connection: Connection, post_id: str, state: Literal["failed", "gone"], problem: str | None = None
) -> None:
    """Note that a message is gone, or will never stand there."""
    await connection.execute(
        "UPDATE front_door_posts SET state = %s, problem = %s WHERE id = %s", (state, problem, post_id)
    )


async def reserve(connection: Connection, door: FrontDoorRecord, name: str, *, pause_seconds: float) -> float:
    """Take the next slot and return in how many seconds it comes; whoever asks later, in whatever process, gets a
    later one."""
    row = await one(
        connection,
        "INSERT INTO front_door_slots AS s (front_door_id, name, workspace_id, next_at)"
        " VALUES (%(door)s, %(name)s, %(ws)s, clock_timestamp() + %(pause)s * interval '1 second')"
        " ON CONFLICT (front_door_id, name) DO UPDATE"
        " SET next_at = greatest(s.next_at, clock_timestamp()) + %(pause)s * interval '1 second'"
        " RETURNING extract(epoch FROM next_at - clock_timestamp())::float8 - %(pause)s AS wait",
        {"door": door.id, "name": name, "ws": door.workspace_id, "pause": pause_seconds},
    )
    return max(0.0, row["wait"]) if row else 0.0


async def postpone(connection: Connection, door: FrontDoorRecord, name: str, *, seconds: float) -> None:
    """Give no slot before ``seconds`` from now: the service said so."""
    await connection.execute(
        "INSERT INTO front_door_slots AS s (front_door_id, name, workspace_id, next_at)"
        " VALUES (%(door)s, %(name)s, %(ws)s, clock_timestamp() + %(seconds)s * interval '1 second')"
        " ON CONFLICT (front_door_id, name) DO UPDATE SET next_at = greatest(s.next_at, excluded.next_at)",
        {"door": door.id, "name": name, "ws": door.workspace_id, "seconds": seconds},
    )


async def forget(connection: Connection, front_door_id: str) -> None:
    """Forget what nobody tells again: deliveries after three days, and what was said to others after ten minutes."""
    await connection.execute(
        "DELETE FROM front_door_deliveries WHERE front_door_id = %s AND received_at < now() - interval '3 days'",
        (front_door_id,),
    )
    await connection.execute(
        "DELETE FROM front_door_inbox WHERE front_door_id = %s AND state = 'parked'"
        " AND received_at < now() - interval '10 minutes'",
        (front_door_id,),
    )
