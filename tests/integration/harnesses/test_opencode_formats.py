"""OpenCode asks a model in the format that its provider speaks: the contract holds in the other two as well."""

from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import Any

import pytest

from harness_adapters.contract import Harness, HarnessName
from tests.integration.harnesses import test_contract as contract
from tests.integration.harnesses.talk import Talk
from tests.integration.models.conftest import Gateway
from tests.support.harnesses import available

pytestmark = pytest.mark.slow

ABOUT_FORMAT = (
    "test_text_streams_under_the_id_that_it_is_recorded_with",
    "test_tools_of_one_answer_run_side_by_side",
    "test_a_tool_that_fails_is_told_to_the_model",
    "test_thinking_is_kept_and_goes_back",
    "test_a_session_is_opened_from_its_log_alone",
    "test_an_interrupted_turn_leaves_nothing_and_the_next_goes_on",
)
"""What a format has most to do with; the others run in `make soak` only."""


def again(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Return the same test as one of this module, which may have marks of its own."""

    @wraps(test)
    async def run(*given: Any, **named: Any) -> None:
        await test(*given, **named)

    return run if test.__name__ in ABOUT_FORMAT else pytest.mark.thorough(run)


globals().update({name: again(test) for name, test in vars(contract).items() if name.startswith("test_")})


@pytest.fixture
def name() -> HarnessName:
    """The harness."""
    return available("opencode")


@pytest.fixture
def harness(all_harnesses: Mapping[str, Harness], name: HarnessName) -> Harness:
    """The harness."""
    return all_harnesses[name]


@pytest.fixture(params=[pytest.param("scripted/x", marks=pytest.mark.thorough), "scripted/responses-demo"])
def talk(gateway: Gateway, request: pytest.FixtureRequest) -> Talk:
    """A session of an agent whose model speaks Anthropic's Messages, or OpenAI's Responses."""
    return Talk(gateway, request.param)
