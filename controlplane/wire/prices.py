"""Prices of models on the wire. Amounts of money are US dollars, as decimal strings."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from controlplane.wire.budgets import Shown
from controlplane.wire.common import Answer, Request

_Rate = Annotated[Decimal, Field(strict=False, ge=0, le=1_000_000, max_digits=16, decimal_places=8)]


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
    input: Shown
    output: Shown
    cache_read: Shown | None
    cache_write: Shown | None
    created_at: datetime


class PriceDeleted(Answer):
    """The price is gone; the list price holds."""

    type: Literal["price_deleted"] = "price_deleted"
    id: str
