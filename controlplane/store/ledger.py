"""The ledger of model requests: reserved before they are sent, settled by the gateway when they have ended.

A reservation is what a request's input is likely to cost. It counts as spent while the request runs, and stays spent
where nobody learned what it came to. So a budget is overshot by the answers that are under way, and by no more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Literal

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from controlplane.ids import new_id
from controlplane.prices import FREE, Price, listed
from controlplane.store import budgets, limits, prices
from controlplane.store.budgets import BudgetRecord
from controlplane.store.pool import Connection, one, rows
from harness_adapters.contract import Usage

_CENT = Decimal("0.01")

Release = Literal["lost", "free"]
State = Literal["metered"] | Release


@dataclass(frozen=True)
class Wanted:
    """A model request that is about to be sent; ``input_tokens`` is an estimate, and ``free`` is its provider."""

    request_id: str
    model: str
    provider: str
    upstream_model: str
    input_tokens: int
    free: bool = False
    fallback_for: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What a request came to. ``usage``: of a `metered` one as the provider counted, of a `lost` one our estimate.

    ``status``: of the provider's answer.
    """

    state: State
    usage: Usage | None = None
    status: int | None = None
    first_byte_ms: int | None = None


@dataclass(frozen=True)
class Booking:
    """What the ledger has of an answered request. ``model``: the one that stood in, if one did."""

    usage: Usage
    is_estimated: bool = False
    cost_usd: Decimal | None = None
    model: str | None = None


