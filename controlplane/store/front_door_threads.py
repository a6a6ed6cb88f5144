"""Which thread of a front door is which session, and up to where what a session did is in the ledger."""

from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict

from controlplane.frontdoors.contract import Inbound
from controlplane.ids import new_id
from controlplane.store.frontdoors import FrontDoorRecord
from controlplane.store.pool import Connection, one, rows

CHANNEL = "bulkhead_front_doors"
"""Notified on commit when a front door has something to do: with the thread's id, or with nothing."""

_LOCK_CLASS = 7_200
"""The first half of the advisory locks' keys; the second is the thread's ``lock_key``."""


class DoorThread(BaseModel):
    """A thread that is, or is to be, a session. ``report``: we begin it ourselves, under this heading; ``root``: with
    this message, once it stands. ``person``: who spoke last. ``let_in``: whether who addressed us there may talk."""

    model_config = ConfigDict(frozen=True)

    id: str
    front_door_id: str
    place: str
    thread: str
    report: str | None = None
    root: str | None = None
    person: str | None = None
    let_in: bool
    agent_id: str | None
    opening: dict[str, Any] | None
    session_id: str | None
    seen_seq: int
    lock_key: int

    @property
    def anchor(self) -> str | None:
        """The service's name of the thread; None: it is still to be begun."""
        return self.thread if self.report is None else self.root


@dataclass
class Among:
    """Threads, by their ids or by those of their sessions."""

    threads: set[str] = field(default_factory=set[str])
    sessions: set[str] = field(default_factory=set[str])


_THREADS: LiteralString = """
    SELECT t.id, t.front_door_id, t.place, t.thread, t.report, t.root, t.person, t.let_in,
           t.agent_id, t.opening, t.session_id, t.seen_seq, t.lock_key
      FROM front_door_threads t"""


_WITH_WORK: LiteralString = """
    SELECT t.id, t.front_door_id, t.place, t.thread, t.report, t.root, t.person, t.let_in,
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


async def take(locks: psycopg.AsyncConnection, at: DoorThread) -> bool:
    """Take a thread for whoever has this connection, for as long as it lives; False: somebody has it."""
    cursor = await locks.execute("SELECT pg_try_advisory_lock(%s, %s::int)", (_LOCK_CLASS, at.lock_key))
    row = await cursor.fetchone()
    return row is not None and bool(row[0])


async def give_back(locks: psycopg.AsyncConnection, at: DoorThread) -> None:
    """Let others have a thread."""
    await locks.execute("SELECT pg_advisory_unlock(%s, %s::int)", (_LOCK_CLASS, at.lock_key))


async def with_work(connection: Connection, front_door_id: str, among: Among | None = None) -> list[DoorThread]:
    """Return the threads where something was said, has happened, or is to be posted."""
    if among is None:
        found = await rows(connection, _WITH_WORK, {"door": front_door_id})
    else:
        query = _WITH_WORK + " AND (t.id = ANY(%(threads)s) OR t.session_id = ANY(%(sessions)s))"
        given = {"door": front_door_id, "threads": list(among.threads), "sessions": list(among.sessions)}
        found = await rows(connection, query, given)
    return [DoorThread.model_validate(row) for row in found]


async def find(connection: Connection, thread_id: str) -> DoorThread | None:
    """Return a thread; None: it is gone, with its session."""
    row = await one(connection, _THREADS + " WHERE t.id = %(id)s", {"id": thread_id})
    return DoorThread.model_validate(row) if row else None


async def at(connection: Connection, front_door_id: str, place: str, name: str) -> DoorThread | None:
    """Return the thread of this name in a place, if it is ours."""
    row = await one(
        connection,
        _THREADS + " WHERE t.front_door_id = %(door)s AND t.place = %(place)s AND t.thread = %(thread)s",
        {"door": front_door_id, "place": place, "thread": name},
    )
    return DoorThread.model_validate(row) if row else None


async def of_message(connection: Connection, front_door_id: str, place: str, message: str) -> str | None:
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


async def of_person(connection: Connection, front_door_id: str, place: str, person: str) -> str | None:
    """Return the thread in a place in which somebody has last said or done something: one of ours, or one that waits
    until it is known whether the person may talk."""
    row = await one(
        connection,
        "SELECT i.thread FROM front_door_inbox i JOIN front_door_threads t ON t.front_door_id = i.front_door_id"
        " AND t.place = i.place AND t.thread = i.thread WHERE i.front_door_id = %(door)s AND i.place = %(place)s"
        " AND i.person = %(person)s AND (t.let_in OR i.state = 'waiting') ORDER BY i.received_at DESC LIMIT 1",
        {"door": front_door_id, "place": place, "person": person},
    )
    return row["thread"] if row else None


async def order(connection: Connection, front_door_id: str, place: str, thread: str) -> None:
    """Let what changes a thread's beginning happen one after the other."""
    await connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"{front_door_id} {place} {thread}",)
    )


