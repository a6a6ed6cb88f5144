"""Calls that have waited for a person for too long: decided as was laid down when they began to wait."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from controlplane.errors import ConflictError
from controlplane.store import approvals, events
from controlplane.store.approvals import CallDecision
from controlplane.store.events import Event
from controlplane.store.journal import EXPIRY
from controlplane.store.pool import Connection, one, rows

_AT_ONCE = 100


class Expired(BaseModel):
    """A call whose time to be decided is over."""

    model_config = ConfigDict(frozen=True)

    id: str
    session_id: str
    workspace_id: str
    on_expiry: Literal["allow", "deny"]


async def expired(connection: Connection) -> list[Expired]:
    """Return calls whose time is over, those that have waited longest first."""
    found = await rows(
        connection,
        "SELECT c.id, c.session_id, c.workspace_id, coalesce(c.on_expiry, 'deny') AS on_expiry"
        " FROM tool_calls c JOIN sessions s ON s.id = c.session_id"
        " WHERE c.state = 'intended' AND c.verdict = 'ask' AND c.decision IS NULL AND s.archived_at IS NULL"
        " AND c.expires_at < clock_timestamp() ORDER BY c.expires_at LIMIT %(limit)s",
        {"limit": _AT_ONCE},
    )
    return [Expired.model_validate(row) for row in found]


async def expire(connection: Connection, call: Expired) -> list[Event]:
    """Decide a call in the caller's transaction and return the event that says so; none if somebody was faster."""
    session = await one(
        connection,
        "SELECT FROM sessions WHERE id = %(id)s AND archived_at IS NULL FOR UPDATE",
        {"id": call.session_id},
    )
    if session is None:
        return []
    decision = CallDecision(tool_use_id=call.id, kind=call.on_expiry, by=EXPIRY)
    try:
        await approvals.decide(connection, call.session_id, decision, field="tool_use_id")
    except ConflictError:
        return []
    return await events.append(connection, call.session_id, [decision.confirmation()])
