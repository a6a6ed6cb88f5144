"""Decisions on tool calls that wait for somebody: taken once, by whoever the API let in, acted on by a turn."""

from datetime import datetime
from typing import Any, Literal

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict

from controlplane.errors import BulkheadError, ConflictError, InvalidRequestError
from controlplane.ids import shown_id
from controlplane.store import rules
from controlplane.store.events import NewEvent
from controlplane.store.journal import EXPIRY
from controlplane.store.judging import in_force
from controlplane.store.pool import Connection, one, rows
from controlplane.store.positions import Position
from controlplane.store.rules import RuleContent
from harness_adapters import toolset
from workflows.rules import Condition, escaped
from workflows.verdicts import judge


class Approval(BaseModel):
    """A tool call that waits for a person."""

    model_config = ConfigDict(frozen=True)

    id: str
    session_id: str
    session_title: str | None
    agent_id: str
    agent_name: str
    name: str
    input: dict[str, Any]
    rule_id: str | None
    reason: str | None
    asked_at: datetime
    expires_at: datetime | None
    on_expiry: Literal["allow", "deny"] | None


class CallDecision(BaseModel):
    """What somebody decided. ``result``: a client sends the result of a call that it has run itself.

    ``edited_input``: what an allowed call is to run with instead. ``remember``: allow the same calls from now on, in
    the session.
    """

    model_config = ConfigDict(frozen=True)

    tool_use_id: str
    kind: Literal["allow", "deny", "result"]
    by: str
    deny_message: str | None = None
    edited_input: dict[str, Any] | None = None
    remember: bool = False

    @property
    def verdict(self) -> str:
        """The verdict of the calls that it can be taken on."""
        return "client" if self.kind == "result" else "ask"

    def confirmation(self) -> NewEvent:
        """Return the event that says it, however it was given; a client's result is an event already."""
        said = {
            "tool_use_id": self.tool_use_id,
            "result": self.kind,
            "deny_message": self.deny_message,
            "input": self.edited_input,
            "remember": "session" if self.remember else None,
            "decided_by": self.by,
        }
        payload = {name: value for name, value in said.items() if value is not None}
        return NewEvent(type="user.tool_confirmation", payload=payload, queued=True)


async def decide(connection: Connection, session_id: str, decision: CallDecision, *, field: str) -> None:
    """Record a decision; raises if the call does not wait for one, or a rule denies what it allows.

    The caller, who holds the session's row, appends the event that says it (`CallDecision.confirmation`).
    """
    taken = await one(
        connection,
        "UPDATE tool_calls SET decision = %(kind)s, deny_message = %(deny_message)s, decided_by = %(by)s,"
        " edited_input = %(edited)s, decided_at = clock_timestamp() WHERE id = %(tool_use_id)s"
        " AND session_id = %(session)s AND state = 'intended' AND verdict = %(verdict)s AND decision IS NULL"
        " RETURNING workspace_id, name, coalesce(edited_input, input) AS input",
        {
            "session": session_id,
            "verdict": decision.verdict,
            "edited": None if decision.edited_input is None else Jsonb(decision.edited_input),
            **decision.model_dump(),
        },
    )
    if taken is None:
        raise await _refusal(connection, session_id, decision, field)
    if decision.kind == "allow" and decision.by != EXPIRY:
        await _check(connection, session_id, decision, taken, field)
    if decision.remember:
        await _remember(connection, session_id, decision, taken)


async def _check(connection: Connection, session_id: str, decision: CallDecision, taken: DictRow, field: str) -> None:
    """Refuse to allow what does not fit its tool, or what a rule denies; the same is asked again at dispatch."""
    edited = decision.edited_input is not None
    problem = toolset.check(taken["name"], taken["input"]) if edited else None
    if problem is not None:
        raise InvalidRequestError(
            problem, code="invalid_input", field="input", next_step="correct the arguments and decide again"
        )
    tools, found = await in_force(connection, session_id)
    judgement = judge(tools, found, taken["name"], taken["input"])
    if judgement.verdict == "deny":
        message = judgement.reason or "a rule denies it"
        if edited:
            raise InvalidRequestError(
                message, code="denied_by_rule", field="input", next_step="change the arguments further, or deny it"
            )
        raise ConflictError(
            message, code="denied_by_rule", field=field, next_step="deny the call, or change the rule"
        )


async def _remember(connection: Connection, session_id: str, decision: CallDecision, taken: DictRow) -> None:
    same = Condition(path="$", equals=taken["input"])
    content = RuleContent(
        scope=session_id,
        tool=escaped(taken["name"]),
        arguments=[same],
        verdict="allow",
        reason=f"allowed for the session with {decision.tool_use_id}",
    )
    await rules.create(connection, taken["workspace_id"], content=content, by=decision.by)


async def waiting(connection: Connection, *, beyond: Position | None, limit: int) -> list[Approval]:
    """Return up to ``limit`` of the calls that wait for a person, the oldest first."""
    found = await rows(
        connection,
        """
        SELECT c.id, c.session_id, s.title AS session_title, s.agent_id, s.agent ->> 'name' AS agent_name, c.name,
               c.input, c.rule_id, c.verdict_reason AS reason, c.intended_at AS asked_at, c.expires_at, c.on_expiry
          FROM tool_calls c JOIN sessions s ON s.id = c.session_id
         WHERE c.state = 'intended' AND c.verdict = 'ask' AND c.decision IS NULL AND s.archived_at IS NULL
           AND (%(at)s::timestamptz IS NULL OR (c.intended_at, c.id) > (%(at)s::timestamptz, %(id)s::text))
         ORDER BY c.intended_at, c.id LIMIT %(limit)s
        """,
        {"at": beyond.created_at if beyond else None, "id": beyond.id if beyond else None, "limit": limit},
    )
    return [Approval.model_validate(row) for row in found]


async def session_of(connection: Connection, tool_use_id: str) -> str | None:
    """Return the session of a tool call, if there is one."""
    row = await one(connection, "SELECT session_id FROM tool_calls WHERE id = %(id)s", {"id": tool_use_id})
    return row["session_id"] if row else None


async def _refusal(connection: Connection, session_id: str, decision: CallDecision, field: str) -> BulkheadError:
    row = await one(
        connection,
        "SELECT state, verdict, decision, decided_by, decided_at FROM tool_calls"
        " WHERE id = %(id)s AND session_id = %(session)s",
        {"id": decision.tool_use_id, "session": session_id},
    )
    shown = shown_id(decision.tool_use_id)
    if row is None or (row["verdict"] == "client") != (decision.verdict == "client"):
        what = "agent.custom_tool_use" if decision.verdict == "client" else "agent.tool_use"
        return InvalidRequestError(
            f"the session has no {what} event {shown!r}",
            code="tool_use_not_found",
            field=field,
            next_step="take the id from stop_reason.event_ids of the last session.status_idle event",
        )
    if row["decision"] is not None:
        taken = f"{row['decision']!r} by {row['decided_by']} at {row['decided_at']:%Y-%m-%d %H:%M:%S} UTC"
        return ConflictError(
            f"the call {shown!r} has been decided: {taken}",
            code="tool_use_decided",
            field=field,
            next_step="nothing; a decision is taken once",
        )
    return ConflictError(
        f"the call {shown!r} waits for nobody: it is {row['state']}",
        code="tool_use_not_waiting",
        field=field,
        next_step="list what waits with GET /v1/approvals",
    )
