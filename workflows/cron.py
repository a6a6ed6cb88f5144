"""Cron expressions of five fields, as POSIX has them; pure."""

import re
from dataclasses import dataclass

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
    days: frozenset[int]
    months: frozenset[int]
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
        days=frozenset(days),
        months=frozenset(months),
        weekdays=frozenset(day % 7 for day in weekdays),
        any_day=parts[2].startswith("*"),
        any_weekday=parts[4].startswith("*"),
    )


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
