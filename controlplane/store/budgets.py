"""Named budgets: what their sessions may cost together, in all or in a day or month of UTC."""

from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, LiteralString

from pydantic import BaseModel, ConfigDict

from controlplane.errors import InvalidRequestError, NotFoundError
from controlplane.ids import new_id, shown_id
from controlplane.store.pool import Connection, one, rows

Period = Literal["total", "day", "month"]

_SELECT: LiteralString = """
    SELECT b.*, coalesce(p.cost_usd, 0) AS cost_usd, coalesce(p.tokens, 0) AS tokens,
           coalesce(p.reserved_usd, 0) AS reserved_usd, coalesce(p.reserved_tokens, 0) AS reserved_tokens,
           CASE WHEN b.period <> 'total' THEN b.period_start + ('1 ' || b.period)::interval END AS period_end
      FROM (SELECT *, CASE period WHEN 'total' THEN 'epoch'::timestamptz
                           ELSE date_trunc(period, now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' END AS period_start
              FROM budgets) AS b
      LEFT JOIN budget_spending p ON p.budget_id = b.id AND p.period_start = b.period_start"""


class BudgetContent(BaseModel):
    """What an operator says of a budget; at least one limit is given."""

    model_config = ConfigDict(frozen=True)

    name: str
    agent_id: str | None = None
    period: Period
    max_cost_usd: Decimal | None
    max_tokens: int | None


class BudgetRecord(BudgetContent):
    """A budget and what is spent of it in the present period; ``reserved``: by requests that run now."""

    id: str
    workspace_id: str
    period_start: datetime
    period_end: datetime | None
    cost_usd: Decimal
    tokens: int
    reserved_usd: Decimal
    reserved_tokens: int
    created_at: datetime
    archived_at: datetime | None


async def create(connection: Connection, workspace_id: str, content: BudgetContent) -> BudgetRecord:
    """Make a budget."""
    budget_id = new_id("bdgt")
    await connection.execute(
        "INSERT INTO budgets (id, workspace_id, name, agent_id, period, max_cost_usd, max_tokens)"
        " VALUES (%(id)s, %(workspace)s, %(name)s, %(agent_id)s, %(period)s, %(max_cost_usd)s, %(max_tokens)s)",
        {"id": budget_id, "workspace": workspace_id, **content.model_dump()},
    )
    return await get(connection, budget_id)


async def get(connection: Connection, budget_id: str) -> BudgetRecord:
    """Return a budget; raises `NotFoundError`."""
    row = await one(connection, _SELECT + " WHERE b.id = %(id)s", {"id": budget_id})
    if row is None:
        raise NotFoundError(
            f"no budget {shown_id(budget_id)!r}",
            code="budget_not_found",
            field="budget_id",
            next_step="list the budgets",
        )
    return BudgetRecord.model_validate(row)


async def lock(connection: Connection, budget_id: str) -> BudgetRecord:
    """Return a budget and keep others from changing it until the caller's transaction ends."""
    await connection.execute("SELECT FROM budgets WHERE id = %s FOR UPDATE", (budget_id,))
    return await get(connection, budget_id)


async def listing(connection: Connection, *, include_archived: bool) -> list[BudgetRecord]:
    """Return every budget, newest first."""
    query = _SELECT + " WHERE %(archived)s OR b.archived_at IS NULL ORDER BY b.created_at DESC, b.id DESC"
    return [BudgetRecord.model_validate(row) for row in await rows(connection, query, {"archived": include_archived})]


async def of_session(connection: Connection, agent_id: str, budget_ids: list[str]) -> list[BudgetRecord]:
    """Return the budgets that a session draws on, in the order in which they are locked, and lock them."""
    mine: dict[str, Any] = {"agent": agent_id, "ids": budget_ids}
    locked = await rows(
        connection,
        "SELECT id FROM budgets WHERE archived_at IS NULL AND (agent_id = %(agent)s OR id = ANY(%(ids)s))"
        " ORDER BY id FOR UPDATE",
        mine,
    )
    if not locked:
        return []
    found = await rows(
        connection, _SELECT + " WHERE b.id = ANY(%(ids)s) ORDER BY b.id", {"ids": [row["id"] for row in locked]}
    )
    return [BudgetRecord.model_validate(row) for row in found]


async def change(connection: Connection, budget_id: str, changes: dict[str, Any]) -> BudgetRecord:
    """Give a budget a new name or new limits."""
    before = await lock(connection, budget_id)
    after = before.model_copy(update=changes)
    await connection.execute(
        "UPDATE budgets SET name = %s, max_cost_usd = %s, max_tokens = %s WHERE id = %s",
        (after.name, after.max_cost_usd, after.max_tokens, budget_id),
    )
    return await get(connection, budget_id)


async def archive(connection: Connection, budget_id: str) -> BudgetRecord:
    """Let a budget bind nobody any more; doing it again changes nothing."""
    await connection.execute(
        "UPDATE budgets SET archived_at = coalesce(archived_at, clock_timestamp()) WHERE id = %s", (budget_id,)
    )
    return await get(connection, budget_id)


async def check_usable(connection: Connection, budget_ids: list[str]) -> None:
    """Refuse budgets that are not there, archived, or another agent's."""
    found = await rows(
        connection,
        "SELECT id FROM budgets WHERE id = ANY(%(ids)s) AND archived_at IS NULL AND agent_id IS NULL",
        {"ids": budget_ids},
    )
    missing = set(budget_ids) - {row["id"] for row in found}
    for budget_id in sorted(missing):
        raise InvalidRequestError(
            f"budget_ids: no budget {shown_id(budget_id)!r} that sessions may share",
            code="budget_not_found",
            field="budget_ids",
            next_step="list the budgets; one that belongs to an agent binds its sessions by itself",
        )
