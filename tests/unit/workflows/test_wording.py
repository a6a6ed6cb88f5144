"""What is said of a schedule."""

from datetime import UTC, date, datetime

import pytest

from workflows.calendar import Rule
from workflows.wording import duration, in_words

ANCHOR = datetime(2026, 1, 1, tzinfo=UTC)

SAID = [
    ("0 9 * * 1-5", "At 09:00, on Monday to Friday"),
    ("*/5 * * * *", "Every 5 minutes, every day"),
    ("* * * * *", "Every minute, every day"),
    ("15 * * * *", "At minute 15 of every hour, every day"),
    ("*/10 9-17 * * *", "Every 10 minutes in the hours 9-17, every day"),
    ("30 2,14 1,15 * *", "At 02:30 and 14:30, on day 1 and 15 of the month"),
    ("0 9 13 * 5", "At 09:00, on day 13 of the month or on Friday"),
    ("0 0 29 2 *", "At 00:00, on day 29 of the month in February"),
    ("5-8 */8 * jan,jul sun", "At minute 5-8 of the hours 0, 8 and 16, on Sunday in January and July"),
    ("0 0 * 6 *", "At 00:00, every day in June"),
]


@pytest.mark.parametrize(("expression", "said"), SAID, ids=[each[0] for each in SAID])
def test_an_expression_in_words(expression: str, said: str):
    assert in_words(Rule(expression=expression, anchor=ANCHOR)) == f"{said}, UTC time."


def test_what_is_left_out_and_what_a_clock_change_does_is_said():
    rule = Rule(
        expression="30 2 * * *",
        timezone="Europe/Berlin",
        exclude_dates=frozenset({date(2026, 12, 25)}),
        ends_at=datetime(2027, 1, 1, tzinfo=UTC),
        dst="skip",
        anchor=ANCHOR,
    )
    assert in_words(rule) == (
        "At 02:30, every day, Europe/Berlin time; not on 2026-12-25;"
        " a time that a clock change skips or repeats is left out; until 2027-01-01 01:00:00."
    )


def test_an_interval_in_words():
    assert in_words(Rule(interval_seconds=5400, anchor=ANCHOR)) == "Every 90 minutes from 2026-01-01 00:00:00 UTC on."
    assert duration(86_400) == "1 day"


@pytest.mark.parametrize(
    ("expression", "zone", "said"),
    [
        ("15 * * * *", "Europe/Berlin", "goes by the time that passes"),
        ("*/5 * * * *", "Australia/Lord_Howe", "goes by the time that passes"),
        ("15 * * * *", "Australia/Lord_Howe", "one that is repeated counts once"),
    ],
)
def test_what_a_clock_change_does_to_a_schedule_of_every_hour(expression: str, zone: str, said: str):
    assert said in in_words(Rule(expression=expression, timezone=zone, anchor=ANCHOR))
