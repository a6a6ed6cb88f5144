"""The sandbox worker's activity: what runs one tool call, at most once, and says what it came to."""

import asyncio
import json
from typing import Any

import structlog
from temporalio import activity

from harness_adapters import toolset
from harness_adapters.contract import TextBlock, ToolOutcome
from sandbox.contract import ExecRequest, ExecResult, SandboxError, SandboxLostError
from sandbox.keeper import Held, Keeper
from workflows.contracts import RUN_TOOL, ToolCallInput
from workflows.limits import KILL_WAIT_SECONDS
from workflows.records import Journal, JournaledCall
from workflows.tools import failure, interrupted, unknown
from workflows.turn import heartbeats

_log = structlog.get_logger(__name__)


class ToolRunner:
    """Runs journaled tool calls in the sandboxes of this host."""

    def __init__(self, *, worker_id: str, journal: Journal, keeper: Keeper):
        self._worker_id = worker_id
        self._journal = journal
        self._keeper = keeper

    @activity.defn(name=RUN_TOOL)
    async def run_tool(self, call: ToolCallInput) -> str:
        """Run the call, or attach to the run of an earlier attempt; return the journal's final state."""
        structlog.contextvars.bind_contextvars(session_id=call.session_id, tool_use_id=call.tool_use_id)
        async with heartbeats():
            row = await self._journal.start(call, worker_id=self._worker_id, task_token=activity.info().task_token)
            if row.state != "dispatched":
                return row.state
            try:
                state = await self._run(call, row)
            except SandboxError as error:
                await self._journal.finish(call, "confirmed", failure(call.tool_use_id, f"No sandbox: {error}"))
                state = "confirmed"
            _log.info("tool_call_ended", tool=row.name, state=state)
            return state

    async def _run(self, call: ToolCallInput, row: JournaledCall) -> str:
        if row.sandbox_id is not None:
            return await self._reattach(call, row)
        held = await self._keeper.ensure(call.workspace_id, call.session_id)
        await self._journal.bind(call, held.row.id)
        if row.name == toolset.PROVISION:
            return await self._finish(call, _provisioned(call, held), held.row.details)
        return await self._execute(call, row, held)

    async def _reattach(self, call: ToolCallInput, row: JournaledCall) -> str:
        """An earlier attempt had the call in hand: only the sandbox can say what became of it."""
        held = await self._keeper.holding(call.workspace_id, call.session_id, row.sandbox_id)
        if held is None:
            await self._journal.finish(call, "unknown", unknown(call.tool_use_id))
            return "unknown"
        if row.name == toolset.PROVISION:
            return await self._finish(call, _provisioned(call, held), held.row.details)
        return await self._execute(call, row, held)

    async def _execute(self, call: ToolCallInput, row: JournaledCall, held: Held) -> str:
        provider = self._keeper.provider(held.row)
        request = _request(call.tool_use_id, row)
        try:
            result = await provider.execute(held.row.id, request)
        except SandboxLostError:
            await self._keeper.lost(held.row)
            await self._journal.finish(call, "unknown", unknown(call.tool_use_id))
            return "unknown"
        except asyncio.CancelledError:
            if not interrupted():
                raise
            await provider.kill(held.row.id, request.exec_id)
            async with asyncio.timeout(KILL_WAIT_SECONDS):
                result = await provider.execute(held.row.id, request)
        outcome = _described(call.tool_use_id, result, fresh=held.fresh and held.row.generation > 1)
        return await self._finish(call, outcome, result.model_dump(exclude={"stdout", "stderr"}))

    async def _finish(self, call: ToolCallInput, outcome: ToolOutcome, details: dict[str, Any]) -> str:
        await self._journal.finish(call, "confirmed", outcome, details=details)
        return "confirmed"


def _request(exec_id: str, row: JournaledCall) -> ExecRequest:
    command = toolset.command(row.name, row.input)
    return ExecRequest(
        exec_id=exec_id,
        command=command.command,
        stdin=command.stdin,
        cwd=command.cwd,
        timeout_seconds=command.timeout_seconds,
    )


def _provisioned(call: ToolCallInput, held: Held) -> ToolOutcome:
    text = json.dumps(
        {
            "sandbox_id": held.row.id,
            "generation": held.row.generation,
            "source": "cold" if held.fresh else "existing",
            "expires_at": held.row.expires_at.isoformat(),
            "isolation_effective": held.row.details.get("isolation"),
            "timings_ms": held.row.details.get("timings_ms"),
        }
    )
    return ToolOutcome(tool_use_id=call.tool_use_id, content=[TextBlock(text=text)])


_ENDINGS = {
    "timeout": "[timed out; everything the command started was killed]",
    "killed": "[interrupted; everything the command started was killed]",
    "oom": "[killed: out of memory]",
    "lost": "[outcome unknown: the sandbox could not say how the command ended; check its effects]",
    "output_limit": "[killed: it wrote more output than is allowed]",
    "running": "[still running]",
}


def _described(tool_use_id: str, result: ExecResult, *, fresh: bool) -> ToolOutcome:
    parts = [
        "[this is a new sandbox: the one before it has ended, and its files with it]" if fresh else "",
        result.stdout,
        f"[stderr]\n{result.stderr}" if result.stderr else "",
        f"[{result.dropped_bytes} bytes in the middle of the output were dropped]" if result.dropped_bytes else "",
        _ENDINGS.get(result.status, ""),
        f"[exit code {result.exit_code}]" if result.status == "exited" and result.exit_code != 0 else "",
    ]
    text = "\n".join(part.rstrip("\n") for part in parts if part)
    return ToolOutcome(
        tool_use_id=tool_use_id,
        content=[TextBlock(text=text or "(no output)")],
        is_error=result.status != "exited" or result.exit_code != 0,
    )
