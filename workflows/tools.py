"""Tool calls: dispatched by the turn as standalone activities, run by the sandbox worker, journaled by both."""

import asyncio
import contextlib

import structlog
from temporalio import activity
from temporalio.client import ActivityFailureError, Client
from temporalio.common import ActivityIDConflictPolicy, ActivityIDReusePolicy, RetryPolicy
from temporalio.exceptions import ActivityAlreadyStartedError

from harness_adapters import toolset
from harness_adapters.contract import TextBlock, ToolOutcome, ToolUse
from workflows.contracts import RUN_TOOL, SANDBOX_QUEUE, ToolCallInput
from workflows.limits import (
    KILL_WAIT_SECONDS,
    TOOL_HEARTBEAT_TIMEOUT,
    TOOL_TIMEOUT,
    TURN_RETRY_FIRST,
    TURN_RETRY_LONGEST,
)
from workflows.records import Journal, TurnStart

_log = structlog.get_logger(__name__)


class ToolDispatcher:
    """Sends tool calls to the sandbox queue; the activity's id is the tool use's id, so none is sent twice."""

    def __init__(self, *, client: Client, journal: Journal):
        self._client = client
        self._journal = journal

    def hands(self, turn: TurnStart) -> "TurnHands":
        """Return the tool port of one turn."""
        return TurnHands(turn, client=self._client, journal=self._journal)


class TurnHands:
    """The `ToolPort` of one turn."""

    def __init__(self, turn: TurnStart, *, client: Client, journal: Journal):
        self._turn = turn
        self._client = client
        self._journal = journal

    async def call(self, use: ToolUse) -> ToolOutcome:
        """Dispatch the call, or attach to it if it has been dispatched before, and return its recorded outcome."""
        if (problem := self._problem(use)) is not None:
            return await self._journal.refuse(self._turn, use, failure(use.event_id, problem))
        row = await self._journal.dispatch(self._turn, use)
        if row.outcome is not None:
            return row.outcome
        call = ToolCallInput(tool_use_id=use.event_id, session_id=row.session_id, workspace_id=row.workspace_id)
        try:
            await self._run(call)
        except asyncio.CancelledError:
            if interrupted():
                await asyncio.shield(self._cancel(call))
            raise
        except ActivityFailureError as error:
            _log.warning("tool_activity_failed", tool_use_id=use.event_id, cause=repr(error.cause))
        return await self._outcome(call)

    def _problem(self, use: ToolUse) -> str | None:
        if use.name not in {tool.name for tool in self._turn.spec.tools}:
            return f"There is no tool named {use.name!r}."
        if (reason := self._turn.denied.get(use.name)) is not None:
            return f"Not run: {use.name} {reason}."
        return toolset.check(use.name, use.input)

    async def _run(self, call: ToolCallInput) -> None:
        try:
            handle = await self._client.start_activity(
                RUN_TOOL,
                call,
                id=call.tool_use_id,
                task_queue=SANDBOX_QUEUE,
                result_type=str,
                start_to_close_timeout=TOOL_TIMEOUT,
                heartbeat_timeout=TOOL_HEARTBEAT_TIMEOUT,
                id_reuse_policy=ActivityIDReusePolicy.REJECT_DUPLICATE,
                id_conflict_policy=ActivityIDConflictPolicy.USE_EXISTING,
                retry_policy=RetryPolicy(initial_interval=TURN_RETRY_FIRST, maximum_interval=TURN_RETRY_LONGEST),
            )
        except ActivityAlreadyStartedError:
            handle = self._client.get_activity_handle(activity_id=call.tool_use_id, result_type=str)
        await handle.result()

    async def _outcome(self, call: ToolCallInput) -> ToolOutcome:
        row = await self._journal.read(call)
        if row is not None and row.outcome is not None:
            return row.outcome
        return await self._journal.finish(call, "unknown", unknown(call.tool_use_id))

    async def _cancel(self, call: ToolCallInput) -> None:
        handle = self._client.get_activity_handle(activity_id=call.tool_use_id)
        await handle.cancel()
        with contextlib.suppress(ActivityFailureError, TimeoutError):
            await asyncio.wait_for(handle.result(), KILL_WAIT_SECONDS)


def interrupted() -> bool:
    """Say whether the running activity is cancelled because a person wants it, not because its worker stops."""
    details = activity.cancellation_details()
    return details is not None and details.cancel_requested


def failure(tool_use_id: str, sentence: str) -> ToolOutcome:
    """An outcome that tells the model why a call did not do what it asked."""
    return ToolOutcome(tool_use_id=tool_use_id, content=[TextBlock(text=sentence)], is_error=True)


def unknown(tool_use_id: str) -> ToolOutcome:
    """What the model is told when nobody can say whether a command ran."""
    return failure(
        tool_use_id,
        "Outcome unknown: the sandbox was lost while this call was in hand. It may have run, in part or in full, "
        "or not at all. Check its effects before you repeat it.",
    )
