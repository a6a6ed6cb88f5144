"""What deployments have to have done: runs that ended, came too late or may begin now, and schedules to be told."""

from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict

from controlplane.store.pool import Connection, rows
from workflows import takings
from workflows.contracts import TurnEnd


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Due(_Frozen):
    """A deployment that something is to be done for."""

    id: str
    workspace_id: str


class Rested(_Frozen):
    """A run of which nothing is left to do. ``ended``: how its last turn did. ``waits``: an input got no turn.

    ``stop_reason`` and ``failure``: of its session, where they are of that turn or keep it from having one.
    """

    run_id: str
    deployment_id: str
    workspace_id: str
    is_gone: bool
    waits: bool
    ended: TurnEnd | None
    stop_reason: dict[str, Any] | None
    failure: dict[str, Any] | None


async def rested(connection: Connection, *, run_id: str | None = None) -> list[Rested]:
    """Return the runs of which nothing is left to do, or of ``run_id`` alone.

    A run is its own inputs: others may use its session before and after it. One that waits for a person still runs,
    and so does one that goes on by itself within a minute, or when its agent thaws. What waits behind a turn that has
    not got to its end goes on only if that does.
    """
    found = await rows(
        connection,
        """
        SELECT r.id AS run_id, r.deployment_id, r.workspace_id, l.outcome ->> 'reason' AS ended,
               i.waits, s.id IS NULL OR s.archived_at IS NOT NULL OR s.status = 'terminated' AS is_gone,
               CASE WHEN l.is_newest OR i.waits THEN s.stop_reason END AS stop_reason,
               CASE WHEN l.is_newest OR i.waits THEN s.failure END AS failure
          FROM deployment_runs r LEFT JOIN sessions s ON s.id = r.session_id
          LEFT JOIN LATERAL (SELECT * FROM turns WHERE run_id = r.id ORDER BY started_at DESC LIMIT 1) own ON true
          LEFT JOIN LATERAL (SELECT * FROM turns WHERE session_id = s.id ORDER BY started_at DESC LIMIT 1) n ON true
         CROSS JOIN LATERAL (SELECT coalesce(own.outcome, CASE WHEN own.id IS NULL THEN n.outcome END) AS outcome,
                                    coalesce(own.status, n.status, 'ended') AS status,
                                    coalesce(own.id = n.id, true) AS is_newest) l
         CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM events e WHERE e.session_id = s.id AND e.processed_at IS NULL
                                               AND e.type = ANY(%(starters)s) AND r.inputs ? e.id) AS waits) i
         WHERE r.state = 'running' AND (%(run_id)s::text IS NULL OR r.id = %(run_id)s)
           AND (s.id IS NULL OR s.archived_at IS NOT NULL OR s.status = 'terminated'
                OR (l.status = 'ended'
                    AND NOT (l.is_newest AND coalesce(s.stop_reason ->> 'type', '') = 'requires_action')
                    AND NOT ((l.is_newest OR i.waits)
                             AND (coalesce(s.failure ->> 'cause', '') = 'agent_frozen' OR (s.resume_wanted
                                  AND coalesce(s.resume_at, now()) < now() + interval '1 minute')))
                    AND (NOT i.waits
                         OR (s.status = 'idle' AND s.held_seq IS NOT NULL
                             AND NOT EXISTS (SELECT FROM events e
                                              WHERE e.session_id = s.id AND e.processed_at IS NULL
                                                AND (e.type = 'user.interrupt'
                                                     OR (e.type = ANY(%(starters)s) AND e.seq > s.held_seq)))))))
         LIMIT 500
        """,
        {"run_id": run_id, "starters": list(takings.STARTS_A_TURN)},
    )
    return [Rested.model_validate(row) for row in found]


async def still_rested(connection: Connection, run_id: str) -> Rested | None:
    """Return a run of which nothing is left to do, and give it nothing to do until the transaction ends."""
    await hold_session(connection, run_id)
    return next(iter(await rested(connection, run_id=run_id)), None)


async def hold_session(connection: Connection, run_id: str) -> None:
    """Keep others from changing a run's session until the transaction ends."""
    await connection.execute(
        "SELECT FROM sessions WHERE id = (SELECT session_id FROM deployment_runs WHERE id = %s) FOR UPDATE", (run_id,)
    )


async def overdue(connection: Connection) -> list[Due]:
    """Return the deployments that have a run beyond its deadline."""
    return await _due(
        connection,
        "SELECT DISTINCT d.id, d.workspace_id FROM deployment_runs r JOIN deployments d ON d.id = r.deployment_id"
        " WHERE r.state = 'running' AND r.deadline_at < clock_timestamp()",
    )


async def promotable(connection: Connection) -> list[Due]:
    """Return the deployments that have a run waiting which may begin, or never will."""
    return await _due(
        connection,
        """
        SELECT DISTINCT d.id, d.workspace_id FROM deployment_runs r JOIN deployments d ON d.id = r.deployment_id
         WHERE r.state = 'waiting'
           AND (d.archived_at IS NOT NULL OR d.paused_reason IS NOT NULL
                OR (r.kind <> 'backfill' AND coalesce(d.schedule ->> 'overlap', 'skip') IN ('allow', 'cancel_other'))
                OR NOT EXISTS (SELECT FROM deployment_runs o WHERE o.deployment_id = d.id AND o.state = 'running'))
        """,
    )


async def neglected(connection: Connection, *, older_than: timedelta) -> list[Due]:
    """Return the deployments that should have fired and of which no run is recorded."""
    return await _due(
        connection,
        "SELECT id, workspace_id FROM deployments WHERE next_at < clock_timestamp() - %(age)s::interval"
        " - coalesce((schedule ->> 'jitter_seconds')::int, 0) * interval '1 second'"
        " ORDER BY next_at LIMIT 200",
        age=older_than,
    )


async def unprojected(connection: Connection) -> list[Due]:
    """Return the deployments whose schedule at Temporal is not as it should be, or will soon run dry."""
    return await _due(
        connection,
        "SELECT id, workspace_id FROM deployments WHERE (projected_version < version OR renew_at < clock_timestamp())"
        " AND coalesce(projecting_until, '-infinity') < clock_timestamp() ORDER BY updated_at LIMIT 200",
    )


async def claim_projection(connection: Connection, deployment_id: str, *, lease: timedelta) -> bool:
    """Keep others from telling Temporal of a deployment for so long, unless one tells it already; say whether so.

    One that dies meanwhile costs this time, and no firing: what Temporal was not told of is made up for.
    """
    found = await rows(
        connection,
        "UPDATE deployments SET projecting_until = clock_timestamp() + %(lease)s WHERE id = %(id)s"
        " AND coalesce(projecting_until, '-infinity') < clock_timestamp() RETURNING id",
        {"id": deployment_id, "lease": lease},
    )
    return bool(found)


async def projected(connection: Connection, deployment_id: str, *, version: int, renew_at: datetime | None) -> None:
    """Note what Temporal has heard of a deployment, and when it must hear more; others may tell it again."""
    await connection.execute(
        "UPDATE deployments SET projected_version = %s, renew_at = %s, projecting_until = NULL WHERE id = %s",
        (version, renew_at, deployment_id),
    )


async def release_projection(connection: Connection, deployment_id: str) -> None:
    """Let others tell Temporal of a deployment, of which it could not be told."""
    await connection.execute("UPDATE deployments SET projecting_until = NULL WHERE id = %s", (deployment_id,))


async def _due(connection: Connection, query: Any, **parameters: Any) -> list[Due]:
    return [Due.model_validate(row) for row in await rows(connection, query, parameters)]
