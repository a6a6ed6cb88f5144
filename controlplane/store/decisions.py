"""The record of what sandboxes sent out or were kept from sending: append-only, a chain of hashes per session."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from controlplane.ids import new_id
from controlplane.store.line import Line, Row
from controlplane.store.pool import Connection, one, rows
from controlplane.store.sessions import unknown
from sandbox.egress.contract import AuditEntry, Verdict

MAX_DENIALS = 20
"""Sentences that one tool result gets; a loop that is refused a thousand times says the same."""

_LONGEST = {"method": 32, "host": 255, "path": 512, "reason": 64, "message": 1000, "credential": 128}


class Decision(BaseModel):
    """A recorded decision. ``tool_use_id``: the call that ran in the sandbox then, if it was one alone."""

    model_config = ConfigDict(frozen=True)

    session_id: str
    workspace_id: str
    seq: int
    id: str
    exchange_id: str
    ended: bool
    sandbox_id: str
    turn_id: str | None
    tool_use_id: str | None
    credential: str | None
    method: str
    host: str
    port: int
    path: str | None
    verdict: Verdict
    reason: str
    message: str
    status: int | None
    bytes_up: int
    bytes_down: int
    duration_us: int
    created_at: datetime
    previous_hash: bytes
    hash: bytes


class EgressState(BaseModel):
    """Whether a session's way out is closed."""

    model_config = ConfigDict(frozen=True)

    session_id: str
    revoked_at: datetime | None


class PostgresAudit:
    """`sandbox.egress.contract.AuditSink` on Postgres.

    An entry is committed when `record` returns. Entries that arrive while others are being committed go together in
    one transaction, so that a busy proxy waits for the disk once and not once each.
    """

    def __init__(self, line: Line):
        self._line = line

    async def record(self, entry: AuditEntry) -> None:
        """See `AuditSink.record`."""
        await self._line.record(_row(entry))


async def listing(
    connection: Connection, session_id: str, *, verdicts: list[Verdict] | None, beyond_seq: int | None, limit: int
) -> list[Decision]:
    """Return up to ``limit`` decisions of a session in order, also of a deleted one; raises `NotFoundError`."""
    known = await one(
        connection,
        "SELECT FROM sessions WHERE id = %(id)s UNION ALL SELECT FROM deleted_sessions WHERE id = %(id)s",
        {"id": session_id},
    )
    if known is None:
        raise unknown(session_id)
    found = await rows(
        connection,
        "SELECT session_id, workspace_id, seq, id, exchange_id, ended, sandbox_id, turn_id, tool_use_id, credential,"
        " method, host, port, path, verdict, reason, message, status, bytes_up, bytes_down, duration_us, created_at,"
        " previous_hash, hash FROM egress_decisions WHERE session_id = %(session_id)s AND seq > %(beyond)s"
        " AND (%(verdicts)s::text[] IS NULL OR verdict = ANY(%(verdicts)s)) ORDER BY seq LIMIT %(limit)s",
        {"session_id": session_id, "beyond": beyond_seq or 0, "verdicts": verdicts, "limit": limit},
    )
    return [Decision.model_validate(row) for row in found]


async def denials(connection: Connection, sandbox_id: str, *, tool_use_id: str, since: datetime) -> list[str]:
    """Return what the model is to be told with a call that began at ``since`` of its requests that were refused.

    What was refused while several calls ran may be another's, or that of a command in the background, and is said to
    be so; what is known to be another's is left to that one. Each is said once.
    Not that a connection ended: many programs end theirs without a goodbye, and the others notice by themselves.
    """
    found = await rows(
        connection,
        "SELECT message, bool_or(tool_use_id IS NOT NULL) AS own FROM egress_decisions"
        " WHERE sandbox_id = %(sandbox_id)s AND verdict <> 'allowed'"
        " AND reason <> 'connection_lost' AND created_at >= %(since)s"
        " AND (tool_use_id = %(tool_use_id)s OR tool_use_id IS NULL)"
        " GROUP BY message ORDER BY min(seq) LIMIT %(limit)s",
        {"sandbox_id": sandbox_id, "tool_use_id": tool_use_id, "since": since, "limit": MAX_DENIALS},
    )
    return [row["message"] if row["own"] else f"While this ran, in this sandbox: {row['message']}" for row in found]


async def set_revoked(connection: Connection, session_id: str, *, revoked: bool) -> EgressState:
    """Close a session's way out at once, or open it again; doing it twice changes nothing."""
    row = await one(
        connection,
        "UPDATE sessions SET egress_revoked_at = CASE WHEN %(revoked)s THEN coalesce(egress_revoked_at, now()) END"
        " WHERE id = %(id)s RETURNING id AS session_id, egress_revoked_at AS revoked_at",
        {"id": session_id, "revoked": revoked},
    )
    if row is None:
        raise unknown(session_id)
    return EgressState.model_validate(row)


def _row(entry: AuditEntry) -> Row:
    values = entry.model_dump(exclude={"duration_ms"})
    for name, longest in _LONGEST.items():
        if isinstance(value := values[name], str):
            values[name] = _storable(value)[:longest]
    return {"id": new_id("egr"), "duration_us": round(entry.duration_ms * 1000), **values}


def _storable(text: str) -> str:
    return text.replace("\x00", "\\x00").encode(errors="backslashreplace").decode()