async def begin(connection: Connection, door: FrontDoorRecord, inbound: Inbound) -> None:
    """Have a thread for somebody who addresses us; it is ours once the person was let in."""
    await connection.execute(
        "INSERT INTO front_door_threads (id, workspace_id, front_door_id, place, thread) VALUES (%s, %s, %s, %s, %s)"
        " ON CONFLICT DO NOTHING",
        (new_id("fth"), door.workspace_id, door.id, inbound.place, inbound.thread),
    )


async def hold(connection: Connection, door: FrontDoorRecord, inbound: Inbound) -> DoorThread | None:
    """Return the thread in which something happens, if there is one, and keep it."""
    found = await one(
        connection,
        _THREADS
        + " WHERE t.front_door_id = %(door)s AND t.place = %(place)s AND t.thread = %(thread)s FOR KEY SHARE",
        {"door": door.id, "place": inbound.place, "thread": inbound.thread},
    )
    return DoorThread.model_validate(found) if found else None


async def let_in(connection: Connection, at: DoorThread) -> None:
    """Note that a thread is ours: who addressed us there may talk."""
    await order(connection, at.front_door_id, at.place, at.thread)
    await connection.execute("UPDATE front_door_threads SET let_in = true WHERE id = %s", (at.id,))


async def wake(connection: Connection, thread_id: str = "") -> None:
    """Have the front doors' processes look when the caller's transaction commits, at one thread if it is named."""
    await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, thread_id))


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
        "INSERT INTO front_door_threads (id, workspace_id, front_door_id, place, thread, report, let_in, agent_id,"
        " session_id, seen_seq) SELECT %(id)s, %(ws)s, %(door)s, %(place)s, %(thread)s, %(heading)s, true,"
        " s.agent_id, s.id, %(seen)s FROM sessions s WHERE s.id = %(session)s AND NOT EXISTS"
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


async def anchor(connection: Connection, at: DoorThread, remote: str) -> None:
    """Note with which message a thread that we begin has begun; who has answered there already is in it."""
    await order(connection, at.front_door_id, at.place, remote)
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


async def stumbled(connection: Connection, thread_id: str, seq: int) -> int:
    """Count that what a thread's session did could not be told, and return how often in a row it could not."""
    row = await one(
        connection,
        "UPDATE front_door_threads SET failures = CASE WHEN failed_seq = %(seq)s THEN failures + 1 ELSE 1 END,"
        " failed_seq = %(seq)s WHERE id = %(id)s RETURNING failures",
        {"id": thread_id, "seq": seq},
    )
    return row["failures"] if row else 0


async def pass_over(connection: Connection, thread_id: str) -> None:
    """Note that nothing of what a thread's session has done by now is told any more."""
    await connection.execute(
        "UPDATE front_door_threads t SET seen_seq = s.last_seq, failed_seq = NULL FROM sessions s"
        " WHERE t.id = %s AND s.id = t.session_id",
        (thread_id,),
    )


async def with_news(connection: Connection, thread_id: str) -> DoorThread | None:
    """Return a thread whose session has done something that is not in the ledger yet."""
    row = await one(
        connection,
        _THREADS + " JOIN sessions s ON s.id = t.session_id WHERE t.id = %(id)s AND s.last_seq > t.seen_seq",
        {"id": thread_id},
    )
    return DoorThread.model_validate(row) if row else None


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
        "UPDATE front_door_threads SET session_id = %s, seen_seq = 0, failed_seq = NULL WHERE id = %s",
        (session_id, thread_id),
    )


async def made_before(connection: Connection, at: DoorThread, *, seconds: float) -> str | None:
    """Return the session that was made for a thread within so many seconds, though we never heard that it was."""
    row = await one(
        connection,
        "SELECT id FROM sessions WHERE created_at >= clock_timestamp() - %(age)s * interval '1 second'"
        " AND metadata @> %(of)s ORDER BY created_at LIMIT 1",
        {
            "age": seconds,
            "of": Jsonb({"front_door": at.front_door_id, "place": at.place, "thread": at.thread}),
        },
    )
    return row["id"] if row else None


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
        "UPDATE front_door_threads t SET seen_seq = greatest(t.seen_seq, %(seq)s), failed_seq = NULL FROM sessions s"
        " WHERE t.id = %(thread)s AND t.session_id = %(session)s AND s.id = t.session_id"
        " RETURNING s.last_seq > %(seq)s AS more",
        {"seq": seq, "thread": thread_id, "session": session_id},
    )
    return row is not None and bool(row["more"])
