"""The sandbox worker's activity: what runs one tool call, at most once, and says what it came to."""

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from harness_adapters import toolset
from harness_adapters.contract import ToolOutcome
from sandbox.contract import (
    ExecRequest,
    ExecResult,
    SandboxError,
    SandboxHaltedError,
    SandboxLostError,
    SandboxProvider,
)
from sandbox.keeper import Keeper
from sandbox.records import SandboxRow
from workflows.contracts import RUN_TOOL, WRONG_HOST, ToolCallInput
from workflows.heartbeat import heartbeats
from workflows.interrupts import Interrupts, interrupted, to_its_end
from workflows.limits import KILL_WAIT_SECONDS, LAST_WORD, MAX_TOOL_CRASHES, TOOL_PATIENCE
from workflows.outcomes import (
    described,
    failure,
    not_run,
    opening_receipt,
    provisioned,
    unknown,
)
from workflows.records import FinalState, Journal, JournaledCall, Refusals, SessionGoneError, Shelf

_log = structlog.get_logger(__name__)

_PASSING = {"engine_away", "egress_away"}
"""Codes of `SandboxError` that say nothing of the sandbox itself: the same may succeed in a moment."""

_OF_THE_CALL = {"exec_not_found", "exec_not_running", "stdin_closed", "stdin_full", "bad_request"}
"""Codes of `SandboxError` that a model can do something about."""

_SPENT = {"sandbox_full", "sandbox_stopped"}
"""Codes of `SandboxError` for a sandbox that starts no further command; this one has not been started either."""