class RefusedError(Exception):
    """A model request that must not be sent; ``code`` is `budget_reached`, `unpriced`, `agent_frozen`,
    `request_repeated` or `turn_ended`."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code
        self.message = message


async def reserve(connection: Connection, token_hash: bytes, wanted: Wanted) -> None:
    """Reserve what a request will cost in every budget that it draws on; raises `RefusedError`.

    ``token_hash``: of the attempt of a turn that asks; it must be the newest, and its turn must run. Holds the turn's
    and the session's row and its budgets' until the caller's transaction ends: two cannot both take what is left.
    """
    await _reserve(connection, await _asking(connection, token_hash), wanted)


async def fall_back(connection: Connection, token_hash: bytes, wanted: Wanted, *, left: Release) -> None:
    """Book a running request on another model from now on; raises `RefusedError`, and then it must be as it was.

    ``left``: what became of it at the model before. A `lost` one may have cost something there, which stays booked in
    a row of its own.
    """
    asking = await _asking(connection, token_hash)
    request = await _running(connection, wanted.request_id)
    if request is None:
        raise RefusedError("turn_ended", "the request has been given up meanwhile")
    left_id = new_id("sevt")
    await connection.execute("UPDATE model_requests SET id = %s WHERE id = %s", (left_id, request["id"]))
    await release(connection, asking["id"], [left_id], left)
    if left == "free":
        await connection.execute("DELETE FROM model_requests WHERE id = %s", (left_id,))
    started_at = request["started_at"] if left == "free" else None
    await _reserve(connection, await _asking(connection, token_hash), wanted, started_at=started_at)


async def settle(connection: Connection, request_id: str, outcome: Outcome) -> bool:
    """Record what a request came to, once, and add it to its session; say whether it was still to be recorded."""
    session = await one(
        connection,
        "SELECT id FROM sessions WHERE id = (SELECT session_id FROM model_requests WHERE id = %(id)s) FOR UPDATE",
        {"id": request_id},
    )
    request = await _running(connection, request_id)
    if session is None or request is None:
        return False
    await _close(connection, request, outcome)
    return True


async def booked(connection: Connection, request_id: str, *, told: Usage) -> Booking:
    """Return what the gateway has recorded of an answered request; the caller holds the session's row.

    One that it never settled is lost. ``told``: what whoever asked was told, where the ledger knows of no usage.
    """
    request = await _running(connection, request_id)
    if request is not None:
        await _close(connection, request, Outcome("lost"))
    row = await one(
        connection,
        "SELECT model, fallback_for, usage, usage_estimated, cost_usd FROM model_requests WHERE id = %(id)s",
        {"id": request_id},
    )
    if row is None:
        return Booking(told)
    return Booking(
        Usage.model_validate(row["usage"]) if row["usage"] else told,
        is_estimated=row["usage_estimated"],
        cost_usd=row["cost_usd"],
        model=row["model"] if row["fallback_for"] else None,
    )


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
    """Close requests whose gateway did not: `lost` ones are taken to have cost what was reserved for them.

    The caller holds the session's row.
    """
    for request_id in request_ids:
        request = await _running(connection, request_id)
        if request is not None and request["session_id"] == session_id:
            await _close(connection, request, Outcome(how))


async def _asking(connection: Connection, token_hash: bytes) -> DictRow:
    """Lock the turn that a token belongs to, and what its requests are booked on (migration 0023).

    Each relation is locked, since after a wait Postgres checks only those again: a turn that ended meanwhile, or
    whose next attempt has another token, must not pass.
    """
    found = await one(connection, "SELECT * FROM asking(%(hash)s)", {"hash": token_hash})
    if found is None:
        raise RefusedError("turn_ended", "this token belongs to no running turn; a token lives as long as its turn")
    return found


async def _reserve(
    connection: Connection, asking: DictRow, wanted: Wanted, *, started_at: datetime | None = None
) -> None:
    if asking["frozen_at"] is not None:
        raise RefusedError(
            "agent_frozen", f"the agent has been frozen since {asking['frozen_at']:%Y-%m-%d %H:%M} UTC"
        )
    price = prices.fitting(asking["prices"], wanted.model)
    price = price or (FREE if wanted.free else listed(wanted.provider, wanted.upstream_model))
    drawn: list[BudgetRecord] = []
    if asking["is_budgeted"]:
        drawn = await budgets.of_session(connection, asking["agent_id"], asking["budget_ids"])
    if blocked := limits.reached(asking, drawn, wanted.model, priced=price is not None):
        raise RefusedError("unpriced" if blocked.unpriced else "budget_reached", blocked.message)
    reserved = price.cost_usd(Usage(input_tokens=wanted.input_tokens)) if price else Decimal(0)
    spending = [{"budget_id": each.id, "period_start": each.period_start.isoformat()} for each in drawn]
    made = await one(
        connection,
        "INSERT INTO model_requests (id, workspace_id, session_id, turn_id, model, provider, fallback_for, price,"
        " reserved_usd, reserved_tokens, spending, started_at) VALUES (%(id)s, %(workspace)s, %(session)s, %(turn)s,"
        " %(model)s, %(provider)s, %(fallback_for)s, %(price)s, %(usd)s, %(tokens)s, %(spending)s,"
        " coalesce(%(started_at)s, clock_timestamp())) ON CONFLICT DO NOTHING RETURNING id",
        {
            "id": wanted.request_id,
            "workspace": asking["workspace_id"],
            "session": asking["id"],
            "turn": asking["turn_id"],
            "model": wanted.model,
            "provider": wanted.provider,
            "fallback_for": wanted.fallback_for,
            "price": Jsonb(price.model_dump(mode="json")) if price else None,
            "usd": reserved,
            "tokens": wanted.input_tokens,
            "spending": Jsonb(spending),
            "started_at": started_at,
        },
    )
    if made is None:
        raise RefusedError("request_repeated", "a model request with this id has been made")
    for each in drawn:
        await connection.execute(
            "INSERT INTO budget_spending (budget_id, period_start, workspace_id, reserved_usd, reserved_tokens)"
            " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (budget_id, period_start) DO UPDATE SET"
            " reserved_usd = budget_spending.reserved_usd + excluded.reserved_usd,"
            " reserved_tokens = budget_spending.reserved_tokens + excluded.reserved_tokens",
            (each.id, each.period_start, asking["workspace_id"], reserved, wanted.input_tokens),
        )


async def _running(connection: Connection, request_id: str) -> DictRow | None:
    return await one(
        connection,
        "SELECT * FROM model_requests WHERE id = %(id)s AND state = 'running' FOR UPDATE",
        {"id": request_id},
    )


async def _close(connection: Connection, request: DictRow, outcome: Outcome) -> None:
    cost, tokens = _cost(request, outcome)
    counted = Jsonb(outcome.usage.model_dump()) if outcome.usage else None
    await connection.execute(
        "UPDATE model_requests SET state = %s, cost_usd = %s, tokens = %s, usage = %s, usage_estimated = %s,"
        " status = %s, first_byte_ms = %s, ended_at = clock_timestamp() WHERE id = %s",
        (
            outcome.state,
            cost,
            tokens,
            counted,
            outcome.usage is not None and outcome.state != "metered",
            outcome.status,
            outcome.first_byte_ms,
            request["id"],
        ),
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
    await _add_to_session(connection, request["session_id"], outcome.usage, cost, tokens)


def _cost(request: DictRow, outcome: Outcome) -> tuple[Decimal | None, int]:
    """Return what a request cost, where it has a price, and its tokens; of which nobody knows: as was reserved."""
    if outcome.state == "free":
        return None, 0
    price = Price.model_validate(request["price"]) if request["price"] else None
    if outcome.usage is None:
        return (request["reserved_usd"] if price else None), request["reserved_tokens"]
    return (price.cost_usd(outcome.usage) if price else None), outcome.usage.total_tokens


async def _add_to_session(
    connection: Connection, session_id: str, usage: Usage | None, cost: Decimal | None, tokens: int
) -> None:
    row = await one(
        connection,
        "UPDATE sessions SET cost_usd = cost_usd + %(cost)s, tokens = tokens + %(tokens)s,"
        " usage = usage || coalesce((SELECT jsonb_object_agg(key,"
        " coalesce((usage ->> key)::bigint, 0) + value::bigint)"
        " FROM jsonb_each_text(%(usage)s)), '{}') WHERE id = %(id)s RETURNING cost_usd",
        {
            "cost": cost or 0,
            "tokens": tokens,
            "usage": Jsonb(usage.model_dump() if usage else {}),
            "id": session_id,
        },
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
