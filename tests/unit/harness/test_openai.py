"""OpenAI's wire format, both ways."""

import itertools
import json
from typing import Any

import pytest

from harness_adapters.contract import (
    Answer,
    AnswerText,
    HarnessSpec,
    HistoryItem,
    MediaBlock,
    TextBlock,
    ThinkingBlock,
    ToolDefinition,
    ToolOutcome,
    ToolUse,
    Usage,
    UserInput,
)
from harness_adapters.model.answer import Complete
from harness_adapters.model.errors import ModelError
from harness_adapters.model.openai import OpenAIReader, request
from harness_adapters.model.sse import ServerSentEvent
from harness_adapters.toolset import INVALID_INPUT

PNG = MediaBlock(type="image", source={"type": "base64", "media_type": "image/png", "data": "AA=="})
PNG_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


def _spec(**more: Any) -> HarnessSpec:
    return HarnessSpec(session_id="s", turn_id="t", model="m", gateway_url="http://g", gateway_token="k", **more)


def _said(*content: TextBlock | MediaBlock, role: Any = "user") -> UserInput:
    return UserInput(role=role, event_id="u", content=list(content))


def _messages(*history: HistoryItem) -> list[dict[str, Any]]:
    return request(_spec(), list(history))["messages"]


def test_a_request_carries_system_tools_and_effort_where_given():
    tool = ToolDefinition(name="t", description="d", input_schema={"type": "object"})
    body = request(_spec(system="be kind", tools=[tool], effort="max"), [_said(TextBlock(text="a"))])
    function = {"name": "t", "description": "d", "parameters": {"type": "object"}}
    assert body["messages"][0] == {"role": "system", "content": "be kind"}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert (body["reasoning_effort"], body["stream_options"]) == ("xhigh", {"include_usage": True})
    assert {"tools", "reasoning_effort"}.isdisjoint(request(_spec(), []))


def test_calls_and_results_keep_their_ids_and_thinking_is_left_out():
    answer = Answer(
        request_id="r",
        blocks=[
            ThinkingBlock(event_id="1", text="hm", signature="s"),
            AnswerText(event_id="2", text="look"),
            ToolUse(event_id="x", name="t", input={"a": "é"}),
            ToolUse(event_id="y", name="t", input={INVALID_INPUT: '{"a'}),
        ],
    )
    failed = ToolOutcome(tool_use_id="x", content=[TextBlock(text="no")], is_error=True)
    messages = _messages(_said(TextBlock(text="a")), answer, failed)
    calls = messages[1]["tool_calls"]
    assert messages[1]["content"] == "look"
    assert [call["id"] for call in calls] == ["x", "y"]
    assert [call["function"]["arguments"] for call in calls] == ['{"a": "é"}', '{"a']
    assert messages[2] == {"role": "tool", "tool_call_id": "x", "content": "Error: no"}
    assert messages[3]["tool_call_id"] == "y" and "Outcome unknown" in messages[3]["content"]


def test_a_system_note_is_a_system_message():
    assert _messages(_said(TextBlock(text="stop"), role="system")) == [{"role": "system", "content": "stop"}]


@pytest.mark.parametrize(
    ("block", "part"),
    [
        (PNG, PNG_PART),
        (
            MediaBlock(type="image", source={"type": "url", "url": "https://x/y.png"}),
            {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        ),
        (
            MediaBlock(type="document", source={"type": "text", "data": "hi"}, title="T"),
            {"type": "text", "text": "[document 'T']\nhi"},
        ),
        (
            MediaBlock(type="document", source={"type": "base64", "media_type": "application/pdf", "data": "AA=="}),
            {
                "type": "file",
                "file": {"filename": "document.pdf", "file_data": "data:application/pdf;base64,AA=="},
            },
        ),
        (
            MediaBlock(type="image", source={"type": "file", "file_id": "file_1"}),
            {"type": "text", "text": "[image 'file_1': its content is not shown here]"},
        ),
    ],
)
def test_media_are_sent_in_the_shapes_that_the_api_takes(block: MediaBlock, part: dict[str, Any]):
    content = _messages(_said(TextBlock(text="see"), block))[0]["content"]
    assert content == [{"type": "text", "text": "see"}, part]


def test_an_image_of_a_tools_result_comes_after_all_results():
    answer = Answer(request_id="r", blocks=[ToolUse(event_id=name, name="t", input={}) for name in ("x", "y")])
    outcomes = [ToolOutcome(tool_use_id="x", content=[PNG]), ToolOutcome(tool_use_id="y", content=[])]
    messages = _messages(answer, *outcomes)
    assert [message["role"] for message in messages] == ["assistant", "tool", "tool", "user"]
    assert messages[2]["content"] == "(empty)"
    assert messages[3]["content"] == [PNG_PART]


def _read(*chunks: dict[str, Any]) -> Complete | None:
    numbers = itertools.count(1)
    reader = OpenAIReader(lambda: f"e{next(numbers)}")
    for chunk in chunks:
        reader.feed(ServerSentEvent("", json.dumps(chunk)))
    reader.feed(ServerSentEvent("", "[DONE]"))
    return reader.complete()


def _chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def _call(index: int, arguments: str, name: str | None = None) -> dict[str, Any]:
    function = {"arguments": arguments} | ({"name": name} if name else {})
    return {"index": index, "function": function}


def test_an_answer_is_put_together_from_its_chunks():
    details = {"cached_tokens": 4}
    answer = _read(
        _chunk(role="assistant", content=""),
        _chunk(content="ye"),
        _chunk(content="s"),
        _chunk(tool_calls=[_call(0, "", "t"), _call(1, '{"b"', "u")]),
        _chunk(tool_calls=[_call(0, '{"a": 1}')]),
        _chunk(tool_calls=[_call(1, ": 2}")]),
        _chunk("tool_calls"),
        {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": details}},
    )
    assert answer is not None
    assert answer.blocks == [
        AnswerText(event_id="e1", text="yes"),
        ToolUse(event_id="e2", name="t", input={"a": 1}),
        ToolUse(event_id="e3", name="u", input={"b": 2}),
    ]
    assert answer.usage == Usage(input_tokens=6, cache_read_input_tokens=4, output_tokens=3)
    assert answer.stop_reason == "tool_use"


def test_calls_count_although_the_finish_reason_says_stop():
    answer = _read(_chunk(tool_calls=[_call(0, "{}", "t")]), _chunk("stop"))
    assert answer is not None
    assert answer.stop_reason == "tool_use"


def test_a_call_at_the_token_limit_is_never_taken_for_whole():
    answer = _read(_chunk(tool_calls=[_call(0, "{}", "t")]), _chunk("length"))
    assert answer is not None
    assert answer.blocks == [ToolUse(event_id="e1", name="t", input={INVALID_INPUT: "{}"})]


@pytest.mark.parametrize("chunks", [[_chunk(refusal="I won't"), _chunk("stop")], [_chunk("content_filter")]])
def test_a_refusal_is_one_in_either_form(chunks: list[dict[str, Any]]):
    answer = _read(*chunks)
    assert answer is not None
    assert answer.stop_reason == "refusal"


def test_an_answer_without_a_finish_reason_is_none():
    assert _read(_chunk(content="x")) is None


@pytest.mark.parametrize("error", [{"message": "busy", "type": "overloaded_error"}, "busy"])
def test_an_error_chunk_is_an_error(error: Any):
    with pytest.raises(ModelError) as failed:
        _read({"error": error})
    assert failed.value.message == "busy"
