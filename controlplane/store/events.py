"""The event log: append, read, follow. Gap-free per session, because the session's row lock orders the writers."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, LiteralString, cast

from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict, Field

from controlplane.errors import NotFoundError
from controlplane.ids import new_id, shown_id
from controlplane.store import interrupts
from controlplane.store.pool import Connection, rows

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

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

    Moving the session's ``last_seq`` locks its row until the transaction ends: that makes the log gap-free, and it
    wakes the session's followers on commit. Raises `NotFoundError` for an unknown session.
    """
    if not events:
        return []
    found = await rows(
        connection,
        """
        WITH moved AS (
            UPDATE sessions SET last_seq = last_seq + %(count)s, updated_at = clock_timestamp()
             WHERE id = %(session_id)s
            RETURNING workspace_id, last_seq - %(count)s AS base, pg_notify(%(channel)s, id || ' ' || last_seq)
        )
        INSERT INTO events (session_id, seq, position, id, workspace_id, type, payload, internal, turn_id,
                            processed_at)
        SELECT %(session_id)s, base + ordinality, base + ordinality, new.id, workspace_id, new.type, new.payload,
               new.internal, new.turn_id, CASE WHEN new.queued THEN NULL ELSE clock_timestamp() END
          FROM moved, unnest(%(ids)s::text[], %(types)s::text[], %(payloads)s::jsonb[], %(internals)s::jsonb[],
                             %(turns)s::text[], %(queued)s::boolean[])
               WITH ORDINALITY AS new (id, type, payload, internal, turn_id, queued, ordinality)
        RETURNING session_id, seq, id, type, payload, internal, turn_id, created_at, processed_at
        """,
        {
            "session_id": session_id,
            "channel": CHANNEL,
            "count": len(events),
            "ids": [event.id for event in events],
            "types": [event.type for event in events],
            "payloads": [Jsonb(storable(event.payload)) for event in events],
            "internals": [Jsonb(storable(event.internal)) for event in events],
            "turns": [event.turn_id for event in events],
            "queued": [event.queued for event in events],
        },
    )
    if not found:
        raise NotFoundError(f"no session {shown_id(session_id)!r}", code="session_not_found", field="session_id")
    recorded = sorted((Event.model_validate(row) for row in found), key=lambda event: event.seq)
    for event in recorded:
        if event.type == "user.interrupt":
            await interrupts.announce(connection, session_id, event.seq)
    return recorded


def storable(value: Any) -> Any:
    """Return a JSON value in which what Postgres cannot keep, NUL and lone surrogates, is U+FFFD."""
    match value:
        case str():
            return _UNSTORABLE.sub("\ufffd", value)
        case dict():
            return {storable(key): storable(item) for key, item in cast("dict[str, Any]", value).items()}
        case list():
            return [storable(item) for item in cast("list[Any]", value)]
        case _:
            return value


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


_LISTED: LiteralString = """
    SELECT session_id, seq, id, type, payload, internal, turn_id, created_at, processed_at
      FROM events
     WHERE session_id = %(session_id)s
       AND (%(types)s::text[] IS NULL OR type = ANY(%(types)s))
       AND (%(gt)s::timestamptz IS NULL OR processed_at > %(gt)s)
       AND (%(gte)s::timestamptz IS NULL OR processed_at >= %(gte)s)
       AND (%(lt)s::timestamptz IS NULL OR processed_at < %(lt)s)
       AND (%(lte)s::timestamptz IS NULL OR processed_at <= %(lte)s)"""

_FORWARD = _LISTED + " AND seq > %(beyond)s ORDER BY seq LIMIT %(limit)s"
_BACKWARD = _LISTED + " AND seq < %(beyond)s ORDER BY seq DESC LIMIT %(limit)s"
_NEWEST = 2**63 - 1


async def listing(connection: Connection, session_id: str, narrowed: EventFilter, *, limit: int) -> list[Event]:
    """Return up to ``limit`` events; ``beyond_seq`` is the last seq of the page before."""
    ascending = narrowed.order == "asc"
    beyond = narrowed.beyond_seq if narrowed.beyond_seq is not None else (0 if ascending else _NEWEST)
    found = await rows(
        connection,
        _FORWARD if ascending else _BACKWARD,
        {
            "session_id": session_id,
            "types": narrowed.types,
            "beyond": beyond,
            "gt": narrowed.created_at_gt,
            "gte": narrowed.created_at_gte,
            "lt": narrowed.created_at_lt,
            "lte": narrowed.created_at_lte,
            "limit": limit,
        },
    )
    return [Event.model_validate(row) for row in found]
