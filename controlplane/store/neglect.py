"""Sessions that wait for a turn that does not come, or for the end of one that was interrupted."""

from datetime import timedelta

from pydantic import BaseModel, ConfigDict

from controlplane.store.pool import Connection, rows


class Neglected(BaseModel):
    """A session that must be woken; ``interrupt``: its running turn was to be stopped and was not."""

    model_config = ConfigDict(frozen=True)

    session_id: str
    workspace_id: str
    interrupt: bool


async def sessions(connection: Connection, *, older_than: timedelta) -> list[Neglected]:
    """Return the sessions that have something to do and no living turn, or an interrupt that their turn has not seen.

    A turn lives while its worker has its row in ``workers``; one that has lost its worker and was not handed to
    another (because Temporal lost the workflow) is taken over by the turn that the wake-up starts.
    """
    found = await rows(
        connection,
        """
        WITH waiting AS (
            SELECT session_id, bool_or(type = 'user.interrupt') AS interrupt,
                   max(seq) FILTER (WHERE type = 'user.message') AS newest_seq
              FROM events
             WHERE processed_at IS NULL AND created_at < clock_timestamp() - %(age)s::interval
               AND type <> 'system.message'
             GROUP BY session_id
        ), running AS (SELECT session_id, workspace_id, worker_id, started_at FROM turns WHERE status = 'running')
        SELECT s.id AS session_id, s.workspace_id, false AS interrupt
          FROM sessions s JOIN waiting w ON w.session_id = s.id JOIN agents a ON a.id = s.agent_id
         WHERE (a.frozen_at IS NULL OR w.interrupt) AND s.archived_at IS NULL
           AND NOT EXISTS (SELECT FROM running r WHERE r.session_id = s.id)
           AND (w.interrupt OR s.held_seq IS NULL OR w.newest_seq > s.held_seq)
           AND (w.interrupt OR NOT EXISTS (SELECT FROM tool_calls c WHERE c.session_id = s.id AND c.state = 'intended'
                                              AND c.verdict IN ('ask', 'client') AND c.decision IS NULL))
         UNION ALL
        SELECT r.session_id, r.workspace_id, true FROM running r JOIN waiting w USING (session_id) WHERE w.interrupt
         UNION ALL
        SELECT s.id, s.workspace_id, false FROM sessions s JOIN agents a ON a.id = s.agent_id
         WHERE a.frozen_at IS NULL AND s.resume_wanted AND s.status = 'idle' AND s.archived_at IS NULL
           AND coalesce(s.resume_at, s.updated_at + %(age)s::interval) < clock_timestamp()
         UNION ALL
        SELECT r.session_id, r.workspace_id, false FROM running r
         WHERE r.started_at < clock_timestamp() - 15 * %(age)s::interval
           AND NOT EXISTS (SELECT FROM workers w WHERE w.id = r.worker_id)
        """,
        {"age": older_than},
    )
    return [Neglected.model_validate(row) for row in found]
