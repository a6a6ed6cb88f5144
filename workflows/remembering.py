"""The memory worker's activity: what runs one call of a memory tool, exactly once."""

import structlog
from temporalio import activity

from workflows.contracts import RUN_TOOL, ToolCallInput
from workflows.heartbeat import heartbeats
from workflows.limits import MAX_TOOL_CRASHES, TOOL_PATIENCE
from workflows.outcomes import not_run
from workflows.records import Journal, Remembering, SessionGoneError

_log = structlog.get_logger(__name__)


class MemoryRunner:
    """Runs journaled calls of memory tools. Effect and outcome are one transaction: a repeat finds both or none."""

    def __init__(self, *, worker_id: str, journal: Journal, memory: Remembering):
        self._worker_id = worker_id
        self._journal = journal
        self._memory = memory

    @activity.defn(name=RUN_TOOL)
    async def run_tool(self, call: ToolCallInput) -> str:
        """Run the call, unless it has an outcome; return the journal's final state."""
        structlog.contextvars.bind_contextvars(session_id=call.session_id, tool_use_id=call.tool_use_id)
        async with heartbeats():
            try:
                row = await self._journal.start(
                    call, worker_id=self._worker_id, task_token=activity.info().task_token
                )
                if row.state != "dispatched":
                    return row.state
                if row.crashes >= MAX_TOOL_CRASHES:
                    return await self._give_up(call, f"its worker died {row.crashes} times")
                state = await self._memory.run(call, row)
            except SessionGoneError:
                return "gone"
            except Exception as error:  # noqa: BLE001 - raised again, unless it has been for too long
                return await self._bear(call, error)
            _log.info("memory_call_ended", tool=row.name, state=state)
            return state

    async def _bear(self, call: ToolCallInput, error: Exception) -> str:
        """Have a call tried again, or give it up once every attempt has failed for too long."""
        said = f"memory could not be used ({type(error).__name__})"
        seconds = await self._journal.attempt_ended(call, trouble=said)
        if seconds < TOOL_PATIENCE.total_seconds():
            raise error
        return await self._give_up(call, f"for {seconds / 60:.0f} minutes every attempt has failed: {said}")

    async def _give_up(self, call: ToolCallInput, why: str) -> str:
        await self._journal.finish(call, "refused", not_run(call.tool_use_id, why))
        return "refused"