class ToolRunner:
    """Runs journaled tool calls in the sandboxes of this host."""

    def __init__(
        self,
        *,
        worker_id: str,
        journal: Journal,
        keeper: Keeper,
        refusals: Refusals,
        shelf: Shelf,
        interrupts: Interrupts,
        max_concurrent: int,
    ):
        self._worker_id = worker_id
        self._journal = journal
        self._keeper = keeper
        self._refusals = refusals
        self._shelf = shelf
        self._interrupts = interrupts
        # Calls come from two queues, each with its own worker: what bounds them together is here.
        self._slots = asyncio.Semaphore(max_concurrent)

    @activity.defn(name=RUN_TOOL)
    async def run_tool(self, call: ToolCallInput) -> str:
        """Run the call, or attach to the run of an earlier attempt; return the journal's final state."""
        structlog.contextvars.bind_contextvars(session_id=call.session_id, tool_use_id=call.tool_use_id)
        async with heartbeats():
            try:
                row = await self._journal.start(
                    call, worker_id=self._worker_id, task_token=activity.info().task_token
                )
                if row.state != "dispatched":
                    return row.state
                state = await self._attempt(call, row)
            except SessionGoneError:
                return "gone"
            _log.info("tool_call_ended", tool=row.name, state=state)
            return state

    async def _attempt(self, call: ToolCallInput, row: JournaledCall) -> FinalState:
        if row.crashes >= MAX_TOOL_CRASHES:
            return await self._give_up(call, f"its worker died {row.crashes} times")
        try:
            with self._interrupts.stop(call.session_id, since=row.turn_begun_seq):
                async with self._slots:
                    return await self._run(call, row)
        except SandboxError as error:
            return await self._without_sandbox(call, error)
        except asyncio.CancelledError:
            if not interrupted():
                await self._stopped(call)
                raise
            return await to_its_end(asyncio.wait_for(self._interrupt(call), KILL_WAIT_SECONDS))
        except SessionGoneError:
            raise
        except Exception as error:  # noqa: BLE001 - raised again, unless it has been for too long
            return await self._bear(call, error, said=f"the sandbox worker failed ({type(error).__name__})")

    async def _without_sandbox(self, call: ToolCallInput, error: SandboxError) -> FinalState:
        if isinstance(error, SandboxHaltedError):
            stopped = not_run(call.tool_use_id, "its sandbox was stopped by a person before it was started")
            return await self._finish(call, "refused", stopped)
        if error.code == WRONG_HOST:
            await self._journal.attempt_ended(call)
            raise ApplicationError(str(error), type=WRONG_HOST, non_retryable=True) from error
        if error.code in _PASSING:
            return await self._bear(call, error, said=str(error))
        return await self._finish(call, "confirmed", failure(call.tool_use_id, f"No sandbox: {error}"))

    async def _run(self, call: ToolCallInput, row: JournaledCall) -> FinalState:
        if row.sandbox_id is None:
            box = await self._keeper.ensure(call.workspace_id, call.session_id, tool_use_id=call.tool_use_id)
            await self._journal.bind(call, box.id)
        else:
            # An earlier attempt had the call in hand: only that sandbox can say what became of it.
            found = await self._holding(call, row.sandbox_id)
            if found is None:
                return await self._lose(call)
            box = found
        if row.name == toolset.PROVISION:
            outcome = provisioned(call.tool_use_id, box)
            return await self._finish(call, "confirmed", outcome, details=box.details.model_dump(mode="json"))
        return await self._execute(call, box, row)

    async def _holding(self, call: ToolCallInput, sandbox_id: str) -> SandboxRow | None:
        return await self._keeper.holding(
            call.workspace_id, call.session_id, sandbox_id, tool_use_id=call.tool_use_id
        )

    async def _execute(self, call: ToolCallInput, box: SandboxRow, row: JournaledCall) -> FinalState:
        receipt = opening_receipt(call.tool_use_id, box)
        provider = self._keeper.provider(box)
        begun = row.sandbox_id is not None
        try:
            # An earlier attempt may have started the command: what it has written is not to be written over.
            begun = begun and (await provider.exec_state(box.id, call.tool_use_id)).state != "never_started"
            remembered = () if begun else await self._shelf.before(call, box, provider)
            begun = True
            result = await self._result(call, box, row)
            if remembered is not None:
                remembered = [*remembered, *await self._kept(call, box, provider)]
        except SandboxLostError:
            await self._keeper.lost(box)
            if not begun:
                lost = not_run(call.tool_use_id, "its sandbox was lost before it was started")
                return await self._finish(call, "refused", lost)
            return await self._lose(call)
        except SandboxError as error:
            if error.code in _SPENT:
                return await self._run_elsewhere(call, box, row)
            if error.code not in _OF_THE_CALL:
                raise
            sentence = "\n".join(filter(None, [receipt, f"Not done: {error}."]))
            return await self._finish(call, "confirmed", failure(call.tool_use_id, sentence))
        refused = await self._refusals.during(call, box.id) if box.details.way_out else []
        outcome = described(call.tool_use_id, result, receipt=receipt, refusals=refused, remembered=remembered or ())
        details, spent = result.model_dump(exclude={"stdout", "stderr"}), box.id if result.must_recycle else None
        await self._journal.finish(call, "confirmed", outcome, details=details, spent=spent)
        if spent and (condemned := await self._keeper.condemn(box)) is not None:
            await self._keeper.put_away(condemned)
        return "confirmed"

    async def _kept(self, call: ToolCallInput, box: SandboxRow, provider: SandboxProvider) -> Sequence[str]:
        """Have edits of memory saved; a sandbox that is gone by now takes nothing of the result with it."""
        try:
            return await self._shelf.after(call, box, provider)
        except SandboxLostError:
            await self._keeper.lost(box)
            return ["the sandbox was lost before edits of memory could be saved: what was edited is not"]

    async def _result(self, call: ToolCallInput, box: SandboxRow, row: JournaledCall) -> ExecResult:
        provider = self._keeper.provider(box)
        if step := toolset.continuation(row.name, row.input):
            return await _go_on(provider, box.id, step, act_id=call.tool_use_id)
        request = _request(call.tool_use_id, row, env=await self._keeper.environment(box))
        await self._keeper.outlast(box, seconds=request.timeout_seconds)
        return await provider.execute(box.id, request)

    async def _run_elsewhere(self, call: ToolCallInput, box: SandboxRow, row: JournaledCall) -> FinalState:
        """Have a spent sandbox replaced by one with its files, and run the call there."""
        await self._journal.bind(call, None)
        if (condemned := await self._keeper.condemn(box)) is not None:
            await self._keeper.put_away(condemned)
        return await self._run(call, row.model_copy(update={"sandbox_id": None}))

    async def _interrupt(self, call: ToolCallInput) -> FinalState:
        """Kill what runs for this call and record what it came to."""
        row = await self._journal.read(call)
        box = None
        if row is not None and row.sandbox_id is not None:
            box = await self._holding(call, row.sandbox_id)
        if row is None or row.sandbox_id is None:
            refused = not_run(call.tool_use_id, "the turn was interrupted before it was started")
            return await self._finish(call, "refused", refused)
        if box is None:
            return await self._lose(call)
        if step := toolset.continuation(row.name, row.input):
            return await self._leave(call, step)
        provider = self._keeper.provider(box)
        await provider.kill(box.id, call.tool_use_id)
        if (await provider.exec_state(box.id, call.tool_use_id)).state == "never_started":
            return await self._finish(call, "unknown", unknown(call.tool_use_id, "the turn was interrupted"))
        return await self._execute(call, box, row)

    async def _leave(self, call: ToolCallInput, step: toolset.Continuation) -> FinalState:
        """End a call that goes on with an earlier command, and let that command be."""
        if step.only_reads:
            sentence = f"Interrupted while it waited; nothing was done to the command {step.exec_id}."
            return await self._finish(call, "confirmed", failure(call.tool_use_id, sentence))
        return await self._finish(call, "unknown", unknown(call.tool_use_id, "the turn was interrupted"))

    async def _bear(self, call: ToolCallInput, error: Exception, *, said: str) -> FinalState:
        """Have a call tried again that failed at what may pass, or give it up once that has gone on for too long."""
        seconds = await self._journal.attempt_ended(call, trouble=said)
        if seconds < TOOL_PATIENCE.total_seconds():
            raise error
        return await self._give_up(call, f"for {seconds / 60:.0f} minutes every attempt has failed: {said}")

    async def _stopped(self, call: ToolCallInput) -> None:
        """Record that a worker that stops has laid the call down; what cannot be recorded in time is lost."""
        recording = asyncio.ensure_future(self._journal.attempt_ended(call))
        await asyncio.wait({recording}, timeout=LAST_WORD.total_seconds())
        if not recording.done() or recording.exception() is not None:
            recording.cancel()
            _log.warning("attempt_end_lost")

    async def _give_up(self, call: ToolCallInput, why: str) -> FinalState:
        row = await self._journal.read(call)
        if row is None or row.sandbox_id is None:
            return await self._finish(call, "refused", not_run(call.tool_use_id, why))
        return await self._finish(call, "unknown", unknown(call.tool_use_id, why))

    async def _lose(self, call: ToolCallInput) -> FinalState:
        return await self._finish(call, "unknown", unknown(call.tool_use_id, "the sandbox was lost"))

    async def _finish(
        self, call: ToolCallInput, state: FinalState, outcome: ToolOutcome, *, details: dict[str, Any] | None = None
    ) -> FinalState:
        await self._journal.finish(call, state, outcome, details=details)
        return state


def _request(exec_id: str, row: JournaledCall, *, env: dict[str, str]) -> ExecRequest:
    command = toolset.command(row.name, row.input)
    return ExecRequest(
        exec_id=exec_id,
        command=command.command,
        stdin=command.stdin,
        cwd=command.cwd,
        env=env,
        timeout_seconds=command.timeout_seconds,
        yield_after_seconds=command.yield_after_seconds,
        keep_stdin_open=command.keep_stdin_open,
    )


async def _go_on(
    provider: SandboxProvider, sandbox_id: str, step: toolset.Continuation, *, act_id: str
) -> ExecResult:
    """Feed, signal and read a command; ``act_id`` is what keeps the first two from being done twice."""
    if step.stdin or step.close_stdin:
        await provider.write_stdin(
            sandbox_id, step.exec_id, step.stdin.encode(), write_id=act_id, close=step.close_stdin
        )
    if step.signal:
        await provider.signal(sandbox_id, step.exec_id, step.signal, signal_id=act_id)
    return await provider.read_output(sandbox_id, step.exec_id, cursor=step.cursor, wait_seconds=step.wait_seconds)
