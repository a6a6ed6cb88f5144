"""The builtin harness through the gateway, over both wire formats."""

import asyncio
import json
from typing import Any, TypeVar

import pytest
from starlette.responses import Response, StreamingResponse

from controlplane.settings import ModelProvider
from harness_adapters.builtin import BuiltinHarness
from harness_adapters.contract import (
    Answer,
    AnswerText,
    ContextCompacted,
    Harness,
    HarnessEvent,
    HarnessSpec,
    HistoryItem,
    ModelAnswered,
    ModelRequestFailed,
    ModelRequestStarted,
    PreviewStarted,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ToolOutcome,
    ToolUse,
    TurnFinished,
    UserInput,
)
from harness_adapters.toolset import INVALID_INPUT
from tests.integration.models.conftest import Gateway, OpenGateway
from tests.integration.models.fake_provider import fake_provider
from tests.integration.models.test_scripted import script

T = TypeVar("T")

MODELS = pytest.mark.parametrize("model", ["scripted/x", "scripted/openai-demo", "scripted/responses-demo"])


class Hands:
    """A `TurnPort` whose calls wait until all ``parties`` are there; with ``holds`` they never end by themselves."""

    def __init__(self, parties: int = 1, *, holds: bool = False):
        self.called: list[ToolUse] = []
        self.cancelled: list[str] = []
        self.gathered = asyncio.Event()
        self._parties = parties
        self._holds = holds
        self.said: list[list[UserInput]] = []

    async def steering(self) -> list[UserInput]:
        """Return what is said before the next request."""
        return self.said.pop(0) if self.said else []

    async def call(self, use: ToolUse) -> ToolOutcome:
        """Wait for the others and answer."""
        self.called.append(use)
        if len(self.called) >= self._parties:
            self.gathered.set()
        try:
            await (asyncio.Event() if self._holds else self.gathered).wait()
        except asyncio.CancelledError:
            self.cancelled.append(use.event_id)
            raise
        text = f"result of {use.input.get('n')}"
        return ToolOutcome(tool_use_id=use.event_id, content=[TextBlock(text=text)])


def _spec(gateway: Gateway, model: str, **more: Any) -> HarnessSpec:
    return HarnessSpec(
        session_id="s", turn_id="t", model=model, gateway_url=gateway.url, gateway_token=gateway.token, **more
    )


def _asked(*steps: dict[str, Any]) -> list[HistoryItem]:
    return [UserInput(event_id="u", content=[TextBlock(text=script(*steps))])]


async def _run(
    harness: Harness, spec: HarnessSpec, history: list[HistoryItem], hands: Hands | None = None
) -> list[HarnessEvent]:
    return [event async for event in harness.run_turn(spec, history, hands or Hands())]


def _of(events: list[HarnessEvent], kind: type[T]) -> list[T]:
    return [event for event in events if isinstance(event, kind)]


def _tools(*numbers: int) -> list[dict[str, Any]]:
    return [{"name": "t", "input": {"n": number}} for number in numbers]


def _text(events: list[HarnessEvent]) -> str:
    blocks = _of(events, ModelAnswered)[-1].answer.blocks
    return "".join(block.text for block in blocks if isinstance(block, AnswerText))


