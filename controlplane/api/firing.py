"""Runs of deployments, from their recording to their end: what may begin, and what is left out, refused or stopped.

All of it happens in one transaction that holds the deployment's row, whoever starts it: Temporal's schedule, a
person, a delivery, or the reconciler. So two of them cannot start one run twice, overlap means the same for all, and
whatever fails leaves neither a run nor a session.
"""

from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any

from controlplane.api.events import check_open, recorded_inputs
from controlplane.api.opening import checked_content, open_session
from controlplane.api.wire.deployments import INITIAL_EVENTS
from controlplane.api.wire.events import InputEvent, Text, UserMessage
from controlplane.api.wire.sessions import AgentAtVersion, SessionCreate
from controlplane.errors import BulkheadError, InvalidRequestError, NotFoundError, RateLimitedError
from controlplane.ids import derived_id
from controlplane.store import (
    agents,
    deliveries,
    deployment_runs,
    deployments,
    due,
    egress,
    environments,
    events,
    frontdoors,
    limits,
    sessions,
)
from controlplane.store.deployment_runs import FAILURES, NewRun, Outcome, RunRecord
from controlplane.store.deployments import DeploymentContent, DeploymentRecord
from controlplane.store.events import Event, NewEvent
from controlplane.store.pool import Connection
from workflows.calendar import fire_times, fires_at

_INSTANT = timedelta(microseconds=1)

_LONGEST_ABSENCE = timedelta(days=7)
"""Of a longer one nothing older is looked at: no catch-up window is longer."""

