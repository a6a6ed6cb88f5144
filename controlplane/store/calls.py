"""The side-effect journal as it is shown."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from controlplane.store.pool import Connection, rows
from controlplane.store.positions import Position
from workflows.records import CallState
from workflows.verdicts import Verdict


class CallRecord(BaseModel):
    """A row of the journal."""

    model_config = ConfigDict(frozen=True)

    id: str
    session_id: str
    turn_id: str
    name: str
    input: dict[str, Any]
    edited_input: dict[str, Any] | None
    state: CallState
    verdict: Verdict
    rule_id: str | None
    verdict_reason: str | None
    expires_at: datetime | None
    on_expiry: Literal["allow", "deny"] | None
    decision: Literal["allow", "deny", "result"] | None
    deny_message: str | None
    decided_by: str | None
    decided_at: datetime | None
    sandbox_id: str | None
    result_event_id: str | None
    intended_at: datetime
    dispatched_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None


async def listing(
    connection: Connection, session_id: str, *, beyond: Position | None, limit: int
) -> list[CallRecord]:
    """Return up to ``limit`` calls of a session in the order in which they were wanted."""
    found = await rows(
        connection,
        """
        SELECT id, session_id, turn_id, name, input, edited_input, state, verdict, rule_id, verdict_reason,
               expires_at, on_expiry, decision, deny_message, decided_by, decided_at, sandbox_id, result_event_id,
               intended_at, dispatched_at, started_at, ended_at
          FROM tool_calls
         WHERE session_id = %(session)s
           AND (%(at)s::timestamptz IS NULL OR (intended_at, id) > (%(at)s::timestamptz, %(id)s::text))
         ORDER BY intended_at, id LIMIT %(limit)s
        """,
        {
            "session": session_id,
            "at": beyond.created_at if beyond else None,
            "id": beyond.id if beyond else None,
            "limit": limit,
        },
    )
    return [CallRecord.model_validate(row) for row in found]
