"""Sessions that wait for a turn that does not come."""

from datetime import timedelta

from controlplane.store.pool import Connection, rows


async def neglected(connection: Connection, *, older_than: timedelta) -> dict[str, str]:
    """Return session id → workspace id of the sessions that have something to do and no living turn.

    A turn lives while its worker has its row in ``workers``; one that has lost its worker and was not handed to
    another (because Temporal lost the workflow) is taken over by the turn that the wake-up starts.
    """
    found = await rows(
        connection,
        """
        SELECT s.id, s.workspace_id FROM sessions s
         WHERE s.id IN (SELECT session_id FROM events
                         WHERE processed_at IS NULL AND created_at < clock_timestamp() - %(age)s::interval)
           AND s.status <> 'terminated'
           AND NOT EXISTS (SELECT FROM turns t WHERE t.session_id = s.id AND t.status = 'running')
         UNION
        SELECT s.id, s.workspace_id FROM sessions s
         WHERE s.resume_wanted AND s.status = 'idle' AND s.updated_at < clock_timestamp() - %(age)s::interval
         UNION
        SELECT t.session_id, t.workspace_id FROM turns t
         WHERE t.status = 'running' AND t.started_at < clock_timestamp() - 15 * %(age)s::interval
           AND NOT EXISTS (SELECT FROM workers w WHERE w.id = t.worker_id)
        """,
        {"age": older_than},
    )
    return {row["id"]: row["workspace_id"] for row in found}
