"""One entity workflow per session: a thin shell around the state machine."""

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError
from temporalio.workflow import ActivityCancellationType

with workflow.unsafe.imports_passed_through():
    from workflows.contracts import (
        INTERRUPT_SIGNAL,
        RUN_TURN,
        SESSION_WORKFLOW,
        WAKE_SIGNAL,
        SessionInput,
        TurnInput,
        TurnResult,
    )
    from workflows.limits import (
        IDLE_CLOSE,
        TURN_HEARTBEAT_TIMEOUT,
        TURN_RETRY_FIRST,
        TURN_RETRY_LONGEST,
        TURN_TIMEOUT,
    )
    from workflows.machine import SessionMachine


@workflow.defn(name=SESSION_WORKFLOW, failure_exception_types=[workflow.NondeterminismError])
class SessionWorkflow:
    """Holds a session for as long as it lives; closes when idle and starts afresh at the next message.

    A run that a newer release cannot replay fails, instead of being tried for ever. The session loses nothing by it:
    the next run, which the reconciler starts, takes over the turn that runs.
    """

    @workflow.init
    def __init__(self, start: SessionInput) -> None:
        self._machine = SessionMachine(wanted=start.wanted)
        self._turn: workflow.ActivityHandle[TurnResult] | None = None

    @workflow.run
    async def run(self, start: SessionInput) -> None:
        """Run turns while the queue holds something, then wait."""
        while True:
            match self._machine.next():
                case "start_turn":
                    await self._run_turn(start)
                case "stop":
                    return
                case "rest":
                    if not await self._rest():
                        return
            if workflow.info().is_continue_as_new_suggested():
                await workflow.wait_condition(workflow.all_handlers_finished)
                workflow.continue_as_new(start.model_copy(update={"wanted": self._machine.wanted}))

    @workflow.signal(name=WAKE_SIGNAL)
    def wake(self) -> None:
        """An input event has been recorded in Postgres."""
        self._machine.wake()

    @workflow.signal(name=INTERRUPT_SIGNAL)
    def interrupt(self) -> None:
        """A person wants the running turn to stop."""
        if self._machine.interrupt() and self._turn is not None:
            self._turn.cancel()

    async def _rest(self) -> bool:
        try:
            await workflow.wait_condition(lambda: self._machine.next() != "rest", timeout=IDLE_CLOSE)
        except TimeoutError:
            # A wake-up may come in the same moment as the time-out.
            return self._machine.next() != "rest"
        return True

    async def _run_turn(self, start: SessionInput) -> None:
        self._machine.turn_started()
        turn = TurnInput(
            session_id=start.session_id,
            workspace_id=start.workspace_id,
            turn_id=f"turn_{workflow.uuid4().hex}",
        )
        self._turn = workflow.start_activity(
            RUN_TURN,
            turn,
            result_type=TurnResult,
            start_to_close_timeout=TURN_TIMEOUT,
            heartbeat_timeout=TURN_HEARTBEAT_TIMEOUT,
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            retry_policy=RetryPolicy(
                initial_interval=TURN_RETRY_FIRST, maximum_interval=TURN_RETRY_LONGEST, backoff_coefficient=2
            ),
        )
        try:
            result = await self._turn
        except ActivityError:
            # Cancelled before any worker began it, or out of time: the next turn takes over what it left.
            result = TurnResult(reason="interrupted", more=True)
        self._turn = None
        self._machine.turn_ended(result)
