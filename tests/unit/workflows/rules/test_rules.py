import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from workflows.rules import Condition, Rule, RuleVerdict, examine


def condition(**given: Any) -> Condition:
    return Condition.model_validate(given)


def rule(verdict: RuleVerdict, *conditions: Condition, tool: str = "*", rule_id: str = "rule_1", **more: Any) -> Rule:
    return Rule(id=rule_id, tool=tool, arguments=list(conditions), verdict=verdict, **more)


def verdict(one: Rule, value: dict[str, Any], tool: str = "t") -> str | None:
    ruling = examine([one], tool, value).ruling
    return ruling.verdict if ruling else None


GIVEN = {"path": "/workspace/a/b.txt", "n": 5, "x": 1.5, "yes": True, "none": None, "list": ["a", "b"], "o": {"k": 1}}


@pytest.mark.parametrize(
    ("given", "holds"),
    [
        ({"path": "$.path", "glob": "/workspace/*.txt"}, True),
        ({"path": "$.path", "glob": "/workspace"}, False),
        ({"path": "$.path", "glob": "*.[a-t]xt"}, True),
        ({"path": "$.path", "regex": "/workspace/.*"}, True),
        ({"path": "$.path", "regex": "workspace"}, False),
        ({"path": "$.path", "equals": "/workspace/a/b.txt"}, True),
        ({"path": "$.n", "range": {"min": 5}}, True),
        ({"path": "$.n", "range": {"max": 4.5}}, False),
        ({"path": "$.x", "range": {"min": 1, "max": 2}}, True),
        ({"path": "$.n", "equals": 5.0}, True),
        ({"path": "$.n", "equals": "5"}, False),
        ({"path": "$.yes", "equals": True}, True),
        ({"path": "$.yes", "equals": 1}, False),
        ({"path": "$.none", "equals": None}, True),
        ({"path": "$.gone", "equals": None}, False),
        ({"path": "$.gone", "glob": "*"}, False),
        ({"path": "$.gone", "present": False}, True),
        ({"path": "$.none", "present": True}, True),
        ({"path": "$.o", "equals": {"k": 1}}, True),
        ({"path": "$", "equals": GIVEN}, True),
        ({"path": "$", "equals": {**GIVEN, "more": 1}}, False),
        ({"path": "$..k", "equals": 1}, True),
        ({"path": "$['list'][0]", "glob": "a"}, True),
    ],
)
@pytest.mark.parametrize("said", ["allow", "ask", "deny"])
def test_a_condition_holds_or_does_not(given: dict[str, Any], holds: bool, said: RuleVerdict) -> None:
    assert verdict(rule(said, condition(**given)), GIVEN) == (said if holds else None)


def test_of_several_values_all_must_fit_to_allow_and_one_is_enough_to_deny() -> None:
    only_a = condition(path="$.list[*]", glob="a")
    assert verdict(rule("allow", only_a), GIVEN) is None
    assert verdict(rule("deny", only_a), GIVEN) == "deny"
    assert verdict(rule("ask", only_a), GIVEN) == "ask"
    assert verdict(rule("allow", condition(path="$.list[*]", glob="?")), GIVEN) == "allow"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"path": "$.n", "glob": "*"}, "is not a text"),
        ({"path": "$.none", "regex": ".*"}, "is not a text"),
        ({"path": "$.path", "range": {"min": 1}}, "is not a number"),
        ({"path": "$.yes", "range": {"min": 0}}, "is not a number"),
        ({"path": "$.n", "command": [{"program": "ls"}]}, "is not a text"),
    ],
)
@pytest.mark.parametrize("said", ["allow", "ask", "deny"])
def test_what_cannot_be_evaluated_is_denied_and_says_which_rule_and_why(
    given: dict[str, Any], why: str, said: RuleVerdict
) -> None:
    later = rule("allow", rule_id="rule_2")
    ruling = examine([rule(said, condition(**given)), later], "t", GIVEN).ruling
    assert ruling is not None
    assert ruling.verdict == "deny"
    assert "rule_1" in ruling.sentence
    assert why in ruling.sentence


