"""When a schedule fires: instants from cron expressions or intervals, in a zone whose clocks change; pure.

Temporal's own cron is not used, because it says something else: of the hour that a clock change repeats it takes the
second run, what falls in the hour that is skipped it drops, and of a day of month and a day of week it wants both
(measured on server 1.32; `tests/integration/schedules/test_temporal.py` shows it). So it is given instants.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import islice
from typing import Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BaseModel, ConfigDict, Field

from workflows import cron
from workflows.cron import Cron

Dst = Literal["skip", "run_once", "run_twice"]

FURTHEST = timedelta(days=366 * 9)
"""How far from one fire time the next is looked for: a 29th of February may be eight years away."""

_NO_PLACES = {"localtime", "Factory"}
"""Names in the database that are no zones: of the machine, and of one that nobody has set up."""

_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)
_MINUTE = timedelta(minutes=1)
_NOON = time(12)


class Rule(BaseModel):
    """When something fires: by ``expression``, or every ``interval_seconds`` from ``anchor`` on.

    ``dst`` is about the local times that a clock change skips or repeats. `skip`: nothing runs at either. `run_once`:
    what was skipped runs at the change, what is repeated runs the first time; but a schedule of every hour goes by
    the time that passes, where the change leaves its minutes what they are: then no hour of it is missing, and none
    is there twice. Half an hour's change does not, of most: then each hour of the clock has its run, once.
    `run_twice`: what is repeated runs both times, and what was skipped at the change.
    """

    model_config = ConfigDict(frozen=True)

    expression: str | None = None
    interval_seconds: int | None = None
    timezone: str = "UTC"
    exclude_dates: frozenset[date] = Field(default_factory=frozenset[date])
    dst: Dst = "run_once"
    ends_at: datetime | None = None
    anchor: datetime


def is_zone(name: str) -> bool:
    """Say whether there is a zone of this name."""
    return name in _zones()


def fire_times(rule: Rule, after: datetime) -> Iterator[datetime]:
    """Yield the instants after ``after`` at which the rule fires, each later than the one before.

    It ends where the rule does, or where nothing comes for as long as `FURTHEST`.
    """
    found = _by_cron(rule, after) if rule.expression is not None else _by_interval(rule, after)
    for instant in found:
        if rule.ends_at is not None and instant > rule.ends_at:
            return
        yield instant


def upcoming(rule: Rule, after: datetime, count: int) -> list[datetime]:
    """Return the next ``count`` fire times, or as many as there are."""
    return list(islice(fire_times(rule, after), count))


def between(rule: Rule, start: datetime, end: datetime, *, most: int) -> list[datetime]:
    """Return the fire times from ``start`` to ``end``, both counted in, up to ``most``."""
    found: list[datetime] = []
    for instant in fire_times(rule, start - timedelta(microseconds=1)):
        if instant > end or len(found) == most:
            break
        found.append(instant)
    return found


def fires_at(rule: Rule, instant: datetime) -> bool:
    """Say whether the rule fires at an instant."""
    return between(rule, instant, instant, most=1) == [instant]


def _by_interval(rule: Rule, after: datetime) -> Iterator[datetime]:
    step = timedelta(seconds=rule.interval_seconds or 0)
    zone = ZoneInfo(rule.timezone)
    number = max(1, (after - rule.anchor) // step + 1)
    latest = after + FURTHEST
    while (instant := rule.anchor + number * step) <= latest:
        if instant.astimezone(zone).date() in rule.exclude_dates:
            # Straight to the next date: an interval of a second has 86,400 in this one.
            midnight = datetime.combine(instant.astimezone(zone).date() + _DAY, time(), zone).astimezone(UTC)
            number = max(number + 1, -((rule.anchor - midnight) // step))
            continue
        yield instant
        latest = instant + FURTHEST
        number += 1


def _by_cron(rule: Rule, after: datetime) -> Iterator[datetime]:
    expression, zone = _parsed(rule.expression or ""), ZoneInfo(rule.timezone)
    first = after.astimezone(zone).date()
    first -= _DAY if _changes_within(zone, first - _DAY) else timedelta()
    while (day := expression.next_date(first, _last_date(rule, zone, after))) is not None:
        # Around a change at midnight the instants of two dates may interleave: then they are put in order together.
        dates = [day, day + _DAY] if _changes_within(zone, day) else [day]
        if len(dates) == 1 and not _changes_within(zone, day - _DAY):
            instants = _of_plain_date(rule, expression, zone, day, after)
        else:
            instants = iter(sorted({each for date_ in dates for each in _of_date(rule, expression, zone, date_)}))
        for instant in instants:
            if instant > after:
                after = instant
                yield instant
        first = dates[-1] + _DAY


def _last_date(rule: Rule, zone: ZoneInfo, after: datetime) -> date:
    last = after + FURTHEST
    return min(rule.ends_at or last, last).astimezone(zone).date() + _DAY


def _of_plain_date(rule: Rule, expression: Cron, zone: ZoneInfo, day: date, after: datetime) -> Iterator[datetime]:
    """Yield the instants of a date around which no clock changes, without the hours that are over."""
    if day in rule.exclude_dates:
        return
    midnight = datetime.combine(day, time(), UTC) - (datetime.combine(day, _NOON, zone).utcoffset() or timedelta())
    for hour in expression.hours:
        begins = midnight + hour * _HOUR
        if begins + _HOUR > after:
            for minute in expression.minutes:
                yield begins + minute * _MINUTE


def _of_date(rule: Rule, expression: Cron, zone: ZoneInfo, day: date) -> Iterator[datetime]:
    if day in rule.exclude_dates or not expression.admits(day.month, day.day, day.isoweekday() % 7):
        return
    for hour in expression.hours:
        for minute in expression.minutes:
            yield from _instants(datetime.combine(day, time(hour, minute)), zone, rule.dst, expression)


def _instants(local: datetime, zone: ZoneInfo, dst: Dst, expression: Cron) -> list[datetime]:
    """Return when the clocks of a zone show a local time, or what stands for it."""
    first = local.replace(tzinfo=zone, fold=0)
    second = local.replace(tzinfo=zone, fold=1)
    if first.utcoffset() == second.utcoffset():
        return [first.astimezone(UTC)]
    earlier, later = sorted((first.astimezone(UTC), second.astimezone(UTC)))
    by_elapsed_time = expression.every_hour and expression.is_same_after(later - earlier)
    if earlier.astimezone(zone).replace(tzinfo=None) != local:
        skipped = dst == "skip" or (dst == "run_once" and by_elapsed_time)
        return [] if skipped else [_change(zone, earlier, later)]
    if dst == "skip":
        return []
    return [earlier] if dst == "run_once" and not by_elapsed_time else [earlier, later]


def _change(zone: ZoneInfo, before: datetime, after: datetime) -> datetime:
    """Return the first instant of the offset that holds at ``after`` and did not at ``before``."""
    offset = after.astimezone(zone).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) // 2
        middle = middle.replace(microsecond=0)
        if middle.astimezone(zone).utcoffset() == offset:
            after = middle
        else:
            before = middle
    return after


def _changes_within(zone: ZoneInfo, day: date) -> bool:
    """Say whether the clocks change between the noon of a date and the noon of the next."""
    noons = [datetime.combine(each, _NOON, zone).utcoffset() for each in (day, day + _DAY)]
    return noons[0] != noons[1]


@lru_cache(maxsize=1024)
def _parsed(expression: str) -> Cron:
    return cron.parse(expression)


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones()) - _NO_PLACES
