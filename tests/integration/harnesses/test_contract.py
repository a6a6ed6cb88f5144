"""What every harness does alike; each test runs with all of them, on their real programs."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from controlplane.models.listening import listening
from controlplane.models.scripted import create_scripted, scripted_providers
from harness_adapters.contract import (
    AnswerText,
    ContextCompacted,
    Harness,
    HarnessName,
    ModelAnswered,
    ModelRequestFailed,
    ModelRequestStarted,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ToolOutcome,
    ToolUse,
    TurnFinished,
    UserInput,
)
from harness_adapters.driven.pool import SETTLE_SECONDS
from tests.integration.harnesses.recorder import Recorder
from tests.integration.harnesses.talk import Hands, Talk, of, said, script, text, uses
from tests.integration.models.conftest import SCRIPTED, OpenGateway
from tests.support.harnesses import MODELS

pytestmark = pytest.mark.slow

END = TurnFinished(reason="end_turn")
_IN_CI = (
    "test_an_interrupted_turn_leaves_nothing_and_the_next_goes_on",
    "test_a_session_is_opened_from_its_log_alone",
)
_in_both_modes: list[Callable[..., Awaitable[None]]] = []


@pytest.fixture
def mode() -> str:
    """A process that sessions share."""
    return "inline"


@pytest.fixture
def talk(talk: Talk, mode: str) -> Talk:
    """A session in a process of that mode."""
    talk.more["mode"] = mode
    return talk


def alike(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Try it in a process of the session's own as well: for what depends on a process's start or end."""
    _in_both_modes.append(test)
    return test


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is `alike` in both modes, here; elsewhere the mode is another's choice."""
    if metafunc.function in _in_both_modes:
        isolated = [] if metafunc.function.__name__ in _IN_CI else [pytest.mark.thorough]
        metafunc.parametrize("mode", ["inline", pytest.param("isolated", marks=isolated)])


@alike
async def test_text_streams_under_the_id_that_it_is_recorded_with(talk: Talk, harness: Harness):
    words = "Grüße, 世界. " * 30
    talk.say(script({"text": words, "chunk_ms": 1}))
    events = await talk.turn(harness)
    block = of(events, ModelAnswered)[0].answer.blocks[0]
    deltas = of(events, TextDelta)
    assert isinstance(events[0], ModelRequestStarted)
    assert isinstance(block, AnswerText) and block.text == words
    assert "".join(delta.text for delta in deltas) == words
    assert {delta.event_id for delta in deltas} == {block.event_id}
    assert events[-1] == END


@alike
async def test_a_conversation_goes_on(talk: Talk, harness: Harness, recorder: Recorder):
    for n in range(3):
        talk.say(script({"text": f"answer {n}"}))
        began = time.monotonic()
        events = await talk.turn(harness)
        assert text(events) == f"answer {n}" and events[-1] == END
        assert len(of(events, ModelRequestStarted)) == 1
        assert n == 0 or time.monotonic() - began < SETTLE_SECONDS, "it did not say that its turn had ended"
    sent = json.dumps(recorder.bodies[-1])
    assert all(sent.count(f"answer {n}") == 2 for n in range(2)), "in the scripts, and as what the model answered"


async def test_thinking_is_kept_and_goes_back(talk: Talk, harness: Harness, recorder: Recorder):
    if talk.model == "scripted/openai-demo":
        talk.model = "scripted/x"  # Chat Completions do not carry thoughts.
    talk.say(script({"thinking": "hm", "text": "so", "tools": uses({"n": 1})}, {"text": "then"}))
    events = await talk.turn(harness)
    assert text(events) == "then"
    thoughts = [block for block in of(events, ModelAnswered)[0].answer.blocks if isinstance(block, ThinkingBlock)]
    assert [thought.text for thought in thoughts] == ["hm"] and thoughts[0].signature
    assert thoughts[0].signature in json.dumps(recorder.bodies[-1])


@pytest.mark.parametrize("count", [1, 10])
async def test_tools_are_called_one_after_another(talk: Talk, harness: Harness, count: int):
    steps = [{"tools": uses({"n": n})} for n in range(count)]
    talk.say(script(*steps, {"text": "at last: {{result}}"}))
    hands = Hands()
    events = await talk.turn(harness, hands)
    assert [use.input for use in hands.called] == [{"n": n} for n in range(count)]
    assert text(events) == f"at last: did {count - 1}" and events[-1] == END


@alike
async def test_tools_of_one_answer_run_side_by_side(talk: Talk, harness: Harness):
    together = asyncio.Barrier(3)

    async def wait(use: ToolUse) -> str:
        await together.wait()
        return f"did {use.input['n']}"

    talk.say(
        script({"tools": uses(*({"n": n} for n in range(3)))}, {"text": "{{result.1}}, {{result.2}}, {{result.3}}"})
    )
    events = await talk.turn(harness, Hands(wait))
    assert text(events) == "did 0, did 1, did 2"


