"""Rules on tool calls: kept in order, and those that hold in a session."""

from datetime import datetime
from typing import Any, LiteralString

from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict

from controlplane.errors import InvalidRequestError, NotFoundError
from controlplane.ids import new_id, shown_id
from controlplane.store.pool import Connection, one, rows
from workflows.rules import Condition, OnExpiry, Rule, RuleVerdict

MAX_RULES = 200
"""In one workspace, agent or session: every one may be evaluated for every call."""

_SPACING = 10
"""Between the positions of rules that are made one after the other, so that others fit in between."""

_RULES: LiteralString = (
    "SELECT id, coalesce(session_id, agent_id, 'workspace') AS scope, tool, arguments, verdict, reason, position,"
    " expires_after_seconds, on_expiry, expires_at, created_by, updated_by, created_at, updated_at FROM rules"
)
_ORDER: LiteralString = "ORDER BY session_id NULLS LAST, agent_id NULLS LAST, position, created_at, id"


class RuleContent(BaseModel):
    """What the owner of a rule says about it; ``scope``: 'workspace', or the id of an agent or a session."""

    model_config = ConfigDict(frozen=True)

    scope: str
    tool: str
    arguments: list[Condition]
    verdict: RuleVerdict
    reason: str | None = None
    position: int | None = None
    expires_after_seconds: int | None = None
    on_expiry: OnExpiry | None = None
    expires_at: datetime | None = None


class RuleRecord(RuleContent):
    """A rule as recorded; ``created_by`` and ``updated_by`` are API keys."""

    id: str
    created_by: str
    updated_by: str
    created_at: datetime
    updated_at: datetime


async def create(connection: Connection, workspace_id: str, *, content: RuleContent, by: str) -> RuleRecord:
    """Make a rule, the last of its scope unless it has a position; raises if the scope is not there, or full."""
    # One at a time in a workspace, so that positions and the number of rules are as they seem; the session's row is
    # locked first, as everywhere.
    await connection.execute("SELECT FROM sessions WHERE id = %s FOR KEY SHARE", (content.scope,))
    await connection.execute("SELECT FROM workspaces WHERE workspace_id = %s FOR NO KEY UPDATE", (workspace_id,))
    count, last = await _end(connection, content.scope)
    if count >= MAX_RULES:
        raise InvalidRequestError(
            f"there are {count} rules already; at most {MAX_RULES} hold in one workspace, agent or session",
            code="too_many_rules",
            field="scope",
            next_step="delete rules that are not needed any more, or put several conditions into one",
        )
    rule_id = new_id("rule")
    await connection.execute(
        "INSERT INTO rules (id, workspace_id, agent_id, session_id, created_by, updated_by, tool, arguments, verdict,"
        " reason, position, expires_after_seconds, on_expiry, expires_at) VALUES (%(id)s, %(workspace_id)s,"
        " %(agent_id)s, %(session_id)s, %(by)s, %(by)s, %(tool)s, %(arguments)s, %(verdict)s, %(reason)s,"
        " %(position)s, %(expires_after_seconds)s, %(on_expiry)s, %(expires_at)s)",
        {
            "id": rule_id,
            "workspace_id": workspace_id,
            "agent_id": content.scope if content.scope.startswith("agent_") else None,
            "session_id": content.scope if content.scope.startswith("sesn_") else None,
            "by": by,
            **_columns(content),
            "position": last + _SPACING if content.position is None else content.position,
        },
    )
    return await get(connection, rule_id)


async def get(connection: Connection, rule_id: str) -> RuleRecord:
    """Return a rule; raises `NotFoundError`."""
    row = await one(connection, f"{_RULES} WHERE id = %(id)s", {"id": rule_id})
    if row is None:
        raise _unknown(rule_id)
    return RuleRecord.model_validate(row)


async def lock(connection: Connection, rule_id: str) -> RuleRecord:
    """Return a rule and keep others from changing it until the caller's transaction ends."""
    await connection.execute("SELECT FROM rules WHERE id = %(id)s FOR UPDATE", {"id": rule_id})
    return await get(connection, rule_id)


async def replace(connection: Connection, rule_id: str, content: RuleContent, *, by: str) -> RuleRecord:
    """Give a rule new content; its scope stays."""
    await connection.execute(
        "UPDATE rules SET tool = %(tool)s, arguments = %(arguments)s, verdict = %(verdict)s, reason = %(reason)s,"
        " position = coalesce(%(position)s, position), expires_after_seconds = %(expires_after_seconds)s,"
        " on_expiry = %(on_expiry)s, expires_at = %(expires_at)s, updated_by = %(by)s,"
        " updated_at = clock_timestamp() WHERE id = %(id)s",
        {"id": rule_id, "by": by, **_columns(content)},
    )
    return await get(connection, rule_id)


async def delete(connection: Connection, rule_id: str) -> None:
    """Remove a rule; raises `NotFoundError`."""
    if await one(connection, "DELETE FROM rules WHERE id = %(id)s RETURNING id", {"id": rule_id}) is None:
        raise _unknown(rule_id)


async def listing(connection: Connection, *, scope: str | None, offset: int, limit: int) -> list[RuleRecord]:
    """Return up to ``limit`` rules of a scope, or all, each scope's in the order in which they hold."""
    found = await rows(
        connection,
        f"{_RULES} WHERE %(scope)s::text IS NULL"
        f" OR coalesce(session_id, agent_id, 'workspace') = %(scope)s {_ORDER} OFFSET %(offset)s LIMIT %(limit)s",
        {"scope": scope, "offset": offset, "limit": limit},
    )
    return [RuleRecord.model_validate(row) for row in found]


async def in_force(connection: Connection, *, session_id: str | None, agent_id: str | None) -> list[Rule]:
    """Return the rules that hold now, in order: those of the session, of its agent, of the workspace."""
    found = await rows(
        connection,
        f"{_RULES} WHERE (expires_at IS NULL OR expires_at > clock_timestamp())"
        " AND (session_id = %(session)s OR agent_id = %(agent)s OR (session_id IS NULL AND agent_id IS NULL))"
        f" {_ORDER}",
        {"session": session_id, "agent": agent_id},
    )
    return [Rule.model_validate({name: row[name] for name in Rule.model_fields}) for row in found]


async def _end(connection: Connection, scope: str) -> tuple[int, int]:
    """Return how many rules a scope has and the last one's position; raises `NotFoundError` for an unknown scope."""
    if scope != "workspace":
        known = await one(
            connection,
            "SELECT FROM agents WHERE id = %(id)s UNION ALL SELECT FROM sessions WHERE id = %(id)s",
            {"id": scope},
        )
        if known is None:
            raise NotFoundError(
                f"no agent or session {shown_id(scope)!r}",
                code="scope_not_found",
                field="scope",
                next_step="give 'workspace', or the id of an agent or a session",
            )
    row = await one(
        connection,
        "SELECT count(*) AS count, coalesce(max(position), 0) AS last FROM rules"
        " WHERE coalesce(session_id, agent_id, 'workspace') = %(scope)s",
        {"scope": scope},
    )
    return (row["count"], row["last"]) if row else (0, 0)


def _columns(content: RuleContent) -> dict[str, Any]:
    fields = content.model_dump(exclude={"scope", "arguments"})
    return {**fields, "arguments": Jsonb([each.model_dump(exclude_unset=True) for each in content.arguments])}


def _unknown(rule_id: str) -> NotFoundError:
    return NotFoundError(
        f"no rule {shown_id(rule_id)!r}", code="rule_not_found", field="rule_id", next_step="list the rules"
    )
