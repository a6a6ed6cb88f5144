"""What an answer used, however its bytes are cut."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness_adapters.contract import Usage, WireFormat
from harness_adapters.model.meter import Meter

FORMATS: tuple[WireFormat, ...] = ("anthropic", "openai", "openai-responses")
counts = st.integers(0, 10**6)
texts = st.text(max_size=30) | st.sampled_from(
    ['"usage": {"output_tokens": 9}', "message_stop", "error", "data: [DONE]\n\n", "response.completed", "é\u2028"]
)


def sse(said: list[dict[str, Any] | str], *, newline: str, spaced: bool, ascii_only: bool) -> bytes:
    separators = (", ", ": ") if spaced else (",", ":")
    lines: list[str] = []
    for each in said:
        data = each if isinstance(each, str) else json.dumps(each, separators=separators, ensure_ascii=ascii_only)
        lines += [": a comment", "event: x", f"data: {data}", ""]
    return (newline.join(lines) + newline).encode("utf-8", "surrogatepass")


@st.composite
def answers(draw: st.DrawFn) -> tuple[WireFormat, bool, bytes, Usage]:
    """An answer of any format, streamed or whole, and what it used."""
    wire_format = draw(st.sampled_from(FORMATS))
    fresh, read, written, output = (draw(counts) for _ in range(4))
    usage = Usage(
        input_tokens=fresh,
        cache_read_input_tokens=read,
        cache_creation_input_tokens=written,
        output_tokens=output + 1,
        reasoning_tokens=draw(counts),
    )
    streamed = draw(st.booleans())
    said = events_of(wire_format, usage, draw(st.lists(texts, max_size=5)))
    if not streamed:
        return wire_format, False, json.dumps(whole_of(wire_format, usage)).encode(), usage
    body = sse(
        said,
        newline=draw(st.sampled_from(["\n", "\r\n"])),
        spaced=draw(st.booleans()),
        ascii_only=draw(st.booleans()),
    )
    return wire_format, True, body, usage


def told(wire_format: WireFormat, usage: Usage) -> dict[str, Any]:
    """Usage as a provider of a format tells it."""
    if wire_format == "anthropic":
        thought = {"thinking_tokens": usage.reasoning_tokens}
        return {**usage.model_dump(exclude={"reasoning_tokens"}), "output_tokens_details": thought}
    into, out = ("prompt", "completion") if wire_format == "openai" else ("input", "output")
    cached = {"cached_tokens": usage.cache_read_input_tokens, "cache_write_tokens": usage.cache_creation_input_tokens}
    return {
        f"{into}_tokens": usage.input_tokens + sum(cached.values()),
        f"{out}_tokens": usage.output_tokens,
        f"{into}_tokens_details": cached,
        f"{out}_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def whole_of(wire_format: WireFormat, usage: Usage) -> dict[str, Any]:
    kinds: dict[WireFormat, dict[str, Any]] = {
        "anthropic": {"type": "message"},
        "openai": {"object": "chat.completion", "choices": []},
        "openai-responses": {"object": "response", "status": "incomplete"},
    }
    return {**kinds[wire_format], "usage": told(wire_format, usage)}


def events_of(wire_format: WireFormat, usage: Usage, said: list[str]) -> list[dict[str, Any] | str]:
    whole = told(wire_format, usage)
    if wire_format == "anthropic":
        early = {**whole, "output_tokens": 1}
        deltas = [{"type": "content_block_delta", "delta": {"type": "text_delta", "text": each}} for each in said]
        late = {"output_tokens": usage.output_tokens}
        return [
            {"type": "message_start", "message": {"usage": early}},
            *deltas,
            {"type": "message_delta", "delta": {}, "usage": late},
            {"type": "message_stop"},
        ]
    if wire_format == "openai":
        pieces = [{"choices": [{"delta": {"content": each}, "finish_reason": None}], "usage": None} for each in said]
        return [
            *pieces,
            {"choices": [{"delta": {}, "finish_reason": "stop"}]},
            {"choices": [], "usage": whole},
            "[DONE]",
        ]
    pieces = [{"type": "response.output_text.delta", "delta": each} for each in said]
    return [*pieces, {"type": "response.completed", "response": {"usage": whole}}]


@given(answer=answers(), cuts=st.lists(st.integers(0, 4000), max_size=40))
def test_any_cutting_gives_the_same_usage(answer: tuple[WireFormat, bool, bytes, Usage], cuts: list[int]) -> None:
    wire_format, streamed, body, usage = answer
    meter = Meter(wire_format, streamed=streamed)
    places = sorted({min(cut, len(body)) for cut in cuts} | {0, len(body)})
    for start, end in itertools.pairwise(places):
        meter.feed(body[start:end])
    meter.finish()
    assert (meter.usage, meter.ending) == (usage, "whole")


@given(answer=answers(), lost=st.integers(1, 5000))
def test_a_stream_without_its_end_is_not_whole(answer: tuple[WireFormat, bool, bytes, Usage], lost: int) -> None:
    wire_format, streamed, body, _ = answer
    meter = Meter(wire_format, streamed=streamed)
    end = {"anthropic": b'"message_stop"', "openai": b'"finish_reason"', "openai-responses": b'"response.completed"'}
    kept = body[: body.rfind(end[wire_format])] if streamed else body[:-1]
    meter.feed(kept[: max(0, len(kept) - lost)])
    meter.finish()
    assert meter.ending is None


@given(wire_format=st.sampled_from(FORMATS), streamed=st.booleans(), body=st.binary(max_size=300))
def test_nothing_that_a_provider_says_breaks_it(wire_format: WireFormat, streamed: bool, body: bytes) -> None:
    meter = Meter(wire_format, streamed=streamed, counts_text=True)
    meter.feed(body)
    meter.finish()
    assert meter.usage is None


NUMBERS = st.none() | st.booleans() | st.integers(-(10**30), -1) | st.integers(2**41, 10**30) | st.text(max_size=5)


@given(wire_format=st.sampled_from(FORMATS), value=NUMBERS)
def test_what_is_no_count_counts_for_nothing(wire_format: WireFormat, value: Any) -> None:
    meter = Meter(wire_format, streamed=False)
    whole = whole_of(wire_format, Usage())
    usage = dict.fromkeys(whole["usage"], value)
    meter.feed(json.dumps({**whole, "usage": usage}).encode())
    meter.finish()
    assert (meter.usage, meter.ending) == (None, "whole")


def test_a_server_that_never_says_done_is_whole_with_its_finish_reason_at_the_end_of_the_stream() -> None:
    meter = Meter("openai", streamed=True)
    meter.feed(b'data: {"choices": [{"finish_reason": "stop"}]}\n\n')
    assert meter.ending is None, "the usage may still come"
    meter.feed(b'data: {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}\n\n')
    meter.finish()
    assert (meter.ending, meter.usage) == ("whole", Usage(input_tokens=1, output_tokens=2))


@pytest.mark.parametrize(
    ("wire_format", "said"),
    [
        ("anthropic", {"type": "error", "error": {}}),
        ("openai", {"error": {"message": "m"}}),
        ("openai-responses", {"type": "response.failed", "response": {"usage": {"output_tokens": 5}}}),
        ("openai-responses", {"type": "error"}),
    ],
)
def test_an_error_in_the_middle_ends_an_answer(wire_format: WireFormat, said: dict[str, Any]) -> None:
    meter = Meter(wire_format, streamed=True)
    meter.feed(f"data: {json.dumps(said)}\n\n".encode())
    assert (meter.ending, meter.usage) == ("failed", None)


def test_text_and_the_arguments_of_calls_are_counted_where_no_usage_will_come() -> None:
    call = {"index": 0, "function": {"arguments": "b" * 40}}
    meter = Meter("openai", streamed=True, counts_text=True)
    for delta in ({"content": "a" * 40}, {"tool_calls": [call]}):
        meter.feed(f"data: {json.dumps({'choices': [{'delta': delta}]})}\n\n".encode())
    assert meter.output_estimate == 20
