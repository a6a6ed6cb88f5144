"""The clock changes of zones, found by looking at every quarter of an hour: what calculations are compared with."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

ZONES = ("Europe/Berlin", "America/New_York", "America/Santiago", "Australia/Lord_Howe", "Africa/Casablanca")
YEARS = (2026, 2027, 2028)

_STEP = timedelta(minutes=15)


def changes(zone_name: str) -> list[datetime]:
    """Return the instants of `YEARS` from which on a zone's clocks show another offset."""
    zone = ZoneInfo(zone_name)
    found: list[datetime] = []
    instant, end = datetime(YEARS[0], 1, 1, tzinfo=UTC), datetime(YEARS[-1] + 1, 1, 1, tzinfo=UTC)
    before = instant.astimezone(zone).utcoffset()
    while instant < end:
        instant += _STEP
        after = instant.astimezone(zone).utcoffset()
        if after != before:
            found.append(instant)
            before = after
    return found


def showing(zone_name: str, local: datetime, near: datetime) -> list[datetime]:
    """Return the instants within two days of ``near`` at which a zone's clocks show a local time."""
    zone = ZoneInfo(zone_name)
    minutes = (near + timedelta(minutes=number) for number in range(-2 * 1440, 2 * 1440))
    return [each for each in minutes if each.astimezone(zone).replace(tzinfo=None) == local]


def touched(zone_name: str, change: datetime) -> list[datetime]:
    """Return the local times, by quarters of an hour, that a change skips or repeats."""
    zone = ZoneInfo(zone_name)
    before = (change - _STEP).astimezone(zone).replace(tzinfo=None) + _STEP
    after = change.astimezone(zone).replace(tzinfo=None)
    first, last = min(before, after), max(before, after)
    return [first + number * _STEP for number in range((last - first) // _STEP)]
