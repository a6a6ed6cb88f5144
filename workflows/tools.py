"""Tool calls: dispatched by the turn as standalone activities, run by the sandbox worker, journaled by both."""

import asyncio
import contextlib

import structlog
from temporalio.client import ActivityFailureError, ActivityHandle, Client
from temporalio.common import ActivityIDConflictPolicy, ActivityIDReusePolicy, RetryPolicy
from temporalio.exceptions import (
    ActivityAlreadyStartedError,
    ApplicationError,
    TimeoutType,
)
from temporalio.exceptions import (
    TimeoutError as TemporalTimeoutError,
)
from temporalio.service import RPCError

from harness_adapters import toolset
from harness_adapters.contract import ToolOutcome, ToolUse, UserInput
from workflows.contracts import MEMORY_QUEUE, RUN_TOOL, SANDBOX_QUEUE, WRONG_HOST, ToolCallInput, host_queue
from workflows.interrupts import interrupted
from workflows.limits import (
    HOST_PATIENCE,
    KILL_WAIT_SECONDS,
    TOOL_HEARTBEAT_TIMEOUT,
    TOOL_TIMEOUT,
    TURN_RETRY_FIRST,
    TURN_RETRY_LONGEST,
)
from workflows.outcomes import failure, unknown
from workflows.records import Journal, JournaledCall, TurnRecords, TurnStart

_log = structlog.get_logger(__name__)


class ToolDispatcher:
    """Sends tool calls to the sandbox queue; the activity's id is the tool use's id, so none is sent twice."""

    def __init__(self, *, client: Client, journal: Journal, records: TurnRecords):
        self._client = client
        self._journal = journal
        self._records = records

    def port(self, turn: TurnStart) -> "TurnTools":
        """Return the tools of one turn."""
        return TurnTools(turn, client=self._client, journal=self._journal, records=self._records)


class TurnTools:
    """The `TurnPort` of one turn."""

    def __init__(self, turn: TurnStart, *, client: Client, journal: Journal, records: TurnRecords):
        self._turn = turn
        self._client = client
        self._journal = journal
        self._records = records

    async def steering(self) -> list[UserInput]:
        """Take what was said to steer the turn."""
        return await self._records.steering(self._turn)

    async def call(self, use: ToolUse) -> ToolOutcome | None:
        """Dispatch the call, or attach to it if it has been dispatched before, and return its recorded outcome.

        None: it waits for a person or for its client.
        """
        if (problem := self._problem(use)) is not None:
            return await self._journal.refuse(self._turn, use, failure(use.event_id, problem))
        row = await self._journal.dispatch(self._turn, use)
        if row.outcome is not None:
            return row.outcome
        if row.state == "intended":
            return None
        call = ToolCallInput(tool_use_id=use.event_id, session_id=row.session_id, workspace_id=row.workspace_id)
        try:
            await self._run(call, _queue(row))
        except asyncio.CancelledError:
            if interrupted():
                await self._cancel(call)
            raise
        except ActivityFailureError as error:
            _log.warning("tool_activity_failed", tool_use_id=use.event_id, cause=repr(error.cause))
        return await self._outcome(call)

    def _problem(self, use: ToolUse) -> str | None:
        tool = next((tool for tool in self._turn.spec.tools if tool.name == use.name), None)
        if tool is None:
            return f"There is no tool named {use.name!r}."
        return toolset.check(use.name, use.input, is_custom=toolset.is_custom(tool))

    async def _run(self, call: ToolCallInput, queue: str) -> None:
        """Have the call run where its session's sandbox is; what arrives at the wrong host has not been started."""
        while True:
            try:
                await (await self._start(call, queue)).result()
            except ActivityFailureError as error:
                row = await self._journal.read(call)
                if row is None or row.outcome is not None or not _is_misrouted(error):
                    raise
                _log.info("tool_call_rerouted", tool_use_id=call.tool_use_id, host=row.host)
                queue = _queue(row)
                await asyncio.sleep(TURN_RETRY_FIRST.total_seconds())
            else:
                return

    async def _start(self, call: ToolCallInput, queue: str) -> ActivityHandle[str]:
        try:
            return await self._client.start_activity(
                RUN_TOOL,
                call,
                id=call.tool_use_id,
                task_queue=queue,
                result_type=str,
                schedule_to_start_timeout=None if queue in {SANDBOX_QUEUE, MEMORY_QUEUE} else HOST_PATIENCE,
                start_to_close_timeout=TOOL_TIMEOUT,
                heartbeat_timeout=TOOL_HEARTBEAT_TIMEOUT,
                # A call that was dispatched to the wrong host has failed before it began; the journal is the fence.
                id_reuse_policy=ActivityIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
                id_conflict_policy=ActivityIDConflictPolicy.USE_EXISTING,
                retry_policy=RetryPolicy(initial_interval=TURN_RETRY_FIRST, maximum_interval=TURN_RETRY_LONGEST),
            )
        except ActivityAlreadyStartedError:
            return self._client.get_activity_handle(activity_id=call.tool_use_id, result_type=str)

    async def _outcome(self, call: ToolCallInput) -> ToolOutcome:
        row = await self._journal.read(call)
        if row is not None and row.outcome is not None:
            return row.outcome
        lost = unknown(call.tool_use_id, "the sandbox worker gave up")
        return await self._journal.finish(call, "unknown", lost)

    async def _cancel(self, call: ToolCallInput) -> None:
        """Have the command killed and its outcome recorded; what comes too late is recorded as unknown."""
        handle = self._client.get_activity_handle(activity_id=call.tool_use_id)
        with contextlib.suppress(RPCError, ActivityFailureError, TimeoutError):
            async with asyncio.timeout(KILL_WAIT_SECONDS):
                await handle.cancel()
                await handle.result()


def _queue(row: JournaledCall) -> str:
    if row.name in toolset.MEMORY_TOOLS:
        return MEMORY_QUEUE
    return host_queue(row.host) if row.host else SANDBOX_QUEUE


def _is_misrouted(error: ActivityFailureError) -> bool:
    cause = error.cause
    if isinstance(cause, TemporalTimeoutError):
        return cause.type is TimeoutType.SCHEDULE_TO_START
    return isinstance(cause, ApplicationError) and cause.type == WRONG_HOST
