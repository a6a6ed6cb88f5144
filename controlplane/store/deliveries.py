"""The ledger of a front door: what people did, which thread is which session, and every message that is to stand.

What comes in is committed before the service is told that we have it, and known by what it is, not by how often it
was told. What goes out is committed before it is sent, under a name that it has again when it is made again.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, LiteralString

from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict, ValidationError

from controlplane.frontdoors.contract import Inbound, Said
from controlplane.ids import new_id
from controlplane.store.frontdoors import FrontDoorRecord
from controlplane.store.pool import Connection, one, rows

CHANNEL = "bulkhead_front_doors"
"""Notified on commit when a front door has something to do: with the thread's id, or with nothing."""

Received = Literal["new", "known", "not_ours"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Thread(_Frozen):
    """A thread that is, or is to be, a session. ``report``: we begin it ourselves, under this heading; ``root``: with
    this message, once it stands. ``person``: who spoke last."""

    id: str
    front_door_id: str
    place: str
    thread: str
    report: str | None = None
    root: str | None = None
    person: str | None = None
    agent_id: str | None
    opening: dict[str, Any] | None
    session_id: str | None
    seen_seq: int
    lock_key: int

    @property
    def anchor(self) -> str | None:
        """The service's name of the thread; None: it is still to be begun."""
        return self.thread if self.report is None else self.root


class Item(_Frozen):
    """What a person did ``age_seconds`` ago, and what is to be sent for it once that is decided."""

    id: str
    inbound: Inbound
    request: dict[str, Any] | None
    age_seconds: float


class UnreadableItemError(Exception):
    """What is on record of an item is not what this release writes."""

    def __init__(self, item_id: str):
        super().__init__(item_id)
        self.item_id = item_id


@dataclass
class Among:
    """Threads, by their ids or by those of their sessions."""

    threads: set[str] = field(default_factory=set[str])
    sessions: set[str] = field(default_factory=set[str])


_THREADS: LiteralString = """
    SELECT t.id, t.front_door_id, t.place, t.thread, t.report, t.root, t.person,
           t.agent_id, t.opening, t.session_id, t.seen_seq, t.lock_key
      FROM front_door_threads t"""

_WITH_WORK: LiteralString = """
    SELECT t.id, t.front_door_id, t.place, t.thread, t.report, t.root, t.person,
           t.agent_id, t.opening, t.session_id, t.seen_seq, t.lock_key
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
    # A reply that overtakes the message that opens its thread would be left lying otherwise.
    await _order(connection, door.id, inbound.place, inbound.thread)
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
    at = await _thread(connection, door, inbound)
    ours = at is not None
    if not ours and (said is None or said.elsewhere or inbound.thread == inbound.message):
        return "not_ours"
    if ours and said is not None and said.elsewhere:
        return "not_ours"
    state = "waiting" if ours else "parked"
    row = await one(
        connection,
        "INSERT INTO front_door_inbox (id, workspace_id, front_door_id, place, thread, message, person, body,"
        " state) VALUES (%(id)s, %(ws)s, %(door)s, %(place)s, %(thread)s, %(message)s, %(person)s, %(body)s,"
        " %(state)s)"
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
            "state": state,
        },
    )
    if addressed:
        await _unpark(connection, door, inbound)
    if at is not None and (addressed or row is not None):
        await wake(connection, at)
    if row is None:
        return "known"
    return "new" if ours else "not_ours"


async def _order(connection: Connection, front_door_id: str, place: str, thread: str) -> None:
    """Let what changes a thread's beginning happen one after the other."""
    await connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"{front_door_id} {place} {thread}",)
    )


async def wake(connection: Connection, thread_id: str = "") -> None:
    """Have the front doors' processes look when the caller's transaction commits, at one thread if it is named."""
    await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, thread_id))


async def _open_thread(connection: Connection, door: FrontDoorRecord, inbound: Inbound) -> None:
    await connection.execute(
        "INSERT INTO front_door_threads (id, workspace_id, front_door_id, place, thread) VALUES (%s, %s, %s, %s, %s)"
        " ON CONFLICT DO NOTHING",
        (new_id("fth"), door.workspace_id, door.id, inbound.place, inbound.thread),
    )


async def _thread(connection: Connection, door: FrontDoorRecord, inbound: Inbound) -> str | None:
    """Return the thread in which something happens, if it is ours, and keep it."""
    found = await one(
        connection,
        "SELECT id FROM front_door_threads WHERE front_door_id = %(door)s AND place = %(place)s"
        " AND thread = %(thread)s FOR KEY SHARE",
        {"door": door.id, "place": inbound.place, "thread": inbound.thread},
    )
    return found["id"] if found else None


