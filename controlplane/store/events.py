"""The event log: append, read, follow. Gap-free per session, because the session's row lock orders the writers."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict, Field

from controlplane.errors import NotFoundError
from controlplane.ids import new_id
from controlplane.store.pool import Connection, one, rows

CHANNEL = "bulkhead_events"
"""Notified on commit with ``session_id seq``: the newest seq of that session."""


class NewEvent(BaseModel):
    """An event to be appended; ``queued`` leaves ``processed_at`` null until a turn takes it."""

    model_config = ConfigDict(frozen=True)

    type: str
    payload: dict[str, Any] = Field(default_factory=dict)
    internal: dict[str, Any] = Field(default_factory=dict)
    id: str = Field(default_factory=lambda: new_id("sevt"))
    turn_id: str | None = None
    queued: bool = False


class Event(BaseModel):
    """A recorded event; ``wire`` is what clients see."""

    model_config = ConfigDict(frozen=True)

    session_id: str
    seq: int
    id: str
    type: str
    payload: dict[str, Any]
    internal: dict[str, Any]
    turn_id: str | None
    created_at: datetime
    processed_at: datetime | None

    def wire(self) -> dict[str, Any]:
        """Return the event in the wire format."""
        return {"id": self.id, "type": self.type, **self.payload, "processed_at": self.processed_at}


async def append(connection: Connection, session_id: str, events: Sequence[NewEvent]) -> list[Event]:
    """Append ``events`` in order within the caller's transaction and return them as recorded.

    An event whose id is recorded already is not appended again. Raises `NotFoundError` for an unknown session.
    """
    session = await one(
        connection,
        "SELECT last_seq, workspace_id FROM sessions WHERE id = %(id)s FOR UPDATE",
        {"id": session_id},
    )
    if session is None:
        raise NotFoundError(f"no session {session_id!r}", code="session_not_found", field="session_id")
    known = await _known(connection, [event.id for event in events])
    seq = session["last_seq"]
    recorded: list[Event] = []
    for event in events:
        if event.id in known:
            recorded.append(known[event.id])
            continue
        seq += 1
        row = await one(
            connection,
            "INSERT INTO events (session_id, seq, position, id, workspace_id, type, payload, internal, turn_id,"
            " processed_at) VALUES (%(session_id)s, %(seq)s, %(seq)s, %(id)s, %(workspace_id)s, %(type)s,"
            " %(payload)s, %(internal)s, %(turn_id)s, CASE WHEN %(queued)s THEN NULL ELSE clock_timestamp() END)"
            " RETURNING session_id, seq, id, type, payload, internal, turn_id, created_at, processed_at",
            {
                "session_id": session_id,
                "seq": seq,
                "id": event.id,
                "workspace_id": session["workspace_id"],
                "type": event.type,
                "payload": Jsonb(event.payload),
                "internal": Jsonb(event.internal),
                "turn_id": event.turn_id,
                "queued": event.queued,
            },
        )
        assert row is not None  # noqa: S101 - INSERT … RETURNING returns its row
        recorded.append(Event.model_validate(row))
    if seq > session["last_seq"]:
        await connection.execute(
            "UPDATE sessions SET last_seq = %(seq)s, updated_at = clock_timestamp() WHERE id = %(id)s",
            {"seq": seq, "id": session_id},
        )
        await announce(connection, session_id, seq)
    return recorded


async def announce(connection: Connection, session_id: str, seq: int) -> None:
    """Wake the followers of a session when the caller's transaction commits."""
    await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, f"{session_id} {seq}"))


async def after(connection: Connection, session_id: str, seq: int, *, limit: int = 500) -> list[Event]:
    """Return up to ``limit`` events of the session with a seq above ``seq``, in order."""
    found = await rows(
        connection,
        "SELECT session_id, seq, id, type, payload, internal, turn_id, created_at, processed_at FROM events"
        " WHERE session_id = %(session_id)s AND seq > %(seq)s ORDER BY seq LIMIT %(limit)s",
        {"session_id": session_id, "seq": seq, "limit": limit},
    )
    return [Event.model_validate(row) for row in found]


class EventFilter(BaseModel):
    """What a listing of events is narrowed to; times compare with ``processed_at``."""

    model_config = ConfigDict(frozen=True)

    types: list[str] | None = None
    order: Literal["asc", "desc"] = "asc"
    beyond_seq: int | None = None
    created_at_gt: datetime | None = None
    created_at_gte: datetime | None = None
    created_at_lt: datetime | None = None
    created_at_lte: datetime | None = None


async def listing(connection: Connection, session_id: str, narrowed: EventFilter, *, limit: int) -> list[Event]:
    """Return up to ``limit`` events; ``beyond_seq`` is the last seq of the page before."""
    found = await rows(
        connection,
        """
        SELECT session_id, seq, id, type, payload, internal, turn_id, created_at, processed_at
          FROM events
         WHERE session_id = %(session_id)s
           AND (%(types)s::text[] IS NULL OR type = ANY(%(types)s))
           AND (%(beyond)s::bigint IS NULL
                OR CASE WHEN %(ascending)s THEN seq > %(beyond)s ELSE seq < %(beyond)s END)
           AND (%(gt)s::timestamptz IS NULL OR processed_at > %(gt)s)
           AND (%(gte)s::timestamptz IS NULL OR processed_at >= %(gte)s)
           AND (%(lt)s::timestamptz IS NULL OR processed_at < %(lt)s)
           AND (%(lte)s::timestamptz IS NULL OR processed_at <= %(lte)s)
         ORDER BY CASE WHEN %(ascending)s THEN seq END ASC, CASE WHEN NOT %(ascending)s THEN seq END DESC
         LIMIT %(limit)s
        """,
        {
            "session_id": session_id,
            "types": narrowed.types,
            "beyond": narrowed.beyond_seq,
            "ascending": narrowed.order == "asc",
            "gt": narrowed.created_at_gt,
            "gte": narrowed.created_at_gte,
            "lt": narrowed.created_at_lt,
            "lte": narrowed.created_at_lte,
            "limit": limit,
        },
    )
    return [Event.model_validate(row) for row in found]


async def _known(connection: Connection, ids: list[str]) -> dict[str, Event]:
    found: list[DictRow] = await rows(
        connection,
        "SELECT session_id, seq, id, type, payload, internal, turn_id, created_at, processed_at FROM events"
        " WHERE id = ANY(%(ids)s)",
        {"ids": ids},
    )
    return {row["id"]: Event.model_validate(row) for row in found}
