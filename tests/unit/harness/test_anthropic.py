"""Anthropic's wire format, both ways."""

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
from harness_adapters.model.anthropic import AnthropicReader, request
from harness_adapters.model.errors import ModelError
from harness_adapters.model.rounds import OUTCOME_UNKNOWN
from harness_adapters.model.sse import ServerSentEvent
from harness_adapters.toolset import INVALID_INPUT

CACHED = {"type": "ephemeral"}
TOOL = ToolDefinition(name="t", description="d", input_schema={"type": "object"})


def _spec(**more: Any) -> HarnessSpec:
    return HarnessSpec(session_id="s", turn_id="t", model="m", gateway_url="http://g", gateway_token="k", **more)


def _said(text: str, role: Any = "user") -> UserInput:
    return UserInput(role=role, event_id="u", content=[TextBlock(text=text)])


def _answer(*blocks: Any) -> Answer:
    return Answer(request_id="r", blocks=list(blocks))


def _use(event_id: str, value: dict[str, Any] | None = None) -> ToolUse:
    return ToolUse(event_id=event_id, name="t", input=value or {})


def _outcome(use_id: str, text: str) -> ToolOutcome:
    return ToolOutcome(tool_use_id=use_id, content=[TextBlock(text=text)])


def _messages(*history: HistoryItem) -> list[dict[str, Any]]:
    messages = request(_spec(), list(history))["messages"]
    for message in messages:
        for block in message["content"]:
            block.pop("cache_control", None)
    return messages


def test_system_tools_and_the_last_message_are_marked_for_the_cache():
    body = request(_spec(system="be kind", tools=[TOOL, TOOL], effort="low"), [_said("a"), _said("b")])
    assert body["system"] == [{"type": "text", "text": "be kind", "cache_control": CACHED}]
    assert ["cache_control" in tool for tool in body["tools"]] == [False, True]
    assert ["cache_control" in block for block in body["messages"][0]["content"]] == [False, True]
    assert body["output_config"] == {"effort": "low"}
    assert body["stream"] is True


def test_what_is_not_given_is_not_sent():
    assert set(request(_spec(), [_said("a")])) == {"model", "max_tokens", "stream", "messages"}


def test_thinking_goes_back_as_it_came_and_unsigned_thinking_does_not():
    answer = _answer(
        ThinkingBlock(event_id="1", text="hm", signature="sig"),
        ThinkingBlock(event_id="2", redacted="data"),
        ThinkingBlock(event_id="3", text="of another model"),
        AnswerText(event_id="4", text="so"),
    )
    assert _messages(_said("a"), answer, _said("b"))[1]["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "data"},
        {"type": "text", "text": "so"},
    ]


def test_outcomes_follow_their_answer_in_the_order_of_the_uses_before_anything_else():
    history = [_said("a"), _answer(_use("x"), _use("y")), _said("meanwhile"), _outcome("y", "2"), _outcome("x", "1")]
    messages = _messages(*history)
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    results = messages[2]["content"]
    assert [block.get("tool_use_id") for block in results] == ["x", "y", None]
    assert results[2] == {"type": "text", "text": "meanwhile"}


def test_a_use_without_an_outcome_gets_one_that_says_unknown():
    result = _messages(_said("a"), _answer(_use("x")), _said("b"))[2]["content"][0]
    assert (result["tool_use_id"], result["is_error"]) == ("x", True)
    assert result["content"] == [{"type": "text", "text": OUTCOME_UNKNOWN}]


def test_an_outcome_without_a_use_is_left_out():
    assert _messages(_said("a"), _outcome("gone", "x"))[0]["content"] == [{"type": "text", "text": "a"}]


def test_users_messages_in_a_row_become_one_and_a_system_note_is_marked():
    content = _messages(_said("a"), _said("stop", role="system"))[0]["content"]
    assert [block["text"] for block in content] == ["a", "<system-note>", "stop", "</system-note>"]


def test_empty_texts_are_not_sent():
    content = _messages(UserInput(event_id="u", content=[TextBlock(text="")]), _answer(_use("x")), _outcome("x", ""))
    assert content[0]["content"] == [{"type": "text", "text": "(empty)"}]
    assert content[2]["content"][0]["content"] == [{"type": "text", "text": "(empty)"}]


@pytest.mark.parametrize(
    ("block", "sent"),
    [
        (
            MediaBlock(type="image", source={"type": "base64", "media_type": "image/png", "data": "AA=="}),
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
        ),
        (
            MediaBlock(type="document", source={"type": "url", "url": "https://x/y.pdf"}, title="T"),
            {"type": "document", "source": {"type": "url", "url": "https://x/y.pdf"}, "title": "T"},
        ),
        (
            MediaBlock(type="document", source={"type": "text", "media_type": "text/plain", "data": "hi"}),
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hi"}},
        ),
        (
            MediaBlock(type="document", source={"type": "base64", "media_type": "text/csv", "data": "YSxi"}),
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a,b"}},
        ),
        (
            MediaBlock(type="document", source={"type": "file", "file_id": "file_1"}),
            {"type": "text", "text": "[document 'file_1': its content is not shown here]"},
        ),
    ],
)
def test_media_are_sent_in_the_shapes_that_the_api_takes(block: MediaBlock, sent: dict[str, Any]):
    assert _messages(UserInput(event_id="u", content=[block]))[0]["content"] == [sent]