def test_a_condition_that_surely_does_not_hold_spares_the_others() -> None:
    broken, no = condition(path="$.n", glob="*"), condition(path="$.path", glob="no")
    assert verdict(rule("deny", broken, no), GIVEN) is None


@pytest.mark.parametrize(
    "path", ["../etc/passwd", "/workspace/../etc/passwd", "/workspace/./../etc/passwd", "//etc//passwd"]
)
def test_another_spelling_of_a_path_is_no_way_around(path: str) -> None:
    inside = condition(path="$.file_path", glob="/workspace/*")
    assert verdict(rule("allow", inside), {"file_path": path}) is None
    assert verdict(rule("deny", condition(path="$.file_path", glob="/etc/*")), {"file_path": path}) == "deny"


def test_a_standard_input_that_the_rule_says_nothing_about_is_not_allowed() -> None:
    shell = condition(command=[{"program": "python3", "arguments": ["-"]}])
    given = {"command": "python3 -", "stdin": "import os"}
    assert verdict(rule("allow", shell), given) is None
    assert verdict(rule("allow", shell, condition(path="$.stdin", glob="import os")), given) == "allow"


def test_what_is_typed_into_a_running_command_is_not_allowed_and_may_be_denied() -> None:
    typed = {"exec_id": "sevt_1", "stdin": "rm -rf x\n"}
    assert verdict(rule("allow", condition(command=[{"program": "*"}])), typed) is None
    assert verdict(rule("deny", condition(command=[{"program": "rm"}])), typed) == "deny"
    assert (
        verdict(rule("deny", condition(command=[{"program": "rm"}])), {"exec_id": "sevt_1", "stdin": "print('"})
        is None
    )


def test_the_example_of_the_document_lets_an_agent_read_on_and_do_nothing_else() -> None:
    document = (Path(__file__).parents[4] / "docs/rules.md").read_text()
    (example,) = re.findall(r"```json\n(.*?)```", document, re.DOTALL)
    read_on = Rule.model_validate({"id": "rule_1", **json.loads(example)})
    going_on = {"exec_id": "sevt_1", "cursor": "5", "wait_seconds": 3}
    assert verdict(read_on, going_on, "sandbox_execute") == "allow"
    for more in ({"stdin": "x"}, {"signal": "KILL"}, {"close_stdin": True}):
        assert verdict(read_on, going_on | more, "sandbox_execute") is None
    assert verdict(read_on, {"command": "ls"}, "sandbox_execute") is None


def test_what_is_said_of_bash_holds_for_the_tool_that_can_do_the_same() -> None:
    assert verdict(rule("deny", tool="bash"), {}, "sandbox_execute") == "deny"
    assert verdict(rule("deny", tool="sandbox_*"), {}, "sandbox_execute") == "deny"
    assert verdict(rule("deny", tool="sandbox_execute"), {}, "bash") is None
    assert verdict(rule("deny", tool="b?sh"), {}, "write") is None