async def test_a_tool_that_fails_is_told_to_the_model(talk: Talk, harness: Harness):
    def fail(use: ToolUse) -> ToolOutcome:
        return ToolOutcome(tool_use_id=use.event_id, content=[TextBlock(text="no such file")], is_error=True)

    talk.say(script({"tools": uses({"n": 1})}, {"text": "it said: {{result}}"}))
    assert "no such file" in text(await talk.turn(harness, Hands(fail)))


@alike
async def test_the_longest_prompt_arrives_and_no_neighbour_reads_it(talk: Talk, harness: Harness, recorder: Recorder):
    talk.more["compact_above_tokens"] = 10_000_000
    talk.system = ("A prompt of many words. " + '"ü\\\n世' * 20_000)[:100_000]
    for n in range(2):
        talk.say(script({"text": f"answer {n}"}))
        assert text(await talk.turn(harness)) == f"answer {n}"
        assert json.dumps(talk.system)[1:-1] in json.dumps(recorder.bodies[-1])
        assert not [command for command in _commands() if b"A prompt of many words" in command]
        talk.session_id = f"{talk.session_id}-moved"


async def test_a_large_result_arrives(talk: Talk, harness: Harness):
    talk.more["compact_above_tokens"] = 10_000_000
    talk.say(script({"tools": uses({"n": 1})}, {"text": "{{result}}"}))
    events = await talk.turn(harness, Hands(lambda _: "head " + "x" * 5_000_000 + " tail"))
    assert text(events).startswith("head xxx") and events[-1] == END


async def test_unicode_and_nul(talk: Talk, harness: Harness):
    talk.say(script({"text": "a\0b 😀", "tools": uses({"n": 1, "text": "é\u2028"})}, {"text": "{{result}}"}))
    hands = Hands(lambda _: "ü 😀 \u2028 end")
    events = await talk.turn(harness, hands)
    assert said(of(events, ModelAnswered)[0].answer) == "a\ufffdb 😀"
    assert hands.called[0].input == {"n": 1, "text": "é\u2028"}
    assert text(events) == "ü 😀 \u2028 end"


@alike
async def test_a_call_that_waits_parks_the_turn_and_goes_on_from_the_log(talk: Talk, harness: Harness):
    talk.say(script({"tools": uses({"n": 1}, {"n": 2})}, {"text": "{{result.1}} and {{result.2}}"}))
    hands = Hands(lambda use: None if use.input["n"] == 2 else "one")
    events = await asyncio.wait_for(talk.turn(harness, hands), 30)
    assert events[-1] == TurnFinished(reason="parked")
    events = await talk.turn(harness, Hands(lambda _: "two"))
    assert text(events) == "one and two" and events[-1] == END


async def test_what_is_said_meanwhile_goes_in_before_the_next_request(talk: Talk, harness: Harness):
    talk.say(script({"tools": uses({"n": 1})}, {"text": "never said"}))
    steer = UserInput(event_id="steer", content=[TextBlock(text=script({"text": "steered"}))])
    events = await talk.turn(harness, Hands(said=[[], [steer]]))
    assert text(events) == "steered" and events[-1] == END


@alike
@pytest.mark.parametrize("during", ["streaming", "tool"])
async def test_an_interrupted_turn_leaves_nothing_and_the_next_goes_on(talk: Talk, harness: Harness, during: str):
    hands = Hands(lambda _: asyncio.sleep(60))
    if during == "streaming":
        talk.say(script({"text": "word " * 400, "chunk_ms": 50}))
        await asyncio.wait_for(talk.turn(harness, hands, until=lambda event: isinstance(event, TextDelta)), 20)
    else:
        talk.say(script({"tools": uses({"n": 1})}, {"text": "x"}))
        turn = asyncio.create_task(talk.turn(harness, hands))
        while not hands.called:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        turn.cancel()
        await asyncio.wait({turn}, timeout=5)
        assert turn.done() and hands.cancelled == [hands.called[0].event_id]
        use = hands.called[0]
        stopped = ToolOutcome(tool_use_id=use.event_id, content=[TextBlock(text="[interrupted]")], is_error=True)
        talk.history.append(stopped)
    talk.say(script({"text": "next"}))
    events = await talk.turn(harness)
    assert text(events) == "next" and events[-1] == END


