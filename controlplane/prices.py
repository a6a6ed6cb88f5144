"""What a model's tokens cost: list prices from genai-prices, and the arithmetic."""

from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from harness_adapters.contract import Usage

_PER = Decimal(1_000_000)

UsdPerMillion = Annotated[Decimal, Field(ge=0, le=1_000_000, max_digits=16, decimal_places=8)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Step(_Frozen):
    """The rate of all tokens of a request whose input has more than ``above_tokens``."""

    above_tokens: int
    rate: UsdPerMillion


class Rate(_Frozen):
    """US dollars per million tokens; the last step that a request's input is above replaces ``base``."""

    base: UsdPerMillion
    steps: list[Step] = Field(default_factory=list[Step])

    def at(self, input_tokens: int) -> Decimal:
        """Return the rate of a request with so many tokens of input."""
        reached = [step.rate for step in self.steps if input_tokens > step.above_tokens]
        return reached[-1] if reached else self.base


class Price(_Frozen):
    """The rates of a model. Without one of its own, what goes through the cache costs as input does."""

    input: Rate
    output: Rate
    cache_read: Rate | None = None
    cache_write: Rate | None = None

    def cost_usd(self, usage: Usage) -> Decimal:
        """Return what a request cost."""
        total_input = usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens
        parts = (
            (self.input, usage.input_tokens),
            (self.output, usage.output_tokens),
            (self.cache_read or self.input, usage.cache_read_input_tokens),
            (self.cache_write or self.input, usage.cache_creation_input_tokens),
        )
        return sum((rate.at(total_input) * count for rate, count in parts), Decimal(0)) / _PER


FREE = Price(input=Rate(base=Decimal(0)), output=Rate(base=Decimal(0)))
"""Of a provider that is configured as free, whatever its models are called."""


def listed(provider: str, model: str) -> Price | None:
    """Return a model's list price as of now, or None where none is known."""
    return _listed(provider, model, datetime.now(UTC).date())


@lru_cache(1024)
def _listed(provider: str, model: str, on: date) -> Price | None:  # noqa: ARG001 - prices change with the day
    # 20 MB of prices, which the gateway alone needs.
    from genai_prices import Usage as ListUsage
    from genai_prices import calc_price

    try:
        found = calc_price(ListUsage(input_tokens=1, output_tokens=1), model, provider_id=provider).model_price
    except LookupError:
        return None
    given = vars(found)
    rates = {name: _rate(given.get(f"{name}_mtok")) for name in Price.model_fields}
    if rates["input"] is None or rates["output"] is None:
        return None
    return Price.model_validate(rates)


def _rate(found: object) -> Rate | None:
    from genai_prices.types import TieredPrices

    if isinstance(found, TieredPrices):
        steps = [Step(above_tokens=tier.start, rate=Decimal(tier.price)) for tier in found.tiers]
        return Rate(base=Decimal(found.base), steps=steps)
    return Rate(base=found) if isinstance(found, Decimal) else None
