"""Cron expressions of five fields, as POSIX has them; pure."""

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import date, timedelta

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")

_ITEM = re.compile(r"(?P<low>\*|\w+)(-(?P<high>\w+))?(/(?P<step>\d{1,2}))?")
_LONGEST = 256


class CronError(ValueError):
    """An expression that is none; its text says which field and why."""


@dataclass(frozen=True)
class Field:
    """What one field of an expression may hold. ``names``: words for its values, from ``low`` on."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()


MINUTE = Field("minute", 0, 59)
HOUR = Field("hour", 0, 23)
DAY = Field("day of month", 1, 31)
MONTH = Field("month", 1, 12, _MONTHS)
WEEKDAY = Field("day of week", 0, 7, _WEEKDAYS)
_FIELDS = (MINUTE, HOUR, DAY, MONTH, WEEKDAY)


@dataclass(frozen=True)
class Cron:
    """The values that each field admits; ``weekdays`` counts from Sunday, 0.

    ``any_day``, ``any_weekday``: the field is `*`. Where neither is, a day counts if one of the two admits it.
    """

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: frozenset[int]
    any_day: bool
    any_weekday: bool

    def admits(self, month: int, day: int, weekday: int) -> bool:
        """Say whether a date counts; ``weekday``: from Sunday, 0."""
        if month not in self.months:
            return False
        if self.any_day or self.any_weekday:
            return day in self.days and weekday in self.weekdays
        return day in self.days or weekday in self.weekdays

    def next_date(self, first: date, last: date) -> date | None:
        """Return the first date from ``first`` to ``last`` that counts; only those that may are looked at."""
        for year in range(first.year, last.year + 1):
            for month in self.months:
                begins = (first.year, first.month)
                if (year, month) >= begins:
                    found = self._next_of_month(year, month, first.day if (year, month) == begins else 1)
                    if found is not None:
                        return found if found <= last else None
        return None

    def _next_of_month(self, year: int, month: int, day: int) -> date | None:
        length = monthrange(year, month)[1]
        both_count = self.any_day or self.any_weekday
        for each in self.days if both_count else range(1, length + 1):
            if day <= each <= length:
                found = date(year, month, each)
                if self.admits(month, each, found.isoweekday() % 7):
                    return found
        return None

    def is_same_after(self, shift: timedelta) -> bool:
        """Say whether the minutes of the hour stay what they are when the clocks are put on or back by ``shift``."""
        minutes = int(shift.total_seconds()) // 60
        return {(minute + minutes) % 60 for minute in self.minutes} == set(self.minutes)

    @property
    def every_hour(self) -> bool:
        """Whether no hour of the day is left out."""
        return len(self.hours) == 24


def parse(expression: str) -> Cron:
    """Return what an expression admits; raises `CronError`."""
    if len(expression) > _LONGEST:
        raise CronError(f"longer than {_LONGEST} characters")
    parts = expression.split()
    if len(parts) != len(_FIELDS):
        raise CronError(
            f"{len(parts)} fields; a cron expression has five: minute, hour, day of month, month, day of week"
        )
    minutes, hours, days, months, weekdays = (
        _values(part, field) for part, field in zip(parts, _FIELDS, strict=True)
    )
    return Cron(
        minutes=tuple(sorted(minutes)),
        hours=tuple(sorted(hours)),
        days=tuple(sorted(days)),
        months=tuple(sorted(months)),
        weekdays=frozenset(day % 7 for day in weekdays),
        any_day=parts[2].startswith("*"),
        any_weekday=parts[4].startswith("*"),
    )


def check(expression: str) -> None:
    """Refuse what is no expression, or has a step that is never taken; raises `CronError`.

    `parse` reads `*/99` as crond does, as the first value alone, which nobody means who writes it.
    """
    parse(expression)
    for part, field in zip(expression.split(), _FIELDS, strict=True):
        for item in part.split(","):
            match = _ITEM.fullmatch(item)
            if match is not None and match["step"] and int(match["step"]) > field.high:
                raise CronError(f"the {field.name} {_quoted(item)} has a step beyond {field.high}")


def _values(text: str, field: Field) -> set[int]:
    found: set[int] = set()
    for item in text.split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise CronError(f"the {field.name} {_quoted(item)} is no number, range or step")
        found.update(_item(match, field))
    return found


def _item(match: re.Match[str], field: Field) -> range:
    if match["low"] == "*":
        if match["high"] is not None:
            raise CronError(f"the {field.name} {_quoted(match[0])} is no range")
        low, high = field.low, field.high
    else:
        low = _number(match["low"], field)
        # As in POSIX systems at large: "5/10" is every tenth from 5 on.
        high = _number(match["high"], field) if match["high"] else (field.high if match["step"] else low)
    if low > high:
        raise CronError(f"the {field.name} {_quoted(match[0])} runs backwards")
    step = int(match["step"]) if match["step"] else 1
    if step == 0:
        raise CronError(f"the {field.name} {_quoted(match[0])} has a step of 0")
    return range(low, high + 1, step)


def _number(text: str, field: Field) -> int:
    word = text.lower()
    if word in field.names:
        return field.names.index(word) + field.low
    if not text.isascii() or not text.isdigit() or len(text) > 2:
        raise CronError(f"the {field.name} {_quoted(text)} is no {field.name}")
    value = int(text)
    if not field.low <= value <= field.high:
        raise CronError(f"the {field.name} {value} is not between {field.low} and {field.high}")
    return value


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 30 else text[:30] + "…")
