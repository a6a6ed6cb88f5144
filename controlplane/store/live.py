"""What is alive: turns, commands, sandboxes and egress streams; and stopping it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, LiteralString

from pydantic import BaseModel, ConfigDict

from controlplane.store import events
from controlplane.store.events import Event, NewEvent
from controlplane.store.pool import Connection, rows

Kind = Literal["turn", "command", "sandbox", "stream"]
KINDS: tuple[Kind, ...] = ("turn", "command", "sandbox", "stream")


class LiveFilter(BaseModel):
    """Which of what is alive; None is any."""

    model_config = ConfigDict(frozen=True)

    kinds: list[Kind] | None = None
    session_id: str | None = None
    agent_id: str | None = None
    environment_id: str | None = None


class LiveThing(BaseModel):
    """Something that is alive. ``id``: of the turn, the tool use, the sandbox or the exchange."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    id: str
    session_id: str
    agent_id: str
    environment_id: str
    host: str | None
    what: str
    since: datetime


_LIVE: LiteralString = """
    WITH found AS (
        SELECT 'turn' AS kind, t.id, t.session_id, a.host, 'attempt ' || t.attempt AS what, t.started_at AS since
          FROM turns t LEFT JOIN turn_attempts a ON a.turn_id = t.id AND a.attempt = t.attempt
         WHERE t.status = 'running'
         UNION ALL
        SELECT 'command', c.id, c.session_id, b.host, c.name, coalesce(c.started_at, c.dispatched_at)
          FROM tool_calls c LEFT JOIN sandboxes b ON b.id = c.sandbox_id
         WHERE c.state = 'dispatched'
         UNION ALL
        SELECT 'sandbox', b.id, b.session_id, b.host, b.provider || ', ' || b.status, b.created_at
          FROM sandboxes b WHERE b.status <> 'ended'
         UNION ALL
        SELECT 'stream', d.exchange_id, d.session_id, b.host, d.method || ' ' || d.host, d.created_at
          FROM sandboxes b JOIN egress_decisions d ON d.sandbox_id = b.id
         WHERE b.status <> 'ended' AND NOT d.ended AND d.verdict = 'allowed'
           AND d.created_at >= (SELECT max(w.started_at) FROM workers w WHERE w.kind = 'egress' AND w.host = b.host)
           AND NOT EXISTS (SELECT FROM egress_decisions e WHERE e.exchange_id = d.exchange_id AND e.ended))
    SELECT f.kind, f.id, f.session_id, s.agent_id, s.environment_id, f.host, f.what, f.since
      FROM found f JOIN sessions s ON s.id = f.session_id
     WHERE (%(kinds)s::text[] IS NULL OR f.kind = ANY(%(kinds)s))
       AND (%(session_id)s::text IS NULL OR s.id = %(session_id)s)
       AND (%(agent_id)s::text IS NULL OR s.agent_id = %(agent_id)s)
       AND (%(environment_id)s::text IS NULL OR s.environment_id = %(environment_id)s)
     ORDER BY f.since, f.id LIMIT %(limit)s"""


async def listing(connection: Connection, narrowed: LiveFilter, *, limit: int) -> list[LiveThing]:
    """Return up to ``limit`` of what is alive, the longest alive first.

    What a command left running in the background is alive with its sandbox.
    """
    found = await rows(connection, _LIVE, {**narrowed.model_dump(), "limit": limit})
    return [LiveThing.model_validate(row) for row in found]


async def stop(connection: Connection, things: Sequence[LiveThing]) -> list[Event]:
    """Order that things end and return the interrupts; the caller wakes their sessions after the commit.

    A turn and its commands are interrupted; a sandbox is halted: no way out from now on, its commands are killed, and
    what is kept of it is kept. Where only a stream is to end, its session's egress is revoked, and stays so.
    """
    ordered: list[Event] = []
    by_session: dict[str, set[Kind]] = {}
    for each in things:
        by_session.setdefault(each.session_id, set()).add(each.kind)
    for session_id, kinds in sorted(by_session.items()):
        await connection.execute("SELECT FROM sessions WHERE id = %s FOR UPDATE", (session_id,))
        if kinds & {"turn", "command"}:
            ordered += await events.append(connection, session_id, [NewEvent(type="user.interrupt", queued=True)])
        if "sandbox" in kinds:
            await connection.execute(
                "UPDATE sandboxes SET status = 'retiring', end_reason = 'halted',"
                " halted_at = coalesce(halted_at, clock_timestamp())"
                " WHERE session_id = %s AND status IN ('creating', 'ready', 'retiring')",
                (session_id,),
            )
        elif "stream" in kinds:
            await connection.execute(
                "UPDATE sessions SET egress_revoked_at = coalesce(egress_revoked_at, clock_timestamp())"
                " WHERE id = %s",
                (session_id,),
            )
    return ordered


async def alive(connection: Connection, things: Sequence[LiveThing]) -> set[str]:
    """Return the ids of those things that are not proven to have ended."""
    sandboxes = [each.id for each in things if each.kind == "sandbox"]
    quiet = await rows(
        connection,
        "SELECT id FROM sandboxes WHERE id = ANY(%(ids)s) AND (quiet_at IS NOT NULL OR status = 'ended')",
        {"ids": sandboxes},
    )
    still = await rows(
        connection,
        """
        SELECT id FROM turns WHERE id = ANY(%(ids)s) AND status = 'running'
         UNION ALL
        SELECT id FROM tool_calls WHERE id = ANY(%(ids)s) AND state = 'dispatched'
         UNION ALL
        SELECT d.exchange_id FROM egress_decisions d WHERE d.exchange_id = ANY(%(ids)s) AND NOT d.ended
           AND NOT EXISTS (SELECT FROM egress_decisions e WHERE e.exchange_id = d.exchange_id AND e.ended)
        """,
        {"ids": [each.id for each in things]},
    )
    return {row["id"] for row in still} | (set(sandboxes) - {row["id"] for row in quiet})
