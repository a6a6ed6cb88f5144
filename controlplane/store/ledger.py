"""The ledger of model requests: reserved before they are sent, settled when they have ended.

A reservation is what a request's input is likely to cost. It counts as spent while the request runs, and stays spent
where nobody learned what it came to. So a budget is overshot by the answers that are under way, and by no more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Literal

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from controlplane.prices import Price, listed
from controlplane.store import budgets, prices
from controlplane.store.budgets import BudgetRecord
from controlplane.store.pool import Connection, one, rows
from harness_adapters.contract import Usage

_CENT = Decimal("0.01")

_BUSY = timedelta(seconds=10)
"""After which a session tries again that met a budget of which the rest was only reserved."""

Release = Literal["lost", "free"]


@dataclass(frozen=True)
class Wanted:
    """A model request that is about to be sent; ``input_tokens`` is an estimate."""

    request_id: str
    model: str
    provider: str
    upstream_model: str
    input_tokens: int


@dataclass(frozen=True)
class Blocked:
    """What keeps a session from its next model request; ``until``: when that ends by itself."""

    message: str
    budget_id: str | None = None
    until: datetime | None = None
    unpriced: bool = False


class RefusedError(Exception):
    """A model request that must not be sent; ``code`` is `budget_reached`, `unpriced`, `agent_frozen`,
    `request_repeated` or `turn_ended`."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code
        self.message = message


async def reserve(connection: Connection, turn_id: str, wanted: Wanted) -> None:
    """Reserve what a request will cost in every budget that it draws on; raises `RefusedError`.

    Holds the session's row and its budgets' until the caller's transaction ends: two cannot both take what is left.
    """
    session = await _session(connection, turn_id)
    if session["frozen_at"] is not None:
        raise RefusedError(
            "agent_frozen", f"the agent has been frozen since {session['frozen_at']:%Y-%m-%d %H:%M} UTC"
        )
    price = await prices.of_model(connection, session["workspace_id"], wanted.model)
    price = price or listed(wanted.provider, wanted.upstream_model)
    drawn = await budgets.of_session(connection, session["agent_id"], session["budget_ids"])
    if blocked := _blocked(session, drawn, wanted.model, priced=price is not None):
        raise RefusedError("unpriced" if blocked.unpriced else "budget_reached", blocked.message)
    reserved = price.cost_usd(Usage(input_tokens=wanted.input_tokens)) if price else Decimal(0)
    spending = [{"budget_id": each.id, "period_start": each.period_start.isoformat()} for each in drawn]
    made = await connection.execute(
        "INSERT INTO model_requests (id, workspace_id, session_id, turn_id, model, provider, price, reserved_usd,"
        " reserved_tokens, spending) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (
            wanted.request_id,
            session["workspace_id"],
            session["id"],
            turn_id,
            wanted.model,
            wanted.provider,
            Jsonb(price.model_dump(mode="json")) if price else None,
            reserved,
            wanted.input_tokens,
            Jsonb(spending),
        ),
    )
    if not made.rowcount:
        raise RefusedError("request_repeated", "a model request with this id has been made")
    for each in drawn:
        await connection.execute(
            "INSERT INTO budget_spending (budget_id, period_start, workspace_id, reserved_usd, reserved_tokens)"
            " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (budget_id, period_start) DO UPDATE SET"
            " reserved_usd = budget_spending.reserved_usd + excluded.reserved_usd,"
            " reserved_tokens = budget_spending.reserved_tokens + excluded.reserved_tokens",
            (each.id, each.period_start, session["workspace_id"], reserved, wanted.input_tokens),
        )


async def settle(connection: Connection, session_id: str, request_id: str, usage: Usage) -> Decimal | None:
    """Record what an answered request used, once, and return its cost in US dollars, where it has a price.

    The caller holds the session's row. A request that no reservation was made for costs nothing anybody knows of.
    """
    tokens = usage.total_tokens
    request = await _running(connection, request_id)
    price = Price.model_validate(request["price"]) if request and request["price"] else None
    cost = price.cost_usd(usage) if price else None
    if request is not None:
        await _close(connection, request, "metered", cost, tokens)
    await _add_to_session(connection, session_id, usage.model_dump(), cost, tokens)
    return cost


async def release_all(connection: Connection, session_id: str) -> None:
    """Close every request of a session that still runs as lost, whoever made it: what made it is no more.

    The caller holds the session's row, so that none is reserved meanwhile.
    """
    running = await rows(
        connection,
        "SELECT id FROM model_requests WHERE session_id = %(id)s AND state = 'running' ORDER BY id",
        {"id": session_id},
    )
    await release(connection, session_id, [row["id"] for row in running], "lost")


