"""What keeps a session from its next model request: its own budget, and those that it shares."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from psycopg.rows import DictRow

from controlplane.store import budgets
from controlplane.store.budgets import BudgetRecord
from controlplane.store.pool import Connection, one

_CENT = Decimal("0.01")

_BUSY = timedelta(seconds=10)
"""After which a session tries again that met a budget of which the rest was only reserved."""


@dataclass(frozen=True)
class Blocked:
    """What keeps a session from its next model request; ``until``: when that ends by itself."""

    message: str
    budget_id: str | None = None
    until: datetime | None = None
    unpriced: bool = False


async def blocked(connection: Connection, session_id: str) -> Blocked | None:
    """Return what keeps a session from its next model request, were it to make one now, but for a missing price."""
    session = await one(
        connection,
        "SELECT id, workspace_id, agent_id, budget, budget_ids, cost_usd, tokens, 0 AS reserved_usd,"
        " 0 AS reserved_tokens, agent -> 'model' ->> 'id' AS model FROM sessions WHERE id = %(id)s",
        {"id": session_id},
    )
    if session is None:
        return None
    drawn = await budgets.of_session(connection, session["agent_id"], session["budget_ids"])
    return reached(session, drawn, session["model"], priced=True)


async def spent(connection: Connection, agent_id: str, budget_ids: list[str]) -> BudgetRecord | None:
    """Return a budget that sessions of an agent with these budgets would draw on, and that is spent."""
    for each in await budgets.of_session(connection, agent_id, budget_ids):
        if _is_spent(each.model_dump(), each.max_cost_usd, each.max_tokens):
            return each
    return None


def reached(session: DictRow, drawn: list[BudgetRecord], model: str, *, priced: bool) -> Blocked | None:
    """Return the first limit that is reached by what is spent or reserved; ``priced``: the model has a price."""
    own: dict[str, Any] = session["budget"] or {}
    cents = int(own["max_list_cost"]["amount"]) if own else None
    limits = [
        (cents * _CENT if cents is not None else None, own.get("max_tokens"), session, "the session's budget", None),
        *(
            (each.max_cost_usd, each.max_tokens, each.model_dump(), f"the budget {each.name!r}", each)
            for each in drawn
        ),
    ]
    for max_usd, max_tokens, spent, whose, budget in limits:
        is_spent = _is_spent(spent, max_usd, max_tokens)
        until = (budget.period_end if budget else None) if is_spent else datetime.now(UTC) + _BUSY
        how = "is spent" if is_spent else "is taken by requests that run now"
        budget_id = budget.id if budget else None
        if max_usd is not None and not priced:
            message = (
                f"{whose} is in money, and the model {model!r} has no list price;"
                " set one with `bulkhead prices set`, or remove the budget"
            )
            return Blocked(message, budget_id, unpriced=True)
        if max_usd is not None and spent["cost_usd"] + spent["reserved_usd"] >= max_usd:
            return Blocked(f"{whose} of ${max_usd.normalize():f} {how}", budget_id, until)
        if max_tokens is not None and spent["tokens"] + spent["reserved_tokens"] >= max_tokens:
            return Blocked(f"{whose} of {max_tokens} tokens {how}", budget_id, until)
    return None


def _is_spent(spent: Mapping[str, Any], max_usd: Decimal | None, max_tokens: int | None) -> bool:
    """Say whether a limit is reached without what is only reserved: that may be given back."""
    spent_usd = max_usd is not None and spent["cost_usd"] >= max_usd
    return spent_usd or (max_tokens is not None and spent["tokens"] >= max_tokens)