def _read(*events: dict[str, Any]) -> Complete | None:
    numbers = itertools.count(1)
    reader = AnthropicReader(lambda: f"e{next(numbers)}")
    for event in events:
        reader.feed(ServerSentEvent("", json.dumps(event)))
    return reader.complete()


def _block(index: int, block: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    start = {"type": "content_block_start", "index": index, "content_block": block}
    grown = [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
    return [start, *grown, {"type": "content_block_stop", "index": index}]


def _json(*pieces: str) -> list[dict[str, Any]]:
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return _block(0, {"type": "tool_use", "id": "toolu_1", "name": "t", "input": {}}, *deltas)


def _end(reason: str = "end_turn") -> list[dict[str, Any]]:
    delta = {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 7}}
    return [delta, {"type": "message_stop"}]


def test_an_answer_is_put_together_from_its_events():
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 3, "cache_read_input_tokens": 5}}}
    answer = _read(
        start,
        {"type": "ping"},
        *_block(
            0,
            {"type": "thinking", "thinking": ""},
            {"type": "thinking_delta", "thinking": "h"},
            {"type": "thinking_delta", "thinking": "m"},
            {"type": "signature_delta", "signature": "sig"},
        ),
        *_block(1, {"type": "redacted_thinking", "data": "d"}),
        *_block(2, {"type": "text", "text": ""}, {"type": "text_delta", "text": "yes"}),
        *_block(3, {"type": "something_new"}, {"type": "new_delta"}),
        {"type": "a_new_event"},
        *_end("stop_sequence"),
    )
    assert answer is not None
    assert answer.blocks == [
        ThinkingBlock(event_id="e1", text="hm", signature="sig"),
        ThinkingBlock(event_id="e2", redacted="d"),
        AnswerText(event_id="e3", text="yes"),
    ]
    assert answer.usage == Usage(input_tokens=3, cache_read_input_tokens=5, output_tokens=7)
    assert answer.stop_reason == "stop_sequence"


def test_an_answer_without_its_end_is_none():
    assert _read(*_block(0, {"type": "text", "text": "x"}), _end()[0]) is None


@pytest.mark.parametrize(
    ("pieces", "value"),
    [
        ([], {}),
        ([""], {}),
        (['{"a": ', '"\\u00e9"}'], {"a": "é"}),
        (['{"a": "\\ud83d', '\\ude00"}'], {"a": "😀"}),
        (['{"a": "printf \'\\\\u0000\'"}'], {"a": "printf '\\u0000'"}),
        (['{"a": '], {INVALID_INPUT: '{"a": '}),
        (["[1]"], {INVALID_INPUT: "[1]"}),
        (['{"a": NaN}'], {INVALID_INPUT: '{"a": NaN}'}),
        (['{"a": 1e999}'], {INVALID_INPUT: '{"a": 1e999}'}),
        (['{"a": ["\\u0000"]}'], {INVALID_INPUT: '{"a": ["\\u0000"]}'}),
        (['{"\\ud800": 1}'], {INVALID_INPUT: '{"\\ud800": 1}'}),
    ],
)
def test_arguments_that_cannot_be_read_are_kept_apart(pieces: list[str], value: dict[str, Any]):
    answer = _read(*_json(*pieces), *_end("tool_use"))
    assert answer is not None
    assert answer.blocks == [ToolUse(event_id="e1", name="t", input=value)]


def test_arguments_at_the_token_limit_are_never_taken_for_whole():
    answer = _read(*_json('{"a": 1}'), *_end("max_tokens"))
    assert answer is not None
    assert answer.blocks == [ToolUse(event_id="e1", name="t", input={INVALID_INPUT: '{"a": 1}'})]


def test_the_calls_of_a_refused_answer_are_dropped():
    answer = _read(*_json('{"a": 1}'), *_end("refusal"))
    assert answer is not None
    assert (answer.blocks, answer.stop_reason) == ([], "refusal")


def test_what_no_database_takes_is_replaced_in_text():
    answer = _read(*_block(0, {"type": "text", "text": "a\0b"}, {"type": "text_delta", "text": "\ud800"}), *_end())
    assert answer is not None
    assert answer.blocks == [AnswerText(event_id="e1", text="a\ufffdb\ufffd")]


def test_an_error_event_is_an_error():
    with pytest.raises(ModelError) as failed:
        _read({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    assert failed.value.kind == "overloaded"


@pytest.mark.parametrize("data", ["{", "[]", "<html>"])
def test_what_is_no_json_object_is_an_interrupted_stream(data: str):
    with pytest.raises(ModelError) as failed:
        AnthropicReader(lambda: "e").feed(ServerSentEvent("", data))
    assert failed.value.kind == "interrupted_stream"
