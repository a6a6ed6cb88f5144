"""Sessions whose last turn came to rest before it was done, and that are to be tried again: which, and when."""

from collections.abc import Sequence
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from controlplane.store.pool import Connection, rows


class FailedFilter(BaseModel):
    """Which failed sessions; None is any. ``statuses`` and ``causes``: of the failure."""

    model_config = ConfigDict(frozen=True)

    agent_id: str | None = None
    statuses: list[str] | None = None
    causes: list[str] | None = None
    failed_after: datetime | None = None
    failed_before: datetime | None = None


async def failed(connection: Connection, narrowed: FailedFilter, *, limit: int) -> list[str]:
    """Return the ids of up to ``limit`` sessions that failed and are not to be resumed yet, the longest failed first.

    Nobody else changes them until the caller's transaction ends; one that is being changed is left out.
    """
    found = await rows(
        connection,
        """
        SELECT id FROM sessions
         WHERE failure IS NOT NULL AND status = 'idle' AND NOT resume_wanted AND archived_at IS NULL
           AND (%(agent_id)s::text IS NULL OR agent_id = %(agent_id)s)
           AND (%(statuses)s::text[] IS NULL OR failure ->> 'status' = ANY(%(statuses)s))
           AND (%(causes)s::text[] IS NULL OR failure ->> 'cause' = ANY(%(causes)s))
           AND (%(failed_after)s::timestamptz IS NULL OR (failure ->> 'at')::timestamptz >= %(failed_after)s)
           AND (%(failed_before)s::timestamptz IS NULL OR (failure ->> 'at')::timestamptz < %(failed_before)s)
         ORDER BY (failure ->> 'at')::timestamptz, id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
        """,
        {**narrowed.model_dump(), "limit": limit},
    )
    return [row["id"] for row in found]


async def resting(connection: Connection, budget_id: str) -> list[str]:
    """Return the sessions that rest because a budget was spent, the longest resting first, and hold them.

    Whoever changes a budget holds its sessions first: `ledger.reserve` takes the two in that order.
    """
    found = await rows(
        connection,
        "SELECT id, updated_at FROM sessions WHERE status = 'idle' AND archived_at IS NULL"
        " AND stop_reason ->> 'type' = 'budget_reached' AND stop_reason ->> 'budget_id' = %(budget)s"
        " ORDER BY id FOR UPDATE",
        {"budget": budget_id},
    )
    return [row["id"] for row in sorted(found, key=lambda row: row["updated_at"])]


async def resting_unpriced(connection: Connection) -> list[tuple[str, str]]:
    """Return the sessions that rest because their model has no price, each with that model, and hold them."""
    found = await rows(
        connection,
        "SELECT id, stop_reason ->> 'unpriced' AS model FROM sessions WHERE status = 'idle' AND archived_at IS NULL"
        " AND stop_reason ->> 'unpriced' IS NOT NULL ORDER BY id FOR UPDATE",
        {},
    )
    return [(row["id"], row["model"]) for row in found]


async def want(
    connection: Connection, session_id: str, *, after_seconds: float | None = None, at: datetime | None = None
) -> None:
    """Ask for another try at what the session's last turn left undone, now or later; the next turn takes it."""
    await connection.execute(
        "UPDATE sessions SET resume_wanted = true, updated_at = clock_timestamp(),"
        " resume_at = coalesce(%(at)s, clock_timestamp() + make_interval(secs => %(after)s)) WHERE id = %(id)s",
        {"id": session_id, "after": after_seconds, "at": at},
    )


async def want_all(connection: Connection, session_ids: Sequence[str], *, rate_per_second: float) -> None:
    """Ask for another try at many sessions, one after the other."""
    for place, session_id in enumerate(session_ids):
        await want(connection, session_id, after_seconds=place / rate_per_second)