@pytest.mark.parametrize(
    ("patterns", "command", "fits"),
    [
        ([], "git", True),
        ([], "git x", False),
        (["**"], "git x y", True),
        (["push", "**"], "git push", True),
        (["push", "**"], "git push --force x", True),
        (["push", "**"], "git -C x push", False),
        (["**", "push", "**"], "git -C x push origin", True),
        (["**", "--force*", "**"], "git push --force-with-lease", True),
        (["**", "a", "**", "b"], "git a a c b", True),
        (["**", "a", "**", "b"], "git b a", False),
        (["?"], "git x", True),
        (["add", "*/x"], "git add a/b/x", True),
    ],
)
def test_arguments_are_matched_one_by_one(patterns: list[str], command: str, fits: bool) -> None:
    one = condition(command=[{"program": "git", "arguments": patterns}])
    assert verdict(rule("allow", one), {"command": command}) == ("allow" if fits else None)
    assert verdict(rule("deny", one), {"command": command}) == ("deny" if fits else None)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, ()),
        ({"path": "$.a"}, ()),
        ({"path": "$.a", "glob": "x", "regex": "x"}, ()),
        ({"path": "$.a", "glob": None}, ()),
        ({"glob": "x"}, ()),
        ({"path": "a", "glob": "x"}, ("path",)),
        ({"path": "$.a[?@.b]", "glob": "x"}, ("path",)),
        ({"path": "$..a..b", "glob": "x"}, ("path",)),
        ({"path": "$.a", "glob": "[z-a]"}, ("glob",)),
        ({"path": "$.a", "regex": "(x"}, ("regex",)),
        ({"path": "$.a", "regex": r"(x)\1"}, ("regex",)),
        ({"path": "$.a", "regex": "(?=x)"}, ("regex",)),
        ({"path": "$.a", "regex": "((x{100}){100}){100}"}, ("regex",)),
        ({"path": "$.a", "range": {}}, ("range",)),
        ({"path": "$.a", "range": {"min": 2, "max": 1}}, ("range",)),
        ({"path": "$.a", "range": {"min": "1"}}, ("range", "min")),
        ({"command": []}, ("command",)),
        ({"command": [{"program": ""}]}, ("command", 0, "program")),
        ({"command": [{"program": "ls", "arguments": ["[z-a]"]}]}, ("command", 0, "arguments", 0)),
        ({"command": [{"program": "ls", "flags": []}]}, ("command", 0, "flags")),
    ],
)
def test_what_means_nothing_is_refused_when_the_rule_is_made(given: dict[str, Any], field: tuple[Any, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        condition(**given)
    assert caught.value.errors()[0]["loc"] == field


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+b", "(.*a){20}", "^(([a-z])+.)+[A-Z]([a-z])+$"])
def test_no_pattern_takes_long(pattern: str) -> None:
    one = rule("allow", condition(path="$.v", regex=pattern))
    began = time.monotonic()
    verdict(one, {"v": "a" * 99_000 + "!"})
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "command", ["$(" * 30_000, "( " * 40_000, "ls;" * 33_000, '"$(' * 20_000, "{" * 90_000, "'" * 99_999]
)
def test_no_command_line_takes_long(command: str) -> None:
    one = rule("deny", condition(command=[{"program": "rm"}]))
    began = time.monotonic()
    assert verdict(one, {"command": command}) == "deny"
    assert time.monotonic() - began < 2


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_INPUTS = st.dictionaries(
    st.sampled_from(["command", "stdin", "path", "n"]) | st.text(), _VALUES | st.text(), max_size=4
)
_CONDITIONS = st.sampled_from(
    [
        condition(path="$.path", glob="*a*"),
        condition(path="$..n", range={"min": 0}),
        condition(path="$.path", regex="[^a]+"),
        condition(path="$", equals={"n": 1}),
        condition(path="$.n", present=True),
        condition(command=[{"program": "ls"}, {"program": "git", "arguments": ["status", "**"]}]),
        condition(path="$.*", command=[{"program": "rm"}]),
    ]
)
_RULES = st.builds(
    lambda number, said, conditions, tool: rule(said, *conditions, tool=tool, rule_id=f"rule_{number}"),
    st.integers(0, 99),
    st.sampled_from(["allow", "ask", "deny"]),
    st.lists(_CONDITIONS, max_size=3),
    st.sampled_from(["*", "bash", "write"]),
)


@settings(deadline=None, max_examples=300)
@given(rules=st.lists(_RULES, max_size=5), value=_INPUTS, tool=st.sampled_from(["bash", "sandbox_execute", "write"]))
def test_the_first_rule_that_fits_decides_and_nothing_is_raised(
    rules: list[Rule], value: dict[str, Any], tool: str
) -> None:
    alone = [examine([each], tool, value).ruling for each in rules]
    first = next((ruling for ruling in alone if ruling is not None), None)
    assert examine(rules, tool, value).ruling == first