async def _unpark(connection: Connection, door: FrontDoorRecord, inbound: Inbound) -> None:
    """Take up what was said in the thread after a message that addresses us, and was delivered before it."""
    await connection.execute(
        "UPDATE front_door_inbox SET state = 'waiting' WHERE front_door_id = %s AND place = %s AND thread = %s"
        " AND state = 'parked' AND message > %s",
        (door.id, inbound.place, inbound.thread, inbound.message),
    )


async def threads_with_work(connection: Connection, front_door_id: str, among: Among | None = None) -> list[Thread]:
    """Return the threads where something was said, has happened, or is to be posted."""
    if among is None:
        found = await rows(connection, _WITH_WORK, {"door": front_door_id})
    else:
        query = _WITH_WORK + " AND (t.id = ANY(%(threads)s) OR t.session_id = ANY(%(sessions)s))"
        given = {"door": front_door_id, "threads": list(among.threads), "sessions": list(among.sessions)}
        found = await rows(connection, query, given)
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


async def thread_of_person(connection: Connection, front_door_id: str, place: str, person: str) -> str | None:
    """Return the thread of ours in a place in which somebody has last said or done something."""
    row = await one(
        connection,
        "SELECT i.thread FROM front_door_inbox i JOIN front_door_threads t ON t.front_door_id = i.front_door_id"
        " AND t.place = i.place AND t.thread = i.thread WHERE i.front_door_id = %(door)s AND i.place = %(place)s"
        " AND i.person = %(person)s ORDER BY i.received_at DESC LIMIT 1",
        {"door": front_door_id, "place": place, "person": person},
    )
    return row["thread"] if row else None


async def report(
    connection: Connection,
    door: FrontDoorRecord,
    *,
    place: str,
    run_id: str,
    session_id: str,
    heading: str,
    from_seq: int,
) -> None:
    """Have a thread begun with what a run comes to; a session that has a thread goes on in that one.

    ``from_seq``: the run's first input; what the session did before it is not told.
    """
    await connection.execute(
        "INSERT INTO front_door_threads (id, workspace_id, front_door_id, place, thread, report, agent_id,"
        " session_id, seen_seq) SELECT %(id)s, %(ws)s, %(door)s, %(place)s, %(thread)s, %(heading)s, s.agent_id, s.id"
        ", %(seen)s FROM sessions s WHERE s.id = %(session)s AND NOT EXISTS"
        " (SELECT FROM front_door_threads t WHERE t.front_door_id = %(door)s AND t.session_id = s.id)"
        " ON CONFLICT DO NOTHING",
        {
            "id": new_id("fth"),
            "ws": door.workspace_id,
            "door": door.id,
            "place": place,
            "thread": f"run:{run_id}",
            "heading": heading,
            "session": session_id,
            "seen": from_seq - 1,
        },
    )
    await wake(connection)


async def anchor(connection: Connection, at: Thread, remote: str) -> None:
    """Note with which message a thread that we begin has begun; who has answered there already is in it."""
    await _order(connection, at.front_door_id, at.place, remote)
    other = await one(
        connection,
        "DELETE FROM front_door_threads WHERE front_door_id = %(door)s AND place = %(place)s AND thread = %(thread)s"
        " AND session_id IS NULL AND id <> %(id)s RETURNING id",
        {"door": at.front_door_id, "place": at.place, "thread": remote, "id": at.id},
    )
    # One that is a session by now stays: it was spoken to before we knew that the message stands.
    await connection.execute(
        "UPDATE front_door_threads t SET root = %(remote)s, thread = CASE WHEN EXISTS (SELECT FROM"
        " front_door_threads o WHERE o.front_door_id = t.front_door_id AND o.place = t.place"
        " AND o.thread = %(remote)s) THEN t.thread ELSE %(remote)s END WHERE t.id = %(id)s",
        {"id": at.id, "remote": remote},
    )
    await connection.execute(
        "UPDATE front_door_inbox SET state = 'waiting' WHERE front_door_id = %s AND place = %s AND thread = %s"
        " AND state = 'parked'",
        (at.front_door_id, at.place, remote),
    )
    if other is not None:
        await wake(connection)


async def spoke(connection: Connection, thread_id: str, person: str) -> None:
    """Note who spoke last in a thread."""
    await connection.execute("UPDATE front_door_threads SET person = %s WHERE id = %s", (person, thread_id))


