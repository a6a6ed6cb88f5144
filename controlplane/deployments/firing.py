"""Runs of deployments, from their recording to their end: what may begin, and what is left out, refused or stopped.

All of it happens in one transaction that holds the deployment's row, whoever starts it: Temporal's schedule, a
person, a delivery, or the reconciler. So two of them cannot start one run twice, overlap means the same for all, and
whatever fails leaves neither a run nor a session.
"""

from collections import deque
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any

from controlplane.deployments.launch import launch
from controlplane.errors import BulkheadError, RateLimitedError
from controlplane.ids import derived_id
from controlplane.store import deployment_runs, deployments, due, events
from controlplane.store.deployment_runs import FAILURES, NewRun, Outcome, RunRecord
from controlplane.store.deployments import DeploymentRecord
from controlplane.store.due import Rested
from controlplane.store.events import Event, NewEvent
from controlplane.store.pool import Connection
from workflows.calendar import fire_times, fires_at

_INSTANT = timedelta(microseconds=1)

_LONGEST_ABSENCE = timedelta(days=7)
"""Of a longer one nothing older is looked at: no catch-up window is longer."""

_MOST_MISSED = 100
"""Firings beyond the catch-up window that are recorded as missed; of a longer absence the latest are."""

_MOST_MADE_UP = 100
"""Firings that are made up for in one transaction, which keeps others from the deployment: a second's worth."""

MAX_OPEN_RUNS = 100
"""Of one deployment that wait or run: far more than anybody follows, and a bound for what never ends."""

_ERROR_TYPES = {
    "agent_archived": "agent_archived_error",
    "environment_archived": "environment_archived_error",
    "environment_not_found": "environment_not_found_error",
    "vault_archived": "vault_archived_error",
    "vault_not_found": "vault_not_found_error",
    "file_not_found": "file_not_found_error",
    "memory_store_archived": "memory_store_archived_error",
    "memory_store_not_found": "session_resource_not_found_error",
    "mcp_egress_blocked": "mcp_egress_blocked_error",
    "too_many_runs": "session_rate_limited_error",
    "key_revoked": "unknown_error",
    "budget_reached": "unknown_error",
}
"""The wire format's errors by our codes. It has none for a revoked key or a spent budget, and one for all else."""

_REJECTED = "session_creation_rejected_error"
_PASSING = {_REJECTED, "session_rate_limited_error"}
"""Errors that do not pause a deployment: the next run may fare better."""

Queued = list[tuple[str, list[Event]]]
"""Sessions and what was queued for them: their workflows are told when the transaction has been committed."""


