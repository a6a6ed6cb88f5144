"""A schedule as it was asked for: refused with the field where it cannot be, and said back in words."""

from datetime import datetime, timedelta

from controlplane.checks import refused
from controlplane.store.deployments import DeploymentRecord, ScheduleSettings
from controlplane.wire.deployments import Schedule, ScheduleRequest
from workflows import cron
from workflows.calendar import is_zone, upcoming
from workflows.cron import CronError
from workflows.wording import duration, in_words

_SHOWN = 5
_FURTHEST_END = timedelta(days=36_500)

_MOST_MADE_UP = 7 * 24 * 60
"""Fire times that a catch-up window may hold: those of every minute in the longest window."""


def settings_of(
    wanted: ScheduleRequest, *, now: datetime, before: ScheduleSettings | None = None
) -> ScheduleSettings:
    """Return what is kept of a schedule; one whose interval stays as it was goes on from where it began."""
    _check(wanted, now)
    keeps_anchor = before is not None and before.interval_seconds == wanted.interval
    settings = ScheduleSettings(
        expression=wanted.expression,
        interval_seconds=wanted.interval,
        timezone=wanted.timezone,
        exclude_dates=frozenset(wanted.exclude_dates),
        dst=wanted.dst,
        ends_at=wanted.ends_at,
        anchor=before.anchor if before is not None and keeps_anchor else now.replace(microsecond=0),
        jitter_seconds=wanted.jitter,
        overlap=wanted.overlap,
        catchup_window_seconds=wanted.catchup_window,
        max_runs=wanted.max_runs,
    )
    _check_fires(settings, now)
    return settings


def shown(settings: ScheduleSettings, *, now: datetime, record: DeploymentRecord | None = None) -> Schedule:
    """Return a schedule as clients see it; ``record``: of which deployment, if it is made."""
    left = _SHOWN
    if record is not None:
        done = not record.has_fire_times
        left = 0 if done else min(_SHOWN, (settings.max_runs or record.runs_started + _SHOWN) - record.runs_started)
    elif settings.max_runs is not None:
        left = min(_SHOWN, settings.max_runs)
    return Schedule(
        expression=settings.expression or f"@every {settings.interval_seconds}s",
        timezone=settings.timezone,
        last_run_at=record.last_run_at if record else None,
        upcoming_runs_at=upcoming(settings, now, left),
        in_words=_said(settings),
        interval=settings.interval_seconds,
        exclude_dates=sorted(settings.exclude_dates),
        dst=settings.dst,
        jitter=settings.jitter_seconds,
        overlap=settings.overlap,
        catchup_window=settings.catchup_window_seconds,
        max_runs=settings.max_runs,
        runs_started=record.runs_started if record else 0,
        ends_at=settings.ends_at,
    )


def _said(settings: ScheduleSettings) -> str:
    parts = [in_words(settings)]
    if settings.jitter_seconds:
        parts.append(f"Each is put off by up to {duration(settings.jitter_seconds)}.")
    if settings.max_runs is not None:
        parts.append("Once at most." if settings.max_runs == 1 else f"At most {settings.max_runs} times.")
    return " ".join(parts)


def _check(wanted: ScheduleRequest, now: datetime) -> None:
    if not is_zone(wanted.timezone):
        raise refused(
            "schedule.timezone",
            "no zone of this name in the IANA database",
            code="unknown_timezone",
            next_step="write it as Europe/Berlin or UTC",
        )
    if (wanted.expression is None) == (wanted.interval is None):
        raise refused(
            "schedule.expression",
            "a schedule has an expression or an interval, and not both",
            next_step="give one of the two",
        )
    if wanted.expression is not None:
        _check_expression(wanted, wanted.expression)
    elif wanted.interval is not None and wanted.interval < 60 and not wanted.more_than_once_a_minute:
        raise refused(
            "schedule.interval",
            "more than once a minute",
            code="too_frequent",
            next_step="set schedule.more_than_once_a_minute if that is what you want",
        )
    if wanted.interval is not None and wanted.catchup_window > wanted.interval * _MOST_MADE_UP:
        raise refused(
            "schedule.catchup_window",
            f"it holds more than {_MOST_MADE_UP} fire times of this interval",
            next_step="give a shorter window",
        )
    if wanted.ends_at is not None and not now < wanted.ends_at < now + _FURTHEST_END:
        raise refused("schedule.ends_at", "not in the future, or too far in it", next_step="omit it, or correct it")


def _check_expression(wanted: ScheduleRequest, expression: str) -> None:
    try:
        cron.check(expression)
    except CronError as error:
        raise refused(
            "schedule.expression",
            str(error),
            code="invalid_cron",
            next_step="write minute, hour, day of month, month and day of week, such as '0 9 * * 1-5'",
        ) from error
    if "timezone" not in wanted.model_fields_set:
        raise refused(
            "schedule.timezone", "missing: an expression needs a zone", next_step="name one, such as Europe/Berlin"
        )


def _check_fires(settings: ScheduleSettings, now: datetime) -> None:
    if upcoming(settings, now, 1):
        return
    without_end = settings.model_copy(update={"ends_at": None})
    without_both = without_end.model_copy(update={"exclude_dates": frozenset()})
    if upcoming(without_end, now, 1):
        field, reason = "ends_at", "the schedule ends before it fires once"
    elif upcoming(without_both, now, 1):
        field, reason = "exclude_dates", "no date is left on which the schedule fires"
    else:
        field, reason = "expression", "it never fires: there is no such date within nine years"
    raise refused(f"schedule.{field}", reason, code="never_fires", next_step="correct the field")