async def with_news(connection: Connection, thread_id: str) -> Thread | None:
    """Return a thread whose session has done something that is not in the ledger yet."""
    row = await one(
        connection,
        _THREADS + " JOIN sessions s ON s.id = t.session_id WHERE t.id = %(id)s AND s.last_seq > t.seen_seq",
        {"id": thread_id},
    )
    return Thread.model_validate(row) if row else None


async def next_item(connection: Connection, at: Thread) -> Item | None:
    """Return what was said first of what waits in a thread; raises `UnreadableItemError`."""
    row = await one(
        connection,
        "SELECT id, body AS inbound, request,"
        " extract(epoch FROM clock_timestamp() - received_at)::float8 AS age_seconds"
        " FROM front_door_inbox WHERE front_door_id = %(door)s"
        " AND place = %(place)s AND thread = %(thread)s AND state = 'waiting'"
        " ORDER BY (body #>> '{what,type}') = 'said', message LIMIT 1",
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


async def hold(connection: Connection, item_id: str) -> None:
    """Have an item wait for the choice of an agent."""
    await connection.execute("UPDATE front_door_inbox SET state = 'held' WHERE id = %s", (item_id,))


async def release_held(connection: Connection, at: Thread) -> bool:
    """Let what waited for the choice of an agent go on; say whether anything had."""
    released = await connection.execute(
        "UPDATE front_door_inbox SET state = 'waiting' WHERE front_door_id = %s AND place = %s AND thread = %s"
        " AND state = 'held'",
        (at.front_door_id, at.place, at.thread),
    )
    return released.rowcount > 0


async def choose(connection: Connection, thread_id: str, agent_id: str | None) -> None:
    """Have an agent answer in a thread; its session, if it has one, is left for another."""
    await connection.execute(
        "UPDATE front_door_threads SET agent_id = coalesce(%s, agent_id), opening = NULL, session_id = NULL,"
        " seen_seq = 0 WHERE id = %s",
        (agent_id, thread_id),
    )


async def open_with(connection: Connection, thread_id: str, opening: dict[str, Any] | None) -> None:
    """Lay down the request that makes a thread's session, before it is sent; None: it was refused."""
    given = None if opening is None else Jsonb(opening)
    await connection.execute("UPDATE front_door_threads SET opening = %s WHERE id = %s", (given, thread_id))


async def opened(connection: Connection, thread_id: str, session_id: str) -> None:
    """Note which session a thread is."""
    await connection.execute(
        "UPDATE front_door_threads SET session_id = %s, seen_seq = 0 WHERE id = %s", (session_id, thread_id)
    )


async def made_before(connection: Connection, at: Thread, item: Item) -> str | None:
    """Return the session that was made for a thread since an item came, though we never heard that it was."""
    row = await one(
        connection,
        "SELECT id FROM sessions WHERE created_at >= clock_timestamp() - %(age)s * interval '1 second'"
        " AND metadata @> %(of)s ORDER BY created_at LIMIT 1",
        {
            "age": item.age_seconds,
            "of": Jsonb({"front_door": at.front_door_id, "place": at.place, "thread": at.thread}),
        },
    )
    return row["id"] if row else None


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


async def hold_session(connection: Connection, session_id: str) -> bool:
    """Keep a session from being deleted until the caller's transaction ends; False: it is gone."""
    row = await one(connection, "SELECT id FROM sessions WHERE id = %(id)s FOR KEY SHARE", {"id": session_id})
    return row is not None


async def seen(connection: Connection, thread_id: str, session_id: str, seq: int) -> bool:
    """Note that all that a session did up to ``seq`` is in the ledger, and say whether there is more.

    There is none of a session that the thread has left for another.
    """
    row = await one(
        connection,
        "UPDATE front_door_threads t SET seen_seq = greatest(t.seen_seq, %(seq)s) FROM sessions s"
        " WHERE t.id = %(thread)s AND t.session_id = %(session)s AND s.id = t.session_id"
        " RETURNING s.last_seq > %(seq)s AS more",
        {"seq": seq, "thread": thread_id, "session": session_id},
    )
    return row is not None and bool(row["more"])


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
    """Forget what nobody tells again: deliveries after three days, what was said to others after ten minutes, and
    what became of the rest after thirty days."""
    await connection.execute(
        "DELETE FROM front_door_deliveries WHERE front_door_id = %s AND received_at < now() - interval '3 days'",
        (front_door_id,),
    )
    await connection.execute(
        "DELETE FROM front_door_inbox WHERE front_door_id = %s AND state = 'parked'"
        " AND received_at < now() - interval '10 minutes'",
        (front_door_id,),
    )
    await connection.execute(
        "DELETE FROM front_door_inbox WHERE front_door_id = %s AND done_at < now() - interval '30 days'",
        (front_door_id,),
    )