class Firing:
    """What is done for one deployment in one transaction, which holds its row; ``queued`` is for after the commit."""

    def __init__(self, connection: Connection, deployment: DeploymentRecord, *, now: datetime):
        self._connection = connection
        self._deployment = deployment
        self._now = now
        self.queued: Queued = []

    async def on_time(self, at: datetime, *, give_up: bool = False) -> None:
        """Fire at a time of the schedule; one that is recorded, or that the schedule has no more, does nothing.

        ``give_up``: beginning it keeps failing in a way that nobody foresaw; the run is recorded as failed of that.
        """
        schedule = self._deployment.schedule
        if schedule is None or not self._deployment.fires or not fires_at(schedule, at):
            return
        run = await self._record(NewRun(id=run_id(self._deployment.id, at), kind="schedule", scheduled_at=at))
        if run is None:
            return
        if at == self._deployment.next_at:
            await deployments.advance(self._connection, self._deployment, beyond=at)
        late = self._now - at - timedelta(seconds=schedule.jitter_seconds)
        others = await self._others(run)
        if late > timedelta(seconds=schedule.catchup_window_seconds):
            await self._leave_out(run, "missed", f"it came {late} too late, beyond the catch-up window")
        elif give_up:
            message = "the run could not be begun for a reason that nobody foresaw; the API's log: firing_given_up"
            await self._fail(run, {"type": "unknown_error", "code": "internal_error", "message": message})
        elif others and (schedule.overlap == "skip" or self._is_buffered(others)):
            await self._leave_out(run, "skipped", f"run {others[0].id} had not ended (overlap: {schedule.overlap})")
        else:
            await deployments.count_started(self._connection, self._deployment, now=self._now)
            if not others or schedule.overlap != "buffer_one":
                await self._begin(run)

    async def make_up(self, until: datetime) -> bool:
        """Fire at the times up to ``until`` that have no run, as the schedule says; say whether those are all.

        Before the schedule changes, this is done up to now: by the new one the times would have no run.
        """
        times = self._unrecorded(until)
        for at in times[:_MOST_MADE_UP]:
            await self.on_time(at)
            self._deployment = await deployments.get(self._connection, self._deployment.id)
        is_all = len(times) <= _MOST_MADE_UP
        if self._deployment.next_at is not None:
            done = max(until, self._deployment.next_at - _INSTANT) if is_all else times[_MOST_MADE_UP - 1]
            await deployments.advance(self._connection, self._deployment, beyond=done)
        return is_all

    async def call_off(self, reason: str) -> None:
        """Record of the firings that are due or wait that they do not begin: the deployment is being stopped."""
        ids = {run_id(self._deployment.id, at): at for at in self._unrecorded(self._now)}
        error = _left_out("cancelled", reason)
        await deployment_runs.record_cancelled(self._connection, self._deployment, ids, error=error)
        for run in await deployment_runs.open_of(self._connection, self._deployment.id):
            if run.state == "waiting":
                await deployment_runs.end(self._connection, run.id, "cancelled", error=error)

    def _unrecorded(self, until: datetime) -> list[datetime]:
        """Return the times that have no run: all within the catch-up window, and the latest of those before it."""
        schedule, start = self._deployment.schedule, self._deployment.next_at
        if schedule is None or start is None:
            return []
        oldest = self._now - timedelta(seconds=schedule.jitter_seconds)
        times = takewhile(
            lambda at: at <= until, fire_times(schedule, max(start, oldest - _LONGEST_ABSENCE) - _INSTANT)
        )
        missed: deque[datetime] = deque(maxlen=_MOST_MISSED)
        made_up: list[datetime] = []
        for at in times:
            is_missed = at < oldest - timedelta(seconds=schedule.catchup_window_seconds)
            (missed if is_missed else made_up).append(at)
        return [*missed, *made_up]

    async def at_once(self, new: NewRun) -> RunRecord:
        """Run now, whatever else runs."""
        run = await self._record(new)
        if run is not None:
            await self._begin(run, cancels=False)
        return await deployment_runs.get(self._connection, new.id)

    async def in_line(self, *new: NewRun) -> list[RunRecord]:
        """Run one after the other, behind what runs and waits; but deliveries at once where runs may overlap.

        Raises `RateLimitedError` where too many wait.
        """
        open_runs = await deployment_runs.open_of(self._connection, self._deployment.id)
        if len(open_runs) + len(new) > MAX_OPEN_RUNS:
            raise RateLimitedError(
                f"{len(open_runs)} runs of the deployment wait or run, and at most {MAX_OPEN_RUNS} may",
                code="too_many_runs",
                field="deployment_id",
                next_step="wait until some have ended",
            )
        recorded = [run.id for each in new if (run := await self._record(each)) is not None]
        await self.promote()
        return [await deployment_runs.get(self._connection, each) for each in recorded]

    async def promote(self) -> None:
        """Begin the runs that wait and need wait no longer; of a deployment that was stopped none begins any more."""
        deployed = self._deployment
        if deployed.archived_at is not None or deployed.paused_reason is not None:
            how = "archived" if deployed.archived_at is not None else "paused"
            await self.call_off(f"the deployment was {how} while it waited")
            return
        open_runs = await deployment_runs.open_of(self._connection, deployed.id)
        for run in (each for each in open_runs if each.state == "waiting"):
            overlaps = run.kind != "backfill" and deployed.overlap in ("allow", "cancel_other")
            if overlaps or not await self._running():
                await self._begin(run)
            if self._deployment.paused_reason is not None:
                return

    async def end_rested(self, run_id: str) -> None:
        """End a run of which nothing is left to do, with what came of it; one that goes on again is left alone."""
        rested = await due.still_rested(self._connection, run_id)
        if rested is not None:
            outcome, detail = _came_to(rested)
            await self._end(run_id, outcome, detail=detail)

    async def end_overdue(self) -> None:
        """Interrupt what runs beyond the deadline that it began with."""
        for run in await self._running():
            if run.deadline_at is not None and run.started_at is not None and run.deadline_at < self._now:
                ran = (run.deadline_at - run.started_at).total_seconds()
                await self._interrupt(run, "deadline_exceeded", f"it ran for more than {ran:.0f} s")

    async def _record(self, new: NewRun) -> RunRecord | None:
        agent = (self._deployment.agent_id, self._deployment.agent_version)
        is_new = await deployment_runs.record(
            self._connection, self._deployment.workspace_id, deployment_id=self._deployment.id, agent=agent, new=new
        )
        return await deployment_runs.get(self._connection, new.id) if is_new else None

    async def _others(self, run: RunRecord) -> list[RunRecord]:
        found = await deployment_runs.open_of(self._connection, self._deployment.id)
        return [each for each in found if each.id != run.id]

    async def _running(self) -> list[RunRecord]:
        found = await deployment_runs.open_of(self._connection, self._deployment.id)
        return [each for each in found if each.state == "running"]

    def _is_buffered(self, others: list[RunRecord]) -> bool:
        return self._deployment.overlap == "buffer_one" and any(each.state == "waiting" for each in others)

    async def _begin(self, run: RunRecord, *, cancels: bool = True) -> None:
        running = await self._running()
        if self._deployment.overlap == "cancel_other" and cancels:
            for other in running:
                await self._interrupt(other, "cancelled", f"run {run.id} took its place (overlap: cancel_other)")
            running = []
        try:
            if len(running) >= MAX_OPEN_RUNS:
                raise RateLimitedError(f"{MAX_OPEN_RUNS} runs of the deployment run already", code="too_many_runs")
            async with self._connection.transaction():
                queued = await launch(self._connection, self._deployment, run)
        except BulkheadError as error:
            if error.type in ("api_error", "overloaded_error"):
                raise
            kind = _ERROR_TYPES.get(error.code, _REJECTED)
            await self._fail(run, {"type": kind, "code": error.code, "message": error.message})
        else:
            self.queued.append(queued)

    async def _leave_out(self, run: RunRecord, outcome: Outcome, reason: str) -> None:
        await deployment_runs.end(self._connection, run.id, outcome, error=_left_out(outcome, reason))

    async def _fail(self, run: RunRecord, error: dict[str, Any]) -> None:
        await self._end(run.id, "failed", error=error)
        if run.kind != "manual" and error["type"] not in _PASSING:
            await self._pause(error)

    async def _end(
        self, run_id: str, outcome: Outcome, *, error: dict[str, Any] | None = None, detail: str | None = None
    ) -> None:
        if not await deployment_runs.end(self._connection, run_id, outcome, error=error, detail=detail):
            return
        if outcome != "succeeded":
            await deployment_runs.withdraw(self._connection, run_id)
        run = await deployment_runs.get(self._connection, run_id)
        if run.kind == "manual" or outcome not in {*FAILURES, "succeeded"}:
            return
        failures = await deployments.count_failure(self._connection, self._deployment.id, failed=outcome in FAILURES)
        most = self._deployment.pause_on_failure
        if outcome in FAILURES and most is not None and failures >= most:
            message = f"{failures} runs in a row have failed; the last was {run_id}"
            await self._pause({"type": "unknown_error", "code": "too_many_failures", "message": message})

    async def _pause(self, error: dict[str, Any]) -> None:
        await self.call_off("the deployment was paused before it could begin")
        reason = {"type": "error", "error": error}
        await deployments.pause(self._connection, self._deployment.id, reason, now=self._now)
        self._deployment = await deployments.get(self._connection, self._deployment.id)

    async def _interrupt(self, run: RunRecord, outcome: Outcome, reason: str) -> None:
        """End a run from outside: what its session has not begun for it is withdrawn, what it does is stopped."""
        if run.session_id is not None:
            await due.hold_session(self._connection, run.id)
        await self._end(run.id, outcome, detail=reason)
        if run.session_id is not None and await deployment_runs.is_under_way(self._connection, run.id):
            stop = NewEvent(type="user.interrupt", queued=True)
            self.queued.append((run.session_id, await events.append(self._connection, run.session_id, [stop])))


def run_id(deployment_id: str, at: datetime) -> str:
    """Return the id of the run of a fire time: there is one, whoever starts it, and however often."""
    return derived_id("drun", deployment_id, at.isoformat())


def _left_out(outcome: Outcome, reason: str) -> dict[str, Any]:
    return {"type": _REJECTED, "code": f"run_{outcome}", "message": f"the run was {outcome}: {reason}"}


def _came_to(rested: Rested) -> tuple[Outcome, str | None]:
    if rested.is_gone:
        return "failed", "its session is no more"
    stop = (rested.stop_reason or {}).get("type")
    message = (rested.failure or rested.stop_reason or {}).get("message")
    because = f"{stop}: {message}" if message else f"{stop}"
    if rested.waits:
        return "failed", f"its session came to rest before its turn: {because}"
    if rested.ended == "end_turn":
        return "succeeded", None
    if rested.ended in ("interrupted", "requires_action"):
        return "cancelled", "somebody interrupted it"
    return "failed", f"its session came to rest: {because}"
