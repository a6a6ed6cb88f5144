"""Cron expressions: what they admit, and what is none."""

import pytest

from workflows.cron import CronError, check, parse


def test_fields_lists_ranges_and_steps():
    found = parse("5,*/20 9-17/4 1-3 JAN,jul mon-fri")
    assert found.minutes == (0, 5, 20, 40)
    assert found.hours == (9, 13, 17)
    assert found.days == (1, 2, 3)
    assert found.months == (1, 7)
    assert found.weekdays == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("sunday", ["0", "7", "sun", "SUN"])
def test_sunday_has_two_numbers(sunday: str):
    assert parse(f"0 0 * * {sunday}").weekdays == {0}


@pytest.mark.parametrize("step", ["10/15", "10-59/15"])
def test_a_step_from_a_number_goes_to_the_end(step: str):
    assert parse(f"{step} * * * *").minutes == (10, 25, 40, 55)


REFUSED = [
    ("", "0 fields"),
    ("* * * *", "4 fields"),
    ("* * * * * *", "6 fields"),
    ("@daily", "1 fields"),
    ("60 * * * *", "minute 60"),
    ("* 24 * * *", "hour 24"),
    ("* * 0 * *", "day of month 0"),
    ("* * 32 * *", "day of month 32"),
    ("* * * 13 *", "month 13"),
    ("* * * * 8", "day of week 8"),
    ("* * L * *", "day of month"),
    ("* * 15W * *", "day of month"),
    ("* * * * 5#2", "day of week"),
    ("* * ? * *", "day of month"),
    ("*/0 * * * *", "step of 0"),
    ("5-1 * * * *", "backwards"),
    ("*-5 * * * *", "minute"),
    ("1,,2 * * * *", "minute"),
    ("-1 * * * *", "minute"),
    ("1.5 * * * *", "minute"),
    ("٣ * * * *", "minute"),
    ("* * * foo *", "month"),
    ("* * * * " + "1," * 200 + "1", "longer"),
]


@pytest.mark.parametrize(("expression", "reason"), REFUSED, ids=[each[0][:20] or "empty" for each in REFUSED])
def test_what_is_no_expression_says_why(expression: str, reason: str):
    with pytest.raises(CronError, match=reason):
        parse(expression)


@pytest.mark.parametrize(
    "expression", ["*/60 * * * *", "0 */24 * * *", "0 0 1-9/32 * *", "0 0 * */13 *", "0,*/99 * * * *"]
)
def test_a_step_that_is_never_taken_is_refused_and_still_read(expression: str):
    parse(expression)
    with pytest.raises(CronError, match="a step beyond"):
        check(expression)


@pytest.mark.parametrize("expression", ["*/59 */23 */31 */12 */7", "5/10 * * * *"])
def test_other_steps_are_not_refused(expression: str):
    check(expression)