_MOST_MISSED = 100
"""Firings that are recorded as missed at a time; of a longer absence the latest are."""

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
            message = "the run could not be begun, for a reason that was not foreseen; the log has it"
            await self._fail(run, {"type": "unknown_error", "code": "internal_error", "message": message})
        elif others and (schedule.overlap == "skip" or self._is_buffered(others)):
            await self._leave_out(run, "skipped", f"run {others[0].id} had not ended (overlap: {schedule.overlap})")
        else:
            await deployments.count_started(self._connection, self._deployment, now=self._now)
            if not others or schedule.overlap != "buffer_one":
                await self._begin(run, others)

    async def make_up(self, until: datetime) -> None:
        """Fire at the times up to ``until`` that no run is recorded of, as the schedule says.

        Before the schedule changes, this is done up to now: by the new one the times would have no run.
        """
        for at in self._unrecorded(until):
            await self.on_time(at)
            self._deployment = await deployments.get(self._connection, self._deployment.id)
        if self._deployment.next_at is not None:
            beyond = max(until, self._deployment.next_at - _INSTANT)
            await deployments.advance(self._connection, self._deployment, beyond=beyond)

    async def call_off(self, reason: str) -> None:
        """Record of the firings that are due and have not begun that they do not: the deployment is being stopped."""
        for at in self._unrecorded(self._now):
            run = await self._record(NewRun(id=run_id(self._deployment.id, at), kind="schedule", scheduled_at=at))
            if run is not None:
                await self._leave_out(run, "cancelled", reason)

    def _unrecorded(self, until: datetime) -> list[datetime]:
        schedule, start = self._deployment.schedule, self._deployment.next_at
        if schedule is None or start is None:
            return []
        times = fire_times(schedule, max(start, until - _LONGEST_ABSENCE) - _INSTANT)
        return list(deque(takewhile(lambda at: at <= until, times), maxlen=_MOST_MISSED))

    async def at_once(self, new: NewRun) -> RunRecord:
        """Run now, whatever else runs."""
        run = await self._record(new)
        if run is not None:
            await self._begin(run, [])
        return await deployment_runs.get(self._connection, new.id)

    async def in_line(self, *new: NewRun) -> list[RunRecord]:
        """Run one after the other, behind what runs and waits, or at once where the deployment lets runs overlap.

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
        """Begin the runs that wait and need wait no longer; of an archived deployment none begins any more."""
        open_runs = await deployment_runs.open_of(self._connection, self._deployment.id)
        for run in (each for each in open_runs if each.state == "waiting"):
            if self._deployment.archived_at is not None:
                await self._leave_out(run, "cancelled", "the deployment was archived while it waited")
                continue
            others = [each for each in await self._others(run) if each.state == "running"]
            if self._deployment.paused_reason is not None:
                return
            if others and self._deployment.overlap not in ("allow", "cancel_other"):
                return
            await self._begin(run, others)

    async def end_rested(self, run_id: str) -> None:
        """End a run whose session has come to rest, with what came of it; one that goes on again is left alone."""
        rested = await due.still_rested(self._connection, run_id)
        if rested is None:
            return
        stop = (rested.stop_reason or {}).get("type")
        if stop == "end_turn" and rested.failure is None:
            await self._end(run_id, "succeeded")
            return
        message = (rested.failure or rested.stop_reason or {}).get("message")
        reason = "its session is no more" if stop is None else f"its session came to rest: {stop}"
        await self._end(run_id, "failed", detail=f"{reason}: {message}" if message else reason)

    async def end_overdue(self) -> None:
        """Interrupt what runs beyond the deadline."""
        deadline = self._deployment.deadline_seconds
        if deadline is None:
            return
        for run in await deployment_runs.open_of(self._connection, self._deployment.id):
            if run.started_at is not None and run.started_at + timedelta(seconds=deadline) < self._now:
                await self._interrupt(run, "deadline_exceeded", f"it ran for more than {deadline} s")

    async def _record(self, new: NewRun) -> RunRecord | None:
        agent = (self._deployment.agent_id, self._deployment.agent_version)
        is_new = await deployment_runs.record(
            self._connection, self._deployment.workspace_id, deployment_id=self._deployment.id, agent=agent, new=new
        )
        return await deployment_runs.get(self._connection, new.id) if is_new else None

    async def _others(self, run: RunRecord) -> list[RunRecord]:
        found = await deployment_runs.open_of(self._connection, self._deployment.id)
        return [each for each in found if each.id != run.id]

    def _is_buffered(self, others: list[RunRecord]) -> bool:
        return self._deployment.overlap == "buffer_one" and any(each.state == "waiting" for each in others)

    async def _begin(self, run: RunRecord, others: list[RunRecord]) -> None:
        if self._deployment.overlap == "cancel_other":
            for other in others:
                await self._interrupt(other, "cancelled", f"run {run.id} took its place (overlap: cancel_other)")
        try:
            async with self._connection.transaction():
                queued = await self._started(run)
        except BulkheadError as error:
            if error.type in ("api_error", "overloaded_error"):
                raise
            kind = _ERROR_TYPES.get(error.code, _REJECTED)
            await self._fail(run, {"type": kind, "code": error.code, "message": error.message})
        else:
            self.queued.append(queued)

    async def _started(self, run: RunRecord) -> tuple[str, list[Event]]:
        """Check that the run may be, now, and give its session what it is to work on."""
        deployed = self._deployment
        await self._check_rights(run)
        inputs = _with_message(INITIAL_EVENTS.validate_python(deployed.initial_events), run.message)
        session_id = await self._continued()
        if session_id is None:
            session_id, queued = await open_session(
                self._connection,
                deployed.workspace_id,
                wanted_session(deployed),
                inputs,
                by=deployed.created_by,
                deployment_id=deployed.id,
            )
            if deployed.session == "continue":
                await deployments.keep_session(self._connection, deployed.id, session_id)
        else:
            await checked_content(self._connection, wanted_session(deployed))
            new = await recorded_inputs(
                self._connection, session_id, inputs, "initial_events", by=deployed.created_by
            )
            queued = await events.append(self._connection, session_id, new)
        await self._report(run, session_id, from_seq=min(each.seq for each in queued))
        base = (await sessions.get(self._connection, session_id)).cost_usd
        await deployment_runs.begin(
            self._connection, run, session_id=session_id, inputs=[each.id for each in queued], base_cost_usd=base
        )
        return session_id, queued

    async def _report(self, run: RunRecord, session_id: str, *, from_seq: int) -> None:
        """Have the run's session be a thread where it is to be told what it comes to, if it may be there now."""
        to = self._deployment.reports_to
        door = await frontdoors.find(self._connection, to.front_door_id) if to else None
        if to is None or door is None:
            return
        if not door.rules.may_answer(to.place, self._deployment.agent_id):
            await frontdoors.refuse(self._connection, door, reason="agent_not_here", place=to.place)
            return
        heading = self._deployment.name
        await deliveries.report(
            self._connection,
            door,
            place=to.place,
            run_id=run.id,
            session_id=session_id,
            heading=heading,
            from_seq=from_seq,
        )

    async def _check_rights(self, run: RunRecord) -> None:
        if not await deployments.acts(self._connection, self._deployment):
            raise InvalidRequestError(
                f"the API key {self._deployment.created_by!r}, for which the deployment acts, was revoked",
                code="key_revoked",
                next_step="unpause the deployment with another key, which then takes its place",
            )
        if sum(each.state == "running" for each in await self._others(run)) >= MAX_OPEN_RUNS:
            raise RateLimitedError(f"{MAX_OPEN_RUNS} runs of the deployment run already", code="too_many_runs")
        spent = await limits.spent(self._connection, self._deployment.agent_id, self._deployment.budget_ids)
        if spent is not None:
            raise InvalidRequestError(f"the budget {spent.name!r} is spent", code="budget_reached")
        agent = await agents.get(self._connection, self._deployment.agent_id, version=self._deployment.agent_version)
        environment = await environments.get(self._connection, self._deployment.environment_id)
        blocked = egress.blocked_servers(environment.config, agent.definition.mcp_servers)
        if blocked:
            raise InvalidRequestError(
                f"the environment's network keeps the agent from its MCP server {blocked[0]!r}",
                code="mcp_egress_blocked",
            )

    async def _continued(self) -> str | None:
        """Return the session that goes on, if the deployment has one that takes inputs and may still be used so."""
        session_id = self._deployment.session_id
        if self._deployment.session == "new" or session_id is None:
            return None
        try:
            await check_open(self._connection, session_id)
        except (NotFoundError, InvalidRequestError):
            return None
        return session_id

    async def _leave_out(self, run: RunRecord, outcome: Outcome, reason: str) -> None:
        error = {"type": _REJECTED, "code": f"run_{outcome}", "message": f"the run was {outcome}: {reason}"}
        await deployment_runs.end(self._connection, run.id, outcome, error=error)

    async def _fail(self, run: RunRecord, error: dict[str, Any]) -> None:
        await self._end(run.id, "failed", error=error)
        if run.kind != "manual" and error["type"] not in _PASSING:
            await self._pause(error)

    async def _end(
        self, run_id: str, outcome: Outcome, *, error: dict[str, Any] | None = None, detail: str | None = None
    ) -> None:
        if not await deployment_runs.end(self._connection, run_id, outcome, error=error, detail=detail):
            return
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
        """End a run from outside: what its session has not begun it does not begin, what it does is stopped."""
        await self._end(run.id, outcome, detail=reason)
        if run.session_id is None:
            return
        await deployment_runs.withdraw_inputs(self._connection, run.id)
        session = await sessions.get(self._connection, run.session_id)
        parked = (session.stop_reason or {}).get("type") == "requires_action"
        if session.status in ("running", "rescheduling") or (session.status == "idle" and parked):
            stop = NewEvent(type="user.interrupt", queued=True)
            self.queued.append((run.session_id, await events.append(self._connection, run.session_id, [stop])))


def run_id(deployment_id: str, at: datetime) -> str:
    """Return the id of the run of a fire time: there is one, whoever starts it, and however often."""
    return derived_id("drun", deployment_id, at.isoformat())


def wanted_session(deployed: DeploymentContent) -> SessionCreate:
    """Return what the session of a deployment's run is opened with, but for its inputs."""
    return SessionCreate.model_validate(
        {
            "agent": AgentAtVersion(type="agent", id=deployed.agent_id, version=deployed.agent_version),
            "environment_id": deployed.environment_id,
            "title": deployed.name,
            "resources": deployed.resources,
            "vault_ids": deployed.vault_ids,
            "budget": deployed.budget.model_dump() if deployed.budget else None,
            "budget_ids": deployed.budget_ids,
        }
    )


def _with_message(inputs: Sequence[InputEvent], message: str | None) -> Sequence[InputEvent]:
    """Add what a trigger said to the last message that there is."""
    if message is None:
        return inputs
    place, said = [(index, each) for index, each in enumerate(inputs) if isinstance(each, UserMessage)][-1]
    content = [*said.content, Text(type="text", text=message)]
    return [*inputs[:place], said.model_copy(update={"content": content}), *inputs[place + 1 :]]
