"""Budgets and prices on the wire. Amounts of money are US dollars, as decimal strings."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field, PlainSerializer, model_validator

from controlplane.api.wire.common import Answer, Reference, Request
from controlplane.store.budgets import Period

_Dollars = Annotated[Decimal, Field(strict=False, ge=0, le=1_000_000_000, max_digits=19, decimal_places=9)]
_Rate = Annotated[Decimal, Field(strict=False, ge=0, le=1_000_000, max_digits=16, decimal_places=8)]
_Shown = Annotated[Decimal, PlainSerializer(lambda amount: f"{amount.normalize():f}", return_type=str)]

Name = Annotated[str, Field(min_length=1, max_length=256)]
MaxTokens = Annotated[int, Field(ge=1, le=2**53)]


class BudgetCreate(Request):
    """A new budget: of one agent, or of the sessions that name it in their `budget_ids`."""

    name: Name
    agent_id: Reference | None = None
    period: Period = Field(default="total", description="A `day` or a `month` of UTC begins anew, or `total`.")
    max_cost_usd: _Dollars | None = Field(default=None, examples=["25.00"])
    max_tokens: MaxTokens | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> "BudgetCreate":
        if self.max_cost_usd is None and self.max_tokens is None:
            raise ValueError("a budget needs 'max_cost_usd', 'max_tokens' or both")
        return self


class BudgetUpdate(Request):
    """What changes; an omitted field keeps its value, null removes a limit."""

    name: Name = ""
    max_cost_usd: _Dollars | None = None
    max_tokens: MaxTokens | None = None


class Spent(Answer):
    """What was spent in the present period, and what the requests that run now have reserved."""

    cost_usd: _Shown
    tokens: int
    reserved_usd: _Shown
    reserved_tokens: int


class NamedBudget(Answer):
    """A budget. ``period_end``: when the present period ends."""

    type: Literal["budget"] = "budget"
    id: str
    name: str
    agent_id: str | None
    period: Period
    max_cost_usd: _Shown | None
    max_tokens: int | None
    spent: Spent
    period_end: datetime | None
    created_at: datetime
    archived_at: datetime | None


class PriceSet(Request):
    """What the models of a pattern cost, in US dollars per million tokens; it precedes the list price."""

    model: Annotated[str, Field(min_length=1, max_length=256, description="A name, or a glob pattern.")]
    input: _Rate
    output: _Rate
    cache_read: _Rate | None = Field(default=None, description="As input, if omitted.")
    cache_write: _Rate | None = Field(default=None, description="As input, if omitted.")


class ModelPrice(Answer):
    """A price that was set."""

    type: Literal["price"] = "price"
    id: str
    model: str
    input: _Shown
    output: _Shown
    cache_read: _Shown | None
    cache_write: _Shown | None
    created_at: datetime


class PriceDeleted(Answer):
    """The price is gone; the list price holds."""

    type: Literal["price_deleted"] = "price_deleted"
    id: str


def changes(update: BudgetUpdate) -> dict[str, Any]:
    """Return what an update sets."""
    return {name: getattr(update, name) for name in update.model_fields_set}
