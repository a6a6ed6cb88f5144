from decimal import Decimal

import pytest
from genai_prices import Usage as ListUsage
from genai_prices import calc_price

from controlplane.prices import Price, Rate, Step, listed
from harness_adapters.contract import Usage

MODELS = [
    ("anthropic", "claude-sonnet-4-5"),
    ("anthropic", "claude-opus-4-1"),
    ("anthropic", "claude-3-haiku-20240307"),
    ("openai", "gpt-5"),
    ("openai", "gpt-4o-mini"),
    ("openai", "o3"),
]
USAGES = [
    Usage(input_tokens=1200, output_tokens=340),
    Usage(input_tokens=3, output_tokens=5000, cache_read_input_tokens=90_000, cache_creation_input_tokens=12_000),
    Usage(input_tokens=250_000, output_tokens=10, cache_read_input_tokens=1),
]


@pytest.mark.parametrize("usage", USAGES)
@pytest.mark.parametrize(("provider", "model"), MODELS)
def test_a_request_costs_what_the_list_says(provider: str, model: str, usage: Usage) -> None:
    price = listed(provider, model)
    assert price is not None
    counted = ListUsage(
        input_tokens=usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_input_tokens,
        cache_write_tokens=usage.cache_creation_input_tokens,
    )
    assert price.cost_usd(usage) == calc_price(counted, model, provider_id=provider).total_price


def test_a_price_keeps_its_value_through_json() -> None:
    price = listed("anthropic", "claude-sonnet-4-5")
    assert price is not None
    assert Price.model_validate(price.model_dump(mode="json")) == price


def test_what_nobody_lists_has_no_price() -> None:
    assert listed("anthropic", "made-up") is None
    assert listed("my-own", "claude-sonnet-4-5") is None
    assert listed("scripted", "scripted/demo") is None


def test_a_step_replaces_the_rate_of_all_tokens() -> None:
    rate = Rate(base=Decimal(2), steps=[Step(above_tokens=100, rate=Decimal(4))])
    price = Price(input=rate, output=Rate(base=Decimal(0)))
    assert price.cost_usd(Usage(input_tokens=100)) * 1_000_000 == 200
    assert price.cost_usd(Usage(input_tokens=50, cache_read_input_tokens=51)) * 1_000_000 == 404