async def release(connection: Connection, session_id: str, request_ids: Sequence[str], how: Release) -> None:
    """Close requests that brought no answer: `lost` ones are taken to have cost what was reserved for them."""
    for request_id in request_ids:
        request = await _running(connection, request_id)
        if request is None:
            continue
        cost = request["reserved_usd"] if how == "lost" and request["price"] else None
        tokens = request["reserved_tokens"] if how == "lost" else 0
        await _close(connection, request, how, cost, tokens)
        await _add_to_session(connection, session_id, {}, cost, tokens)


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
    return _blocked(session, drawn, session["model"], priced=True)


async def _session(connection: Connection, turn_id: str) -> DictRow:
    found = await one(
        connection,
        "SELECT s.id, s.workspace_id, s.agent_id, s.budget, s.budget_ids, s.cost_usd, s.tokens,"
        " a.frozen_at FROM sessions s JOIN turns t ON t.session_id = s.id JOIN agents a ON a.id = s.agent_id"
        " WHERE t.id = %(turn)s AND t.status = 'running' FOR UPDATE OF s FOR SHARE OF a",
        {"turn": turn_id},
    )
    if found is None:
        raise RefusedError("turn_ended", "the turn has ended")
    running = await one(
        connection,
        "SELECT coalesce(sum(reserved_usd), 0) AS reserved_usd, coalesce(sum(reserved_tokens), 0) AS reserved_tokens"
        "  FROM model_requests WHERE session_id = %(id)s AND state = 'running'",
        {"id": found["id"]},
    )
    return {**found, **(running or {})}


def _blocked(session: DictRow, drawn: list[BudgetRecord], model: str, *, priced: bool) -> Blocked | None:
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
    reached = max_usd is not None and spent["cost_usd"] >= max_usd
    return reached or (max_tokens is not None and spent["tokens"] >= max_tokens)


async def _running(connection: Connection, request_id: str) -> DictRow | None:
    return await one(
        connection,
        "SELECT * FROM model_requests WHERE id = %(id)s AND state = 'running' FOR UPDATE",
        {"id": request_id},
    )


async def _close(connection: Connection, request: DictRow, state: str, cost: Decimal | None, tokens: int) -> None:
    await connection.execute(
        "UPDATE model_requests SET state = %s, cost_usd = %s, tokens = %s, ended_at = clock_timestamp()"
        " WHERE id = %s",
        (state, cost, tokens, request["id"]),
    )
    for each in request["spending"]:
        await connection.execute(
            "UPDATE budget_spending SET cost_usd = cost_usd + %s, tokens = tokens + %s,"
            " reserved_usd = reserved_usd - %s, reserved_tokens = reserved_tokens - %s"
            " WHERE budget_id = %s AND period_start = %s",
            (
                cost or 0,
                tokens,
                request["reserved_usd"],
                request["reserved_tokens"],
                each["budget_id"],
                each["period_start"],
            ),
        )


async def _add_to_session(
    connection: Connection, session_id: str, usage: dict[str, int], cost: Decimal | None, tokens: int
) -> None:
    row = await one(
        connection,
        "UPDATE sessions SET cost_usd = cost_usd + %(cost)s, tokens = tokens + %(tokens)s,"
        " usage = usage || coalesce((SELECT jsonb_object_agg(key,"
        " coalesce((usage ->> key)::bigint, 0) + value::bigint)"
        " FROM jsonb_each_text(%(usage)s)), '{}') WHERE id = %(id)s RETURNING cost_usd",
        {"cost": cost or 0, "tokens": tokens, "usage": Jsonb(usage), "id": session_id},
    )
    if row is None or cost is None:
        return
    await connection.execute(
        "UPDATE sessions SET usage = usage || %s WHERE id = %s", (Jsonb(shown_cost(row["cost_usd"])), session_id)
    )


def shown_cost(cost_usd: Decimal) -> dict[str, Any]:
    """Return a cost as a session's usage shows it: in whole cents as the wire format has it, and exactly."""
    cents = (cost_usd / _CENT).quantize(Decimal(1), rounding=ROUND_HALF_UP)
    return {"list_cost": {"amount": str(cents), "currency": "USD"}, "cost_usd": f"{cost_usd.normalize():f}"}
