from typing import Any

from harness_adapters.contract import Answer, AnswerText, TextBlock, ThinkingBlock, ToolOutcome, ToolUse, UserInput
from workflows.history import COMPACTED, LoggedEvent, build, is_unfinished


def event(event_id: str, kind: str, payload: dict[str, Any], **internal: Any) -> LoggedEvent:
    return LoggedEvent(id=event_id, type=kind, payload=payload, internal=internal)


TEXT = [{"type": "text", "text": "hello"}]


def test_blocks_of_one_model_request_are_one_answer() -> None:
    history = build(
        [
            event("e1", "user.message", {"content": TEXT}),
            event("e2", "agent.thinking", {}, request_id="r1", thinking={"text": "hm", "signature": "s"}),
            event("e3", "agent.message", {"content": TEXT}, request_id="r1"),
            event("e4", "agent.tool_use", {"name": "t", "input": {"a": 1}}, request_id="r1"),
            event("e5", "agent.tool_result", {"tool_use_id": "e4", "content": TEXT, "is_error": False}),
            event("e6", "agent.message", {"content": TEXT}, request_id="r2"),
        ]
    )
    assert [type(item) for item in history] == [UserInput, Answer, ToolOutcome, Answer]
    answer = history[1]
    assert isinstance(answer, Answer)
    assert [type(block) for block in answer.blocks] == [ThinkingBlock, AnswerText, ToolUse]
    assert answer.blocks[0] == ThinkingBlock(event_id="e2", text="hm", signature="s")


def test_a_tool_use_without_outcome_leaves_the_history_unfinished() -> None:
    history = build(
        [
            event("e1", "agent.tool_use", {"name": "t", "input": {}}, request_id="r1"),
            event("e2", "agent.tool_use", {"name": "t", "input": {}}, request_id="r1"),
            event("e3", "agent.tool_result", {"tool_use_id": "e1", "content": TEXT}),
        ]
    )
    assert is_unfinished(history)


def test_a_search_result_that_a_client_found_is_shown_as_text() -> None:
    found = {
        "type": "search_result",
        "source": "https://example.com/a",
        "title": "On wells",
        "citations": {"enabled": True},
        "content": [{"type": "text", "text": "They are deep."}, {"type": "text", "text": "And cold."}],
    }
    sent = {"custom_tool_use_id": "e1", "content": [found]}
    (outcome,) = build([event("e2", "user.custom_tool_result", sent)])
    assert isinstance(outcome, ToolOutcome)
    assert outcome.content == [TextBlock(text="On wells (https://example.com/a)\nThey are deep.\nAnd cold.")]


def test_a_result_that_comes_after_its_call_was_closed_is_not_its_outcome() -> None:
    history = build(
        [
            event("e1", "agent.custom_tool_use", {"name": "t", "input": {}}, request_id="r1"),
            event("e2", "agent.tool_result", {"tool_use_id": "e1", "content": TEXT, "is_error": True}),
            event("e3", "user.custom_tool_result", {"custom_tool_use_id": "e1", "content": TEXT}),
        ]
    )
    assert [item.is_error for item in history if isinstance(item, ToolOutcome)] == [True]


def test_a_history_that_ends_in_text_is_finished() -> None:
    history = build([event("e1", "agent.message", {"content": TEXT}, request_id="r1")])
    assert not is_unfinished(history)
    assert not is_unfinished([])


def test_the_newest_summary_stands_for_what_it_covers_and_later_events_follow() -> None:
    def message(n: int, text: str) -> LoggedEvent:
        return LoggedEvent(
            id=f"sevt_{n}", type="user.message", payload={"content": [{"type": "text", "text": text}]}, internal={}
        )

    def summary(n: int, text: str, kept_from: str | None) -> LoggedEvent:
        payload = {"summary": text, "tokens_before": 1}
        return LoggedEvent(id=f"sevt_{n}", type=COMPACTED, payload=payload, internal={"kept_from": kept_from})

    logged = [
        message(1, "one"), summary(2, "first", None), message(3, "two"), message(4, "three"),
        summary(5, "second", "sevt_4"), message(6, "four"),
    ]  # fmt: skip
    found = [item.content[0].text for item in build(logged) if isinstance(item, UserInput)]  # pyright: ignore[reportAttributeAccessIssue] - all are text
    assert [text.rpartition("\n")[2] for text in found] == ["second", "three", "four"]
    everything = [*logged, summary(7, "third", None)]
    assert [item.event_id for item in build(everything) if isinstance(item, UserInput)] == ["sevt_7"]
