"""Schemas of blocks: which are taken, and what no schema and no content can make a process do."""

import json
from typing import Any

import pytest

from controlplane.memory.schemas import problems, schema_problem

DOUBLING: dict[str, Any] = {
    "$ref": "#/$defs/a0",
    "$defs": {
        **{f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(60)},
        "a60": {"type": "object"},
    },
}


@pytest.mark.parametrize(
    ("schema", "content"),
    [
        ({"properties": {"pattern": {"type": "string"}, "$ref": {"type": "string"}}}, {"pattern": "(", "$ref": "y"}),
        ({"const": {"pattern": 5, "$ref": 7}}, {"pattern": 5, "$ref": 7}),
        ({"$defs": {"step": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/step"}}}, {"a": 1}),
        ({"$anchor": "me", "properties": {"a": {"$ref": "#me"}}}, {"a": {"a": {}}}),
        ({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}, {}),
        ({"properties": {"a": {"uniqueItems": True}}}, {"a": [1, True, "1", [1], {"x": 1}, {"x": 2}]}),
    ],
)
def test_a_sound_schema_is_taken_and_a_content_that_fits_it_too(schema: dict[str, Any], content: dict[str, Any]):
    assert schema_problem(schema) is None
    assert problems(json.dumps(content), schema) == []


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"$ref": "#/$defs/none"}, "nothing at '/$defs/none'"),
        ({"properties": {"a": {"$ref": "https://example.com/s"}}}, "outside of the schema"),
        ({"allOf": [{"patternProperties": {"a": {}}}]}, "patternProperties is not supported"),
        ({"properties": {"a": {"pattern": "(?<=a)"}}}, "RE2"),
        ({"type": "nonsense"}, "type"),
        ({"$defs": {"a": {"$dynamicRef": "#a"}}}, "$dynamicRef is not supported"),
    ],
)
def test_what_is_none_is_refused_with_the_reason(schema: dict[str, Any], said: str):
    assert said in (schema_problem(schema) or "")


def test_a_schema_that_is_large_is_refused_before_it_is_checked():
    assert "at most 16,384" in (
        schema_problem({"properties": {f"p{n}": {"type": "string"} for n in range(900)}}) or ""
    )


def test_a_schema_that_is_nested_too_deeply_is_refused():
    schema: dict[str, Any] = {}
    for _ in range(3000):
        schema = {"not": schema}
    assert schema_problem(schema) == "it is nested too deeply"


@pytest.mark.parametrize(
    ("schema", "content", "said"),
    [
        (DOUBLING, "{}", "takes more than 10,000 steps"),
        ({"$ref": "#"}, "{}", "refers to itself without an end"),
        ({"properties": {"a": {"multipleOf": 2}}}, '{"a": 1e400}', "multipleOf"),
        ({"$ref": "#/const/x", "const": {"x": {"pattern": "(?<=a)"}}}, '{"text": 1}', "const"),
    ],
)
def test_no_schema_keeps_a_process_busy_or_fails_it(schema: dict[str, Any], content: str, said: str):
    assert schema_problem(schema) is None
    assert any(said in each for _, each in problems(content, schema))


@pytest.mark.parametrize(
    ("items", "is_unique"), [([1, 1.0], False), ([{"x": 1, "y": 2}, {"y": 2, "x": 1}], False), ([0, False], True)]
)
def test_items_are_the_same_where_json_schema_says_so(items: list[Any], is_unique: bool):
    found = problems(json.dumps({"a": items}), {"properties": {"a": {"uniqueItems": True}}})
    assert (found == []) is is_unique


def test_thousands_of_items_are_compared_once_each():
    items = [{"x": number} for number in range(9000)]
    assert problems(json.dumps({"a": items}), {"properties": {"a": {"uniqueItems": True}}}) == []


@pytest.mark.parametrize(
    "rule",
    [
        {"type": "integer"},
        {"enum": ["a", "b"]},
        {"maxLength": 3},
        {"minLength": 99},
        {"pattern": "^x$"},
        {"const": 1},
    ],
)
def test_what_is_wrong_is_said_without_what_stands_there(rule: dict[str, Any]):
    secret = "hunter2-is-no-secret-any-more"
    found = problems(json.dumps({"a": secret}), {"properties": {"a": rule}})
    assert [field for field, _ in found] == ["a"]
    assert secret not in repr(found)
