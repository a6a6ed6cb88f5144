"""Templates of triggers: places in the payload, and nothing else."""

import json
from typing import Any

import pytest

from controlplane.deployments.templates import LONGEST_MESSAGE, TemplateError, parse

PAYLOAD = {"issue": {"title": "It is broken", "labels": [{"name": "bug"}, {"name": "p1"}]}, "a b": None, "n": 3}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ payload.issue.title }}!", "It is broken!"),
        ("{{payload.issue.labels[1].name}}", "p1"),
        ("{{ payload.issue.labels }}", '[{"name": "bug"}, {"name": "p1"}]'),
        ('<{{ payload["a b"] }}{{ payload.nothing.there[7] }}{{ payload.n.x }}>', "<>"),
        ("{{ payload.n }}", "3"),
        ("nothing at all", "nothing at all"),
    ],
)
def test_places_are_filled(template: str, text: str):
    assert parse(template).render(PAYLOAD) == text


@pytest.mark.parametrize(
    "template",
    [
        "{{ secrets.token }}",
        "{{ payload.__class__.__mro__ }}",
        '{{ payload["__globals__"] }}',
        "{{ payload|length }}",
        "{{ payload.issue() }}",
        "{{ 7 * 7 }}",
        "{{ config }}",
        "{{ payload.a",
        "payload }}",
        "{{ }}",
        "{% for x in payload %}{% endfor %}",
        "{# a comment #}",
        "{{ payload }} {{ {{ payload }} }}",
        "x" * 9000,
    ],
)
def test_what_reaches_elsewhere_is_refused(template: str):
    with pytest.raises(TemplateError):
        parse(template)


def test_what_a_payload_says_is_not_read_as_a_template():
    assert parse("{{ payload.t }}").render({"t": "{{ payload.secret }}", "secret": "s"}) == "{{ payload.secret }}"


def test_a_message_is_bounded():
    text = parse("{{ payload.t }}" * 400).render({"t": "x" * 10_000_000})
    assert len(text) < LONGEST_MESSAGE + 100
    assert text.endswith("(cut)")


@pytest.mark.parametrize(
    "value",
    [[], {}, [[]], [{}, []], {"a": [1, 2.5, True, None, 'ä"\n'], 'b"': {"c": {}, "d": [[], [1]]}}, False, [[], 1]],
)
def test_what_is_no_text_is_the_json_that_anybody_writes(value: Any):
    assert parse("{{ payload.v }}").render({"v": value}) == json.dumps(value, ensure_ascii=False)


class Counted(list[Any]):
    """A list that counts how much of it was looked at."""

    looked_at = 0

    def __iter__(self) -> Any:
        for each in super().__iter__():
            self.looked_at += 1
            yield each


def test_no_more_of_a_payload_is_looked_at_than_is_shown():
    payload = Counted(["x"] * 200_000)
    text = parse("{{payload}}" * 744).render(payload)
    assert text.startswith('["x", "x", ')
    assert text.count("… (cut)") == 4
    assert 0 < payload.looked_at < LONGEST_MESSAGE
    deep: Any = "the end"
    for _ in range(100_000):
        deep = [deep]
    assert parse("{{ payload }}").render(deep).startswith("[[[[")


def test_an_unclosed_place_is_refused_at_the_first():
    with pytest.raises(TemplateError, match="not closed"):
        parse("{{" * 4096)
    with pytest.raises(TemplateError, match="not opened"):
        parse("a }} {{ payload }}")
