"""OpenCode asks a model in the format that its provider speaks: the contract holds in the other two as well."""

from collections.abc import Mapping
from functools import wraps
from typing import Any

import pytest

from harness_adapters.contract import Harness, HarnessName
from tests.integration.harnesses import test_contract as contract
from tests.integration.harnesses.talk import Talk
from tests.integration.models.conftest import Gateway
from tests.support.harnesses import available

pytestmark = pytest.mark.slow

globals().update({name: test for name, test in vars(contract).items() if name.startswith("test_")})


@pytest.mark.thorough
@wraps(contract.test_a_request_that_fails_is_asked_again)
async def test_a_request_that_fails_is_asked_again(*given: Any, **named: Any) -> None:
    await contract.test_a_request_that_fails_is_asked_again(*given, **named)


@pytest.fixture
def name() -> HarnessName:
    """The harness."""
    return available("opencode")


@pytest.fixture
def harness(all_harnesses: Mapping[str, Harness], name: HarnessName) -> Harness:
    """The harness."""
    return all_harnesses[name]


@pytest.fixture(params=["scripted/x", "scripted/responses-demo"])
def talk(gateway: Gateway, request: pytest.FixtureRequest) -> Talk:
    """A session of an agent whose model speaks Anthropic's Messages, or OpenAI's Responses."""
    return Talk(gateway, request.param)
