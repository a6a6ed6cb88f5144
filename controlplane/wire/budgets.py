"""Budgets on the wire. Amounts of money are US dollars, as decimal strings."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field, PlainSerializer, model_validator

from controlplane.store.budgets import Period
from controlplane.wire.common import Answer, Reference, Request

_Dollars = Annotated[Decimal, Field(strict=False, ge=0, le=1_000_000_000, max_digits=19, decimal_places=9)]
Shown = Annotated[Decimal, PlainSerializer(lambda amount: f"{amount.normalize():f}", return_type=str)]

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

    cost_usd: Shown
    tokens: int
    reserved_usd: Shown
    reserved_tokens: int


class NamedBudget(Answer):
    """A budget. ``period_end``: when the present period ends."""

    type: Literal["budget"] = "budget"
    id: str
    name: str
    agent_id: str | None
    period: Period
    max_cost_usd: Shown | None
    max_tokens: int | None
    spent: Spent
    period_end: datetime | None
    created_at: datetime
    archived_at: datetime | None


def changes(update: BudgetUpdate) -> dict[str, Any]:
    """Return what an update sets."""
    return {name: getattr(update, name) for name in update.model_fields_set}
