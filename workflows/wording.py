"""A schedule in words, so that a person sees what was understood; pure."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from workflows import cron
from workflows.calendar import Dst, Rule
from workflows.cron import Cron

_MOST_TIMES = 6
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))

_CHANGES: dict[Dst, str] = {
    "skip": "a time that a clock change skips or repeats is left out",
    "run_once": "a time that a clock change skips is made up for right after it, one that is repeated counts once",
    "run_twice": "a time that a clock change skips is made up for right after it, one that is repeated counts twice",
}


def in_words(rule: Rule) -> str:
    """Return one sentence that says when a rule fires."""
    parts = [_when(rule)]
    if rule.exclude_dates:
        parts.append("not on " + _listed([each.isoformat() for each in sorted(rule.exclude_dates)]))
    if rule.expression is not None and len(offsets := _offsets(rule.timezone)) > 1:
        parts.append(_changes(rule, cron.parse(rule.expression), max(offsets) - min(offsets)))
    if rule.ends_at is not None:
        local = rule.ends_at.astimezone(ZoneInfo(rule.timezone))
        parts.append(f"until {local:%Y-%m-%d %H:%M:%S}")
    return "; ".join(parts) + "."


def duration(seconds: int) -> str:
    """Return a duration in its largest whole unit."""
    size, unit = next((size, unit) for size, unit in _UNITS if seconds % size == 0)
    return _counted(seconds // size, unit)


def _when(rule: Rule) -> str:
    if rule.expression is None:
        interval = duration(rule.interval_seconds or 0).removeprefix("1 ")
        return f"Every {interval} from {rule.anchor:%Y-%m-%d %H:%M:%S} UTC on"
    expression = cron.parse(rule.expression)
    return f"{_times(expression)}{_days(expression)}, {rule.timezone} time"


def _changes(rule: Rule, expression: Cron, shift: timedelta) -> str:
    if rule.dst == "run_once" and expression.every_hour and expression.is_same_after(shift):
        return "through a clock change it goes by the time that passes"
    return _CHANGES[rule.dst]


def _times(expression: Cron) -> str:
    minutes, hours = expression.minutes, expression.hours
    if len(minutes) * len(hours) <= _MOST_TIMES:
        return "At " + _listed([f"{hour:02}:{minute:02}" for hour in hours for minute in minutes])
    if not _is_step(minutes):
        every = "At minute " + _listed(_runs(minutes))
        return f"{every} of every hour" if expression.every_hour else f"{every} of the hours {_listed(_runs(hours))}"
    every = f"Every {duration(3600 // len(minutes)).removeprefix('1 ')}"
    return every if expression.every_hour else f"{every} in the hours {_listed(_runs(hours))}"


def _is_step(minutes: Sequence[int]) -> bool:
    count = len(minutes)
    return count > 1 and 60 % count == 0 and tuple(minutes) == tuple(range(0, 60, 60 // count))


def _days(expression: Cron) -> str:
    days = "" if expression.any_day and len(expression.days) == 31 else _days_of_month(expression)
    weekdays = "" if expression.any_weekday and len(expression.weekdays) == 7 else _days_of_week(expression)
    joint = " and " if expression.any_day or expression.any_weekday else " or "
    found = joint.join(each for each in (days, weekdays) if each)
    if len(expression.months) < 12:
        months = _listed([_MONTHS[month - 1] for month in sorted(expression.months)])
        found = f"{found} in {months}" if found else f"every day in {months}"
    return f", {found}" if found else ", every day"


def _days_of_month(expression: Cron) -> str:
    return "on day " + _listed(_runs(sorted(expression.days))) + " of the month"


def _days_of_week(expression: Cron) -> str:
    days = sorted(expression.weekdays)
    if len(days) > 2 and days == list(range(days[0], days[-1] + 1)):
        return f"on {_WEEKDAYS[days[0]]} to {_WEEKDAYS[days[-1]]}"
    return "on " + _listed([_WEEKDAYS[day] for day in days])


def _runs(values: Sequence[int]) -> list[str]:
    """Return numbers, three and more in a row as a range."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    found: list[str] = []
    for run in runs:
        found += [f"{run[0]}-{run[-1]}"] if len(run) > 2 else [str(value) for value in run]
    return found


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _counted(number: int, unit: str) -> str:
    return f"{number} {unit}" + ("" if number == 1 else "s")


def _offsets(timezone: str) -> set[timedelta]:
    zone = ZoneInfo(timezone)
    return {datetime(2026, month, 1, tzinfo=zone).utcoffset() or timedelta() for month in range(1, 13)}
