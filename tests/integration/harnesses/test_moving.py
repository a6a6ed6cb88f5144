"""A session that moves from one harness to another between two turns, for every ordered pair."""

import itertools
from collections.abc import Mapping

import pytest

from harness_adapters.contract import Harness, HarnessEvent, ModelAnswered, ThinkingBlock, TurnFinished
from tests.integration.harnesses.talk import Hands, Talk, of, script, text, uses
from tests.integration.models.conftest import Gateway
from tests.support.harnesses import MODELS, WITH_THE_EXAMPLE, available

pytestmark = pytest.mark.slow

_NEXT = dict(itertools.pairwise([*WITH_THE_EXAMPLE, WITH_THE_EXAMPLE[0]]))
PAIRS = [
    pytest.param(*pair, marks=[] if pair in _NEXT.items() else [pytest.mark.thorough])
    for pair in itertools.permutations(WITH_THE_EXAMPLE, 2)
]
"""In CI from each to the next, and from the last to the first."""


@pytest.mark.parametrize(("before", "after"), PAIRS)
async def test_a_session_moves_with_its_whole_transcript(
    gateway: Gateway, all_harnesses: Mapping[str, Harness], before: str, after: str
):
    talk = Talk(gateway, MODELS[available(before)])
    available(after)
    talk.say(script({"thinking": "hm", "text": "one", "tools": uses({"n": 1}, {"n": 2})}, {"text": "{{result.2}}"}))
    first = await talk.turn(all_harnesses[before])
    assert text(first) == "did 2"

    talk.model = MODELS[after]
    message = script({"text": "two", "tools": uses({"n": 3})}, {"text": "{{result.1}}"})
    stranger = Talk(gateway, talk.model)
    stranger.say(message)
    without = await stranger.turn(all_harnesses[after])
    talk.say(message)
    hands = Hands()
    second = await talk.turn(all_harnesses[after], hands)
    assert text(second) == "did 3" and [use.input for use in hands.called] == [{"n": 3}]
    assert second[-1] == TurnFinished(reason="end_turn")
    assert _tokens(second) > _tokens(without), "the model was shown what the other harness did"

    talk.model = MODELS[before]
    talk.say(script({"text": "back again"}))
    third = await talk.turn(all_harnesses[before])
    assert text(third) == "back again"
    thoughts = [b for item in talk.history for b in getattr(item, "blocks", []) if isinstance(b, ThinkingBlock)]
    assert len(thoughts) <= 1


def _tokens(events: list[HarnessEvent]) -> int:
    return of(events, ModelAnswered)[0].usage.input_tokens