@pytest.mark.parametrize(
    ("fail", "kind"),
    [
        ({"status": 429, "retry_after_seconds": 0.01}, "rate_limited"),
        ({"status": 500}, "unknown"),
        ({"after_chunks": 1}, "interrupted_stream"),
        ({"after_chunks": 1, "status": 529}, "overloaded"),
        pytest.param({"hang_seconds": 4}, "interrupted_stream", marks=pytest.mark.thorough),
        ({"after_chunks": 1, "hang_seconds": 4}, "interrupted_stream"),
        pytest.param({"garbage": True}, "interrupted_stream", marks=pytest.mark.thorough),
        ({"after_chunks": 1, "garbage": True}, "interrupted_stream"),
    ],
)
async def test_a_request_that_fails_is_asked_again(
    talk: Talk, harness: Harness, fail: dict[str, object], kind: str, name: str
):
    talk.say(script({"text": f"in the end, {name} {kind}", "fail": {"times": 2, **fail}}))
    events = await talk.turn(harness)
    assert [event.kind for event in of(events, ModelRequestFailed)] == [kind, kind]
    assert text(events).startswith("in the end") and events[-1] == END


def _budget(tokens: int) -> dict[str, object]:
    return {"type": "limit", "max_list_cost": {"amount": "100", "currency": "USD"}, "max_tokens": tokens}


async def test_a_budget_that_is_spent_ends_the_turn_and_raising_it_lets_it_go_on(
    open_gateway: OpenGateway, harness: Harness, name: HarnessName
):
    async with (
        listening(create_scripted()) as url,
        open_gateway(scripted_providers(url), models=SCRIPTED, budget=_budget(10)) as gateway,
    ):
        talk = Talk(gateway, MODELS[name])
        talk.say(script({"tools": uses({"n": 1})}, {"text": "end: {{result}}"}))
        hands = Hands()
        events = await talk.turn(harness, hands)
        assert [failed.kind for failed in of(events, ModelRequestFailed)] == ["budget_reached"]
        assert isinstance(events[-1], TurnFinished) and events[-1].reason == "failed"
        assert len(of(events, ModelAnswered)) == 1 and [use.input for use in hands.called] == [{"n": 1}]
        await gateway.set_budget(_budget(1_000_000))
        events = await talk.turn(harness, hands)
        assert text(events) == "end: did 1" and events[-1] == END and len(hands.called) == 1


@alike
async def test_a_request_that_is_refused_for_good_ends_the_turn(talk: Talk, harness: Harness):
    talk.say(script({"text": "x", "fail": {"status": 400, "message": "not like this", "times": 9}}))
    events = await talk.turn(harness)
    assert isinstance(events[-1], TurnFinished) and events[-1].reason == "failed"
    assert "not like this" in (events[-1].message or "")
    talk.say(script({"text": "again"}))
    assert text(await talk.turn(harness)) == "again"


async def test_a_model_that_nobody_serves_ends_the_turn(talk: Talk, harness: Harness):
    served, talk.model = talk.model, "nobody-9"
    talk.say(script({"text": "x"}))
    events = await talk.turn(harness)
    assert [event.kind for event in of(events, ModelRequestFailed)] == ["invalid_request"]
    assert isinstance(events[-1], TurnFinished) and events[-1].reason == "failed"
    assert "no provider serves the model 'nobody-9'" in (events[-1].message or "")
    talk.model = served
    talk.say(script({"text": "again"}))
    assert text(await talk.turn(harness)) == "again"


async def test_a_context_that_is_too_large_is_compacted(talk: Talk, harness: Harness):
    for n in range(3):
        talk.say(f"{'x' * 8000}\n" + script({"text": f"answer {n}"}))
        await talk.turn(harness)
    talk.more["compact_above_tokens"] = 3000
    talk.say(script({"text": "short again"}))
    events = await talk.turn(harness)
    assert len(of(events, ContextCompacted)) == 1
    assert text(events) == "short again" and events[-1] == END
    talk.say(script({"text": "and on"}))
    assert text(await talk.turn(harness)) == "and on"


@alike
async def test_a_session_is_opened_from_its_log_alone(talk: Talk, harness: Harness):
    talk.say(script({"thinking": "hm", "text": "a", "tools": uses({"n": 1}, {"n": 2})}, {"text": "b"}))
    await talk.turn(harness)
    elsewhere = Talk(talk.gateway, talk.model, history=list(talk.history))
    elsewhere.say(script({"text": "c", "tools": uses({"n": 3})}, {"text": "{{result}}"}))
    events = await elsewhere.turn(harness)
    assert text(events) == "did 3" and events[-1] == END


async def test_the_limit_of_requests_ends_the_turn(talk: Talk, harness: Harness):
    talk.more["max_model_requests"] = 2
    talk.say(script(*({"tools": uses({"n": n})} for n in range(5)), {"text": "x"}))
    events = await talk.turn(harness)
    assert isinstance(events[-1], TurnFinished) and events[-1].reason == "limit"


def _commands() -> list[bytes]:
    """Return what anybody on the machine can read of its processes."""
    found: list[bytes] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(path.read_bytes())
    return found