@MODELS
async def test_text_streams_under_the_id_that_it_is_recorded_with(
    gateway: Gateway, harness: BuiltinHarness, model: str
):
    text = "Grüße, 世界. " * 50
    events = await _run(harness, _spec(gateway, model), _asked({"text": text, "chunk_ms": 1}))
    answered = _of(events, ModelAnswered)[0]
    block = answered.answer.blocks[0]
    deltas = _of(events, TextDelta)
    assert isinstance(events[0], ModelRequestStarted)
    assert events[0].request_id == answered.answer.request_id
    assert isinstance(block, AnswerText) and block.text == text
    assert "".join(delta.text for delta in deltas) == text and len(deltas) > 1
    assert {delta.event_id for delta in deltas} == {block.event_id}
    assert _of(events, PreviewStarted) == [PreviewStarted(event_id=block.event_id, event_type="agent.message")]
    assert answered.usage.input_tokens > 0 and answered.usage.output_tokens == -(-len(text) // 4)
    assert events[-1] == TurnFinished(reason="end_turn")


@MODELS
async def test_tools_run_side_by_side_and_their_results_go_back_in_order(
    gateway: Gateway, harness: BuiltinHarness, model: str
):
    steps = [{"text": "go", "tools": _tools(1, 2, 3)}, {"text": "{{result.1}}, {{result.2}}, {{result.3}}"}]
    hands = Hands(parties=3)
    events = await _run(harness, _spec(gateway, model), _asked(*steps), hands)
    first = _of(events, ModelAnswered)[0]
    assert [use.event_id for use in hands.called] == [
        block.event_id for block in first.answer.blocks if isinstance(block, ToolUse)
    ]
    assert first.stop_reason == "tool_use"
    assert _text(events) == "result of 1, result of 2, result of 3"
    assert isinstance(events[-1], TurnFinished)


async def test_thinking_is_kept_with_its_signature_and_taken_back_by_the_model(
    gateway: Gateway, harness: BuiltinHarness
):
    steps = [{"thinking": "hm, " * 20, "tools": _tools(1)}, {"text": "done"}]
    events = await _run(harness, _spec(gateway, "scripted/x"), _asked(*steps))
    thought = _of(events, ModelAnswered)[0].answer.blocks[0]
    assert isinstance(thought, ThinkingBlock)
    assert thought.text == "hm, " * 20 and (thought.signature or "").startswith("scripted-")
    assert PreviewStarted(event_id=thought.event_id, event_type="agent.thinking") in events
    assert _text(events) == "done"


@MODELS
async def test_a_turn_goes_on_with_the_calls_that_have_no_outcome_yet(
    gateway: Gateway, harness: BuiltinHarness, model: str
):
    uses = [ToolUse(event_id=f"use{n}", name="t", input={"n": n}) for n in (1, 2)]
    done = ToolOutcome(tool_use_id="use1", content=[TextBlock(text="known")])
    asked = _asked({"tools": _tools(1, 2)}, {"text": "{{result.1}}, {{result.2}}"})
    hands = Hands()
    history: list[HistoryItem] = [*asked, Answer(request_id="r", blocks=list(uses)), done]
    events = await _run(harness, _spec(gateway, model), history, hands)
    assert hands.called == [uses[1]]
    assert _text(events) == "known, result of 2"


async def test_a_turn_that_had_come_to_its_end_asks_nobody(harness: BuiltinHarness, gateway: Gateway):
    answer = Answer(request_id="r", blocks=[AnswerText(event_id="e", text="bye")])
    events = await _run(harness, _spec(gateway, "scripted/x"), [*_asked({"text": "x"}), answer])
    assert events == [TurnFinished(reason="end_turn")]


@MODELS
@pytest.mark.parametrize("raw", ['{"n": 1', "[]", "nonsense"])
async def test_arguments_that_are_no_json_reach_the_port_marked_as_such(
    gateway: Gateway, harness: BuiltinHarness, model: str, raw: str
):
    steps = [{"tools": [{"name": "t", "raw_input": raw}]}, {"text": "I see: {{result}}"}]
    hands = Hands()
    events = await _run(harness, _spec(gateway, model), _asked(*steps), hands)
    assert hands.called[0].input == {INVALID_INPUT: raw}
    assert _text(events) == "I see: result of None"


@MODELS
async def test_a_refusal_ends_the_turn_as_one(gateway: Gateway, harness: BuiltinHarness, model: str):
    events = await _run(harness, _spec(gateway, model), _asked({"text": "No.", "stop_reason": "refusal"}))
    assert isinstance(events[-1], TurnFinished) and events[-1].reason == "refusal"


@MODELS
async def test_a_cut_answer_ends_the_turn_and_says_so(gateway: Gateway, harness: BuiltinHarness, model: str):
    events = await _run(harness, _spec(gateway, model), _asked({"text": "and th", "stop_reason": "max_tokens"}))
    assert isinstance(events[-1], TurnFinished)
    assert events[-1].reason == "end_turn" and "cut" in (events[-1].message or "")


FAILURES = [
    ({"status": 429, "retry_after_seconds": 0}, "rate_limited"),
    ({"status": 529}, "overloaded"),
    ({"status": 500}, "unknown"),
    ({"after_chunks": 2}, "interrupted_stream"),
    ({"after_chunks": 2, "status": 529}, "overloaded"),
    ({"after_chunks": 1, "hang_seconds": 2}, "interrupted_stream"),
    ({"hang_seconds": 2}, "interrupted_stream"),
]


@MODELS
@pytest.mark.parametrize(("fail", "kind"), FAILURES)
async def test_a_failed_request_is_asked_again_with_ids_of_its_own(
    gateway: Gateway, harness: BuiltinHarness, model: str, fail: dict[str, Any], kind: str
):
    if kind == "overloaded" and "openai" in model and "after_chunks" in fail:
        fail = {**fail, "status": 503}
    steps = [{"text": "a text of several pieces, all told", "chunk_chars": 8, "fail": fail}]
    events = await _run(harness, _spec(gateway, model), _asked(*steps))
    failed = _of(events, ModelRequestFailed)
    started = [event.request_id for event in _of(events, ModelRequestStarted)]
    previews = [event.event_id for event in _of(events, PreviewStarted)]
    assert [event.kind for event in failed] == [kind]
    assert failed[0].retry_in_seconds is not None
    assert ("silent" in failed[0].message) == ("hang_seconds" in fail)
    assert len(set(started)) == 2 and failed[0].request_id == started[0]
    assert len(set(previews)) == len(previews)
    assert _text(events) == "a text of several pieces, all told"
    assert events[-1] == TurnFinished(reason="end_turn")


@MODELS
@pytest.mark.parametrize(
    ("fail", "kind"),
    [
        ({"status": 400}, "invalid_request"),
        ({"status": 401}, "authentication"),
        ({"status": 402}, "billing"),
        ({"status": 400, "message": "prompt is too long: 9 tokens > 8 maximum"}, "context_window"),
    ],
)
async def test_a_failure_that_asking_again_cannot_mend_ends_the_turn(
    gateway: Gateway, harness: BuiltinHarness, model: str, fail: dict[str, Any], kind: str
):
    events = await _run(harness, _spec(gateway, model), _asked({"text": "x", "fail": fail}))
    failed = _of(events, ModelRequestFailed)
    assert [(event.kind, event.retry_in_seconds) for event in failed] == [(kind, None)]
    assert events[-1] == TurnFinished(reason="failed", message=failed[0].message)


async def test_after_its_last_attempt_the_turn_fails(gateway: Gateway, harness: BuiltinHarness):
    fail = {"status": 529, "times": 99}
    events = await _run(harness, _spec(gateway, "scripted/x"), _asked({"text": "x", "fail": fail}))
    waits = [event.retry_in_seconds for event in _of(events, ModelRequestFailed)]
    assert len(waits) == 5 and waits[-1] is None and None not in waits[:-1]
    assert isinstance(events[-1], TurnFinished) and events[-1].reason == "failed"


async def test_the_limit_of_model_requests_ends_the_turn(gateway: Gateway, harness: BuiltinHarness):
    steps = [{"tools": _tools(n)} for n in range(9)]
    events = await _run(harness, _spec(gateway, "scripted/x", max_model_requests=3), _asked(*steps))
    assert len(_of(events, ModelRequestStarted)) == 3
    assert isinstance(events[-1], TurnFinished) and events[-1].reason == "limit"


async def test_a_model_that_nobody_serves_fails_the_turn_with_what_to_set(gateway: Gateway, harness: BuiltinHarness):
    events = await _run(harness, _spec(gateway, "gpt-5"), _asked({"text": "x"}))
    assert isinstance(events[0], ModelRequestStarted)
    assert isinstance(events[-1], TurnFinished) and "OPENAI_API_KEY" in (events[-1].message or "")


async def test_a_gateway_that_is_not_there_is_tried_again_and_then_reported(
    gateway: Gateway, harness: BuiltinHarness
):
    spec = _spec(gateway, "scripted/x").model_copy(update={"gateway_url": "http://127.0.0.1:9"})
    events = await _run(harness, spec, _asked({"text": "x"}))
    assert [event.kind for event in _of(events, ModelRequestFailed)] == ["unreachable"] * 5


async def test_a_token_of_an_ended_turn_fails_at_once(gateway: Gateway, harness: BuiltinHarness):
    await gateway.end_turn()
    events = await _run(harness, _spec(gateway, "scripted/x"), _asked({"text": "x"}))
    assert [event.kind for event in _of(events, ModelRequestFailed)] == ["authentication"]


@pytest.mark.parametrize(
    "body",
    [
        b"data: {not json\n\n",
        b"data: []\n\n",
        b'data: {"type": "content_block_start"}\n\n',
        b'data: {"type": "content_block_start", "index": 0, "content_block": 5}\n\n',
        b"<html>hello</html>",
        b"",
    ],
)
async def test_a_garbled_stream_counts_as_interrupted(
    open_gateway: OpenGateway, harness: BuiltinHarness, body: bytes
):
    async with fake_provider(Response(body, media_type="text/event-stream")) as fake:
        provider = ModelProvider(format="anthropic", base_url=fake.url, models=["*"])
        async with open_gateway({"fake": provider}) as gateway:
            events = await _run(harness, _spec(gateway, "m"), _asked({"text": "x"}))
    assert [event.kind for event in _of(events, ModelRequestFailed)] == ["interrupted_stream"] * 5


async def test_what_a_tool_port_raises_comes_out_and_the_other_calls_are_cancelled(
    gateway: Gateway, harness: BuiltinHarness
):
    class Superseded(Exception):
        pass

    class OneFails(Hands):
        async def call(self, use: ToolUse) -> ToolOutcome:
            if use.input["n"] == 2:
                raise Superseded
            return await super().call(use)

    hands = OneFails(parties=99)
    with pytest.raises(Superseded):
        await _run(harness, _spec(gateway, "scripted/x"), _asked({"tools": _tools(1, 2)}), hands)
    assert hands.cancelled == [use.event_id for use in hands.called]


async def test_what_steers_is_part_of_the_next_request(gateway: Gateway, harness: BuiltinHarness):
    hands = Hands()
    steer = UserInput(event_id="sevt_steer", content=[TextBlock(text=script({"text": "steered"}))])
    hands.said = [[], [steer]]
    events = await _run(
        harness, _spec(gateway, "scripted/x"), _asked({"tools": _tools(1)}, {"text": "unsteered"}), hands
    )
    answers = [event.answer for event in events if isinstance(event, ModelAnswered)]
    assert [block.text for block in answers[-1].blocks if isinstance(block, AnswerText)] == ["steered"]


async def test_cancelling_during_tools_cancels_them(gateway: Gateway, harness: BuiltinHarness):
    hands = Hands(parties=2, holds=True)
    turn = asyncio.create_task(_run(harness, _spec(gateway, "scripted/x"), _asked({"tools": _tools(1, 2)}), hands))
    await hands.gathered.wait()
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    assert len(hands.cancelled) == 2


async def test_closing_during_a_stream_ends_the_request_upstream(open_gateway: OpenGateway, harness: BuiltinHarness):
    closed = asyncio.Event()

    async def endless() -> Any:
        text = {"type": "text_delta", "text": "x"}
        block = {"type": "text", "text": ""}
        yield _frame({"type": "content_block_start", "index": 0, "content_block": block})
        try:
            while True:
                yield _frame({"type": "content_block_delta", "index": 0, "delta": text})
                await asyncio.sleep(0.01)
        finally:
            closed.set()

    async with fake_provider(StreamingResponse(endless())) as fake:
        provider = ModelProvider(format="anthropic", base_url=fake.url, models=["*"])
        async with open_gateway({"fake": provider}) as gateway:
            events = harness.run_turn(_spec(gateway, "m"), _asked({"text": "x"}), Hands())
            async for event in events:
                if isinstance(event, TextDelta):
                    break
            await events.aclose()
            await asyncio.wait_for(closed.wait(), 10)


def _frame(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


def _long_ago(tokens: int) -> list[HistoryItem]:
    """An older part of the conversation."""
    told = UserInput(event_id="old", content=[TextBlock(text="word" * tokens)])
    return [told, Answer(request_id="r", blocks=[AnswerText(event_id="a", text="heard")])]


@MODELS
async def test_a_context_that_grows_too_large_is_summarized_before_the_next_request(
    gateway: Gateway, harness: BuiltinHarness, model: str
):
    history = [*_long_ago(3000), *_asked({"text": "go", "tools": _tools(1)}, {"text": "after {{result}}"})]
    events = await _run(harness, _spec(gateway, model, compact_above_tokens=2000), history, Hands())
    compacted = _of(events, ContextCompacted)
    assert [(each.kept_from, each.tokens_before > 3000) for each in compacted] == [("u", True)]
    assert compacted[0].summary.startswith("Notes on")
    assert compacted[0].usage.input_tokens > 0
    assert [type(event) for event in events[:3]] == [ModelRequestStarted, ContextCompacted, ModelRequestStarted]
    assert _text(events) == "after result of 1"


@MODELS
async def test_a_context_that_the_provider_refuses_is_summarized_and_the_request_made_again(
    gateway: Gateway, harness: BuiltinHarness, model: str
):
    fail = {"status": 400, "message": "prompt is too long: 300000 tokens > 200000 maximum"}
    history = [*_long_ago(10), *_asked({"text": f"fits now ({model})", "fail": fail})]
    events = await _run(harness, _spec(gateway, model), history)
    failed = _of(events, ModelRequestFailed)
    assert [(each.kind, each.retry_in_seconds) for each in failed] == [("context_window", 0)]
    assert len(_of(events, ContextCompacted)) == 1
    assert _text(events) == f"fits now ({model})"


async def test_a_context_that_cannot_be_made_smaller_fails_with_that_reason(
    gateway: Gateway, harness: BuiltinHarness
):
    fail = {"status": 400, "message": "prompt is too long", "times": 9}
    history = [*_long_ago(10), *_asked({"text": "never fits", "fail": fail})]
    events = await _run(harness, _spec(gateway, "scripted/x"), history)
    assert [each.kind for each in _of(events, ModelRequestFailed)] == ["context_window"] * 2
    assert len(_of(events, ContextCompacted)) == 1
    last = events[-1]
    assert isinstance(last, TurnFinished)
    assert last.reason == "failed"
