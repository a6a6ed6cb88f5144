"""Templates of triggers: places in the payload, and nothing else."""

import pytest

from controlplane.templates import LONGEST_MESSAGE, TemplateError, parse

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
