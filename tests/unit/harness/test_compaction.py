from hypothesis import given
from hypothesis import strategies as st

from harness_adapters.contract import Answer, AnswerText, HistoryItem, TextBlock, ToolOutcome, ToolUse, UserInput
from harness_adapters.model import compaction
from harness_adapters.model.rounds import rounds


def said(n: int, text: str = "hello") -> UserInput:
    return UserInput(event_id=f"sevt_u{n}", content=[TextBlock(text=text)])


def turn(n: int, *, calls: int, chars: int) -> list[HistoryItem]:
    """A message, an answer with calls, their outcomes, and a last word."""
    uses = [ToolUse(event_id=f"sevt_c{n}_{k}", name="bash", input={"command": "x" * chars}) for k in range(calls)]
    results = [ToolOutcome(tool_use_id=use.event_id, content=[TextBlock(text="r" * chars)]) for use in uses]
    last = Answer(request_id=f"r{n}b", blocks=[AnswerText(event_id=f"sevt_a{n}", text="t" * chars)])
    return [said(n, "m" * chars), Answer(request_id=f"r{n}", blocks=list(uses)), *results, last]


histories = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 400)), min_size=1, max_size=8).map(
    lambda turns: [item for n, (calls, chars) in enumerate(turns) for item in turn(n, calls=calls, chars=chars)]
)


def dangling(history: list[HistoryItem]) -> set[str]:
    """Outcomes without their tool use, and tool uses without their outcome."""
    uses = {b.event_id for item in history if isinstance(item, Answer) for b in item.blocks if isinstance(b, ToolUse)}
    outcomes = {item.tool_use_id for item in history if isinstance(item, ToolOutcome)}
    return uses ^ outcomes


@given(histories, st.integers(0, 3000))
def test_what_stays_begins_with_a_message_and_leaves_no_call_dangling(history: list[HistoryItem], limit: int) -> None:
    place = compaction.kept_from(history, at_most_tokens=limit)
    after = compaction.compacted(history, place, summary="notes", event_id="sevt_s")
    assert 0 < place <= len(history)
    assert place == len(history) or isinstance(history[place], UserInput)
    assert not dangling(after)
    assert compaction.tokens(after[1:]) <= max(limit, 0) or place == len(history)
    assert len(rounds(after)) >= 1


@given(histories, st.integers(1, 3000))
def test_the_question_fits_and_ends_with_the_instruction(history: list[HistoryItem], limit: int) -> None:
    asked = compaction.question(history, at_most_tokens=limit, event_id="sevt_s")
    assert isinstance(asked[0], UserInput)
    assert isinstance(asked[-1], UserInput)
    assert asked[-1].content == [TextBlock(text=compaction.INSTRUCTION)]
    assert not dangling(asked)
    newest = history[-1]
    assert asked[-2] == newest
    assert compaction.tokens(asked[1:-1]) <= limit or len(asked) == 3


def test_a_single_message_cannot_be_made_smaller() -> None:
    assert compaction.kept_from([said(1)], at_most_tokens=10**6) == 0


def test_a_long_turn_is_summarized_with_its_message() -> None:
    history: list[HistoryItem] = [said(0), *turn(1, calls=2, chars=4000)[:-1]]
    assert compaction.kept_from(history, at_most_tokens=100) == len(history)
    assert compaction.kept_from(history, at_most_tokens=100_000) == 1
