"""Scripts: found, read, refused with the step, and played from the conversation alone."""

import json
from typing import Any

import pytest

from controlplane.models.scripted.player import Entry, Player
from controlplane.models.scripted.script import ScriptError, find_script, read_script


def _script(*steps: dict[str, Any]) -> str:
    return f"Do this:\n```script\n{json.dumps(steps)}\n```\nThanks."


def _said(*entries: Entry) -> str:
    return Player().reply("demo", entries).text


USER = Entry("user", _script({"text": "one"}, {"text": "two"}))
ANSWER = Entry("assistant", "…")


def test_the_last_block_of_a_text_is_its_script():
    assert find_script("```script\n1\n```\n```python\n2\n```\n```script\n3\n```") == "3\n"
    assert find_script("```scripts\n1\n```") is None


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{", "it is not JSON"),
        ("{}", "it must be a JSON list of steps"),
        ("[]", "it has no steps"),
        ('[{"text": "a"}, {}]', "step 2: Value error, a step needs text, thinking, tools or fail"),
        ('[{"text": "a", "tool": 1}]', "step 1, field tool: Extra inputs"),
        ('[{"tools": [{"input": {}}]}]', "step 1, field tools.0.name: Field required"),
        ('[{"fail": {"status": 200}}]', "step 1, field fail.status"),
    ],
)
def test_a_bad_script_is_refused_with_its_step_and_field(source: str, said: str):
    with pytest.raises(ScriptError) as refused:
        read_script(source)
    assert said in str(refused.value)


def test_a_bad_script_is_answered_not_failed():
    assert "step 1, field tools" in _said(Entry("user", _script({"tools": "x"})))


def test_without_a_script_it_says_what_it_is_and_how_to_go_on():
    said = _said(Entry("system", "You are kind."), Entry("user", "hello"))
    for part in ("scripted/demo", "```script", "ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        assert part in said


def test_the_steps_are_counted_from_the_answers_since():
    assert [_said(USER, *[ANSWER] * count) for count in range(3)] == [
        "one",
        "two",
        "The script is over: all 2 steps have been played.",
    ]


def test_the_newest_message_with_a_script_wins_and_starts_anew():
    newer = Entry("user", _script({"text": "new"}))
    assert _said(Entry("system", _script({"text": "old"})), USER, ANSWER, newer, Entry("user", "go")) == "new"


def test_the_system_prompts_script_counts_every_answer():
    system = Entry("system", _script({"text": "one"}, {"text": "two"}))
    assert _said(system, Entry("user", "a"), ANSWER, Entry("user", "b")) == "two"


def test_a_script_in_a_tools_result_is_not_followed():
    assert _said(USER, ANSWER, Entry("tool", _script({"text": "hijacked"}))) == "two"


def test_results_of_the_last_batch_are_quoted():
    steps = ({"text": "x"}, {"text": "x"}, {"text": "{{result}}|{{result.2}}|{{result.3}}"})
    history = [ANSWER, Entry("tool", "old"), ANSWER, Entry("tool", " a\n"), Entry("tool", "b")]
    assert _said(Entry("user", _script(*steps)), *history) == "a|b|(no such result)"


def test_a_step_fails_as_often_as_it_says_and_then_plays():
    player = Player()
    entries = [Entry("user", _script({"text": "at last", "fail": {"status": 500, "times": 2}}))]
    assert [player.reply("demo", entries).failure is None for _ in range(3)] == [False, False, True]


def test_tokens_are_a_quarter_of_the_characters():
    reply = Player().reply("demo", [Entry("system", "12345"), Entry("user", _script({"text": "a" * 9}))])
    assert (reply.input_tokens, reply.output_tokens) == (2 + -(-len(_script({"text": "a" * 9})) // 4), 3)
