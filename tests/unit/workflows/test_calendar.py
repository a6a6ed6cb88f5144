"""When schedules fire, compared with clocks that are looked at minute by minute."""

import itertools
import sys
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.clocks import ZONES, changes, showing, touched
from workflows.calendar import Dst, Rule, between, fires_at, is_zone, upcoming

ANCHOR = datetime(2026, 1, 1, tzinfo=UTC)


def rule(expression: str, zone: str = "UTC", **more: object) -> Rule:
    return Rule.model_validate({"expression": expression, "timezone": zone, "anchor": ANCHOR, **more})


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def around(found: Rule, change: datetime) -> list[datetime]:
    return between(found, change - timedelta(hours=20), change + timedelta(hours=20), most=10_000)


@pytest.mark.parametrize("zone", ZONES)
def test_there_are_two_changes_a_year(zone: str):
    assert len(changes(zone)) == 6


@pytest.mark.parametrize("dst", ["skip", "run_once", "run_twice"])
@pytest.mark.parametrize("zone", ZONES)
def test_what_a_clock_change_skips_or_repeats_goes_by_the_rule(zone: str, dst: Dst):
    for change in changes(zone):
        for local in touched(zone, change):
            shown = showing(zone, local, change)
            assert len(shown) in (0, 2)
            wanted = {
                "skip": [],
                "run_once": shown[:1] or [change],
                "run_twice": shown or [change],
            }[dst]
            daily = rule(f"{local.minute} {local.hour} {local.day} {local.month} *", zone, dst=dst)
            assert around(daily, change) == wanted, (local, change)


@pytest.mark.parametrize("zone", ZONES)
def test_a_schedule_of_every_hour_goes_by_the_time_that_passes(zone: str):
    for change in changes(zone):
        found = around(rule("*/5 * * * *", zone), change)
        assert all(later - earlier == timedelta(minutes=5) for earlier, later in itertools.pairwise(found))


@pytest.mark.parametrize("minute", [0, 15, 30, 45])
@pytest.mark.parametrize("zone", ZONES)
def test_an_hourly_schedule_runs_once_in_each_hour(zone: str, minute: int):
    for change in changes(zone):
        found = around(rule(f"{minute} * * * *", zone), change)
        hours = [f"{each.astimezone(ZoneInfo(zone)):%d %H %z}" for each in found]
        if zone == "Australia/Lord_Howe":
            # Its half hour leaves no time that passes to go by, but each hour of the clock.
            hours = [each[:5] for each in hours]
            clock = (change + timedelta(minutes=5 * number) for number in range(-12 * 12, 12 * 12))
            assert {f"{each.astimezone(ZoneInfo(zone)):%d %H}" for each in clock} <= set(hours)
        else:
            assert all(later - earlier == timedelta(hours=1) for earlier, later in itertools.pairwise(found))
        assert len(set(hours)) == len(hours)


@pytest.mark.parametrize(
    ("expression", "day", "wanted"),
    [
        ("15 * * * *", "2026-10-04", ["01:15+10:30", "02:30+11:00", "03:15+11:00"]),
        ("45 * * * *", "2026-10-04", ["01:45+10:30", "02:45+11:00", "03:45+11:00"]),
        ("30 * * * *", "2026-04-05", ["01:30+11:00", "02:30+10:30", "03:30+10:30"]),
        ("0,30 * * * *", "2026-04-05", ["01:00+11:00", "01:30+11:00", "01:30+10:30", "02:00+10:30"]),
        ("0,30 * * * *", "2026-10-04", ["01:00+10:30", "01:30+10:30", "02:30+11:00", "03:00+11:00"]),
    ],
)
def test_a_change_of_half_an_hour(expression: str, day: str, wanted: list[str]):
    zone = ZoneInfo("Australia/Lord_Howe")
    found = upcoming(
        rule(expression, zone.key), datetime.fromisoformat(f"{day}T00:59").replace(tzinfo=zone), len(wanted)
    )
    assert [
        each.astimezone(zone).isoformat()[11:16] + each.astimezone(zone).isoformat()[19:] for each in found
    ] == wanted


@pytest.mark.parametrize("zone", ZONES)
def test_times_that_no_change_touches_are_what_the_clocks_show(zone: str):
    for change in changes(zone):
        for found in around(rule("7 */4 * * *", zone), change):
            local = found.astimezone(ZoneInfo(zone))
            assert (local.minute == 7 and local.hour % 4 == 0) or found == change


