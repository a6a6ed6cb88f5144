"""Which provider a model's name leads to."""

import pytest

from controlplane.models.routing import Router
from controlplane.settings import ModelProvider


def _provider(*models: str) -> ModelProvider:
    return ModelProvider(format="openai", base_url="http://127.0.0.1:1", models=list(models))


ROUTER = Router(
    {
        "openai": _provider("gpt-*", "openai/*", "o[0-9]*"),
        "relay": _provider("anthropic/*", "relay/*", "gpt-*"),
        "own": _provider("gpt-oss*", "own"),
    }
)


@pytest.mark.parametrize(
    ("model", "provider", "upstream"),
    [
        ("o3-mini", "openai", "o3-mini"),
        ("openai/gpt-5", "openai", "gpt-5"),
        ("relay/openai/gpt-5", "relay", "openai/gpt-5"),
        ("anthropic/claude", "relay", "anthropic/claude"),
        ("gpt-oss-20b", "own", "gpt-oss-20b"),
        ("gpt-5", "relay", "gpt-5"),
        ("own", "own", "own"),
    ],
)
def test_the_longest_pattern_wins_and_only_a_providers_own_prefix_is_taken_off(
    model: str, provider: str, upstream: str
):
    route = ROUTER.route(model)
    assert route is not None
    assert (route.provider, route.upstream_model) == (provider, upstream)


@pytest.mark.parametrize("model", ["", "claude", "GPT-5", "ownership"])
def test_other_names_lead_nowhere(model: str):
    assert ROUTER.route(model) is None
    assert repr(model) in ROUTER.unserved(model)