def test_leap_days_and_short_months():
    assert upcoming(rule("0 9 29 2 *"), at("2026-03-01T00:00:00Z"), 2) == [
        at("2028-02-29T09:00:00Z"),
        at("2032-02-29T09:00:00Z"),
    ]
    assert [found.month for found in upcoming(rule("0 0 31 * *"), ANCHOR - timedelta(1), 7)] == [
        1,
        3,
        5,
        7,
        8,
        10,
        12,
    ]
    assert upcoming(rule("0 0 29 2 *"), at("2096-03-01T00:00:00Z"), 1) == [at("2104-02-29T00:00:00Z")]


def test_the_next_five_times_are_five_however_rare_they_are():
    found = upcoming(rule("0 0 29 2 *"), at("2090-03-01T00:00:00Z"), 5)
    assert [each.year for each in found] == [2092, 2096, 2104, 2108, 2112]
    # Nine years are looked ahead from each: the 29ths of February that are Sundays are 28 years apart.
    assert [each.year for each in upcoming(rule("0 0 29 2 */7"), ANCHOR, 5)] == [2032]


@pytest.mark.parametrize("expression", ["0 0 29 2 *", "0 0 31 2 *", "0 0 31 */2 *", "* * * * *"])
def test_only_what_may_count_is_looked_at(expression: str):
    """The API computes the next times of a page of deployments on its event loop."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    upcoming(rule(expression), ANCHOR, 5)  # its parsing is kept
    sys.setprofile(count)
    try:
        upcoming(rule(expression), at("2026-11-27T23:58:30Z"), 5)
    finally:
        sys.setprofile(None)
    assert calls < 300, calls


def test_what_cannot_be_never_fires():
    assert upcoming(rule("0 0 31 2 *"), ANCHOR, 1) == []
    assert upcoming(rule("0 0 30 2,4 1", ends_at=at("2026-01-04T00:00:00Z")), ANCHOR, 1) == []


def test_either_day_counts_where_both_are_named():
    found = upcoming(rule("0 12 13 * 5"), at("2026-02-01T00:00:00Z"), 5)
    assert [each.day for each in found] == [6, 13, 20, 27, 6]
    assert [each.day for each in upcoming(rule("0 12 13 * *"), at("2026-02-01T00:00:00Z"), 2)] == [13, 13]


def test_excluded_dates_are_those_of_the_zone():
    found = rule("0 0 * * *", "Europe/Berlin", exclude_dates=[date(2026, 12, 25)])
    assert upcoming(found, at("2026-12-23T23:30:00Z"), 2) == [at("2026-12-25T23:00:00Z"), at("2026-12-26T23:00:00Z")]


def test_the_end_counts_in():
    found = rule("0 * * * *", ends_at=at("2026-01-01T02:00:00Z"))
    assert upcoming(found, ANCHOR, 9) == [at("2026-01-01T01:00:00Z"), at("2026-01-01T02:00:00Z")]


def test_an_interval_counts_from_its_anchor():
    every = Rule(interval_seconds=5400, anchor=ANCHOR, exclude_dates=frozenset({date(2026, 1, 2)}))
    assert upcoming(every, ANCHOR - timedelta(days=9), 2) == [at("2026-01-01T01:30:00Z"), at("2026-01-01T03:00:00Z")]
    assert upcoming(every, at("2026-01-01T22:30:00Z"), 1) == [at("2026-01-03T00:00:00Z")]
    assert fires_at(every, at("2026-01-01T03:00:00Z"))
    assert not fires_at(every, at("2026-01-01T03:00:01Z"))


@pytest.mark.parametrize("name", ["Europe/Berlin", "UTC", "Etc/GMT+5"])
def test_zones_that_are(name: str):
    assert is_zone(name)


@pytest.mark.parametrize(
    "name", ["Europe/Atlantis", "", "../../etc/passwd", "/etc/localtime", "Europe", "CEST", "localtime", "Factory"]
)
def test_zones_that_are_not(name: str):
    assert not is_zone(name)


@settings(deadline=None, max_examples=60)
@given(
    zone=st.sampled_from([*ZONES, "UTC", "Pacific/Apia", "Asia/Kathmandu"]),
    dst=st.sampled_from(["skip", "run_once", "run_twice"]),
    expression=st.sampled_from(["*/7 * * * *", "13 */3 * * *", "30 0,1,2,3,23 * * *", "0 12 1,31 * 1"]),
    start=st.datetimes(min_value=datetime(2011, 12, 1), max_value=datetime(2030, 1, 1)),
)
def test_times_only_grow_and_are_found_again(zone: str, dst: Dst, expression: str, start: datetime):
    found = rule(expression, zone, dst=dst)
    times = upcoming(found, start.replace(tzinfo=UTC), 40)
    assert all(earlier < later for earlier, later in itertools.pairwise(times))
    assert all(fires_at(found, each) for each in times)
    assert upcoming(found, times[10], 5) == times[11:16]
