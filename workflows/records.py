"""What the turns and tool calls need of the store; implemented on Postgres in `controlplane/store`."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from harness_adapters.contract import (
    ContextCompacted,
    HarnessRestarted,
    HarnessSpec,
    HistoryItem,
    ModelAnswered,
    ModelRequestFailed,
    ModelRequestStarted,
    PreviewStarted,
    TextDelta,
    ToolOutcome,
    ToolUse,
    UserInput,
)
from sandbox.contract import FileStat, SandboxProvider
from sandbox.records import SandboxRow
from workflows.contracts import OutputsInput, ToolCallInput, TurnEnd, TurnInput, TurnResult
from workflows.failures import Failure


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class SupersededError(Exception):
    """A newer attempt (or a newer turn) has taken over; nothing of this one is recorded any more."""


class SessionGoneError(Exception):
    """The session has been deleted or terminated."""


class TurnStart(_Frozen):
    """A turn as it begins; every later write names ``attempt``.

    ``input.turn_id`` is another than was asked for if the session had a turn running that its workflow had forgotten.
    """

    input: TurnInput
    attempt: int
    begun_seq: int = 0
    """The session's seq when the turn began; an interrupt with a greater one means it."""
    harness: str
    spec: HarnessSpec
    history: list[HistoryItem]


class CutAnswer(_Frozen):
    """What a model had said when its turn was interrupted: text by the id of its event."""

    request_id: str
    texts: dict[str, str]


FinalState = Literal["confirmed", "unknown", "refused"]
CallState = Literal["intended", "dispatched"] | FinalState


class JournaledCall(_Frozen):
    """A row of the side-effect journal. ``sandbox_id``: where it was about to run, once that is known."""

    tool_use_id: str
    session_id: str
    workspace_id: str
    turn_id: str
    name: str
    input: dict[str, Any] = Field(default_factory=dict)
    """What it runs with: what the model gave, or ``edited_input``, what whoever allowed it put in place of that."""
    edited_input: dict[str, Any] | None = None
    state: CallState
    turn_begun_seq: int = 0
    sandbox_id: str | None = None
    outcome: ToolOutcome | None = None
    crashes: int = 0
    """How many attempts at running it ended with their worker, as of `Journal.start`."""
    host: str | None = None
    """The living host that holds the session's sandbox, as of `Journal.dispatch` and `Journal.read`."""


class TurnRecords(Protocol):
    """Turns and what they record. Every method but ``begin`` raises `SupersededError` for an older attempt."""

    async def begin(self, turn: TurnInput, *, worker_id: str, task_token: bytes) -> TurnStart | TurnResult:
        """Take what waits in the session's queue and return the turn's next attempt, or how it has ended already."""
        ...

    async def model_request_started(self, turn: TurnStart, started: ModelRequestStarted) -> None:
        """Record that the model is about to be asked."""
        ...

    async def preview(self, turn: TurnStart, preview: PreviewStarted | TextDelta) -> None:
        """Tell whoever watches the session; best effort, recorded nowhere."""
        ...

    async def model_answered(self, turn: TurnStart, answered: ModelAnswered) -> None:
        """Record the whole answer, and journal its tool uses as *intended*, in one transaction."""
        ...

    async def context_compacted(self, turn: TurnStart, compacted: ContextCompacted) -> None:
        """Record the summary that stands for the older part of the conversation; what it covers stays recorded."""
        ...

    async def model_request_failed(self, turn: TurnStart, failed: ModelRequestFailed) -> None:
        """Record the failure and what happens next."""
        ...

    async def harness_restarted(self, turn: TurnStart, restarted: HarnessRestarted) -> None:
        """Record that the harness's own program has failed, and that it goes on."""
        ...

    async def steering(self, turn: TurnStart) -> list[UserInput]:
        """Take the waiting messages that are to go in before the next model request, and return them."""
        ...

    async def is_interrupted(self, turn: TurnStart) -> bool:
        """Say whether an interrupt waits that means this turn."""
        ...

    async def outputs(self, turn: TurnStart) -> tuple[str, OutputsInput] | None:
        """Return whose outputs are to be kept at the turn's end, and on which host; None: there can be none."""
        ...

    async def end(
        self,
        turn: TurnStart,
        reason: TurnEnd,
        *,
        failure: Failure | None = None,
        note: str | None = None,
        cut: CutAnswer | None = None,
    ) -> TurnResult:
        """Record the turn's end and the session's idleness.

        ``failure``: why it failed, unless a failed model request has said it. ``note``: what to know of a turn that
        did not fail. ``cut``: what had been said of an answer till then.
        """
        ...

    async def attempt_ended(
        self, turn: TurnStart, ending: Literal["failed", "stopped"], *, error: str | None = None
    ) -> None:
        """Record how an attempt ended that is not the end of its turn."""
        ...


class Journal(Protocol):
    """The side-effect journal, keyed by tool-use id."""

    async def dispatch(self, turn: TurnStart, use: ToolUse) -> JournaledCall:
        """Move *intended* to *dispatched*, to *refused*, or let it wait for a decision; return the row as it is.

        Raises `SupersededError` as in `TurnRecords`.
        """
        ...

    async def refuse(self, turn: TurnStart, use: ToolUse, outcome: ToolOutcome) -> ToolOutcome:
        """Record that an *intended* call is not run, with the outcome that says why."""
        ...

    async def start(self, call: ToolCallInput, *, worker_id: str, task_token: bytes) -> JournaledCall:
        """Record which worker has the call in hand, and whether the one before it died; raises `SessionGoneError`."""
        ...

    async def attempt_ended(self, call: ToolCallInput, *, trouble: str | None = None) -> float:
        """Record that an attempt ended without an outcome, and why, and return for how many seconds that has been so.

        No ``trouble``: it was stopped or goes on elsewhere, which is no failure.
        """
        ...

    async def bind(self, call: ToolCallInput, sandbox_id: str | None) -> None:
        """Record in which sandbox the call is about to run; None: in none yet, since the one it was for is spent."""
        ...

    async def finish(
        self,
        call: ToolCallInput,
        state: FinalState,
        outcome: ToolOutcome,
        *,
        details: dict[str, Any] | None = None,
        spent: str | None = None,
    ) -> ToolOutcome:
        """Record the outcome and its event in one transaction, once; return what is recorded.

        ``spent``: a sandbox in which nothing is to run after this.
        """
        ...

    async def read(self, call: ToolCallInput) -> JournaledCall | None:
        """Return the row."""
        ...


class Remembering(Protocol):
    """The effects of the memory tools."""

    async def run(self, call: ToolCallInput, row: JournaledCall) -> FinalState:
        """Run a dispatched call and record its outcome, in one transaction; what has an outcome is not run again."""
        ...


class Shelf(Protocol):
    """Memory as files of a sandbox."""

    async def before(self, call: ToolCallInput, box: SandboxRow, provider: SandboxProvider) -> Sequence[str] | None:
        """Save edits that nobody has seen, then have the files say what memory says; return what to tell of it.

        None: the session has no memory, and nothing is to be looked at after the command.
        """
        ...

    async def after(self, call: ToolCallInput, box: SandboxRow, provider: SandboxProvider) -> Sequence[str]:
        """Save what was edited; return what to tell of it."""
        ...


LeftOut = Literal["later", "too_large", "unreadable", "too_many_entries"]


class OutputRecords(Protocol):
    """What is kept of a session's outputs. Raises `SessionGoneError`."""

    async def known(self, wanted: OutputsInput) -> tuple[datetime, Mapping[str, tuple[int, datetime]]]:
        """Return what time it is, and the size and change of what need not be looked at again, by path."""
        ...

    async def keep(self, wanted: OutputsInput, path: str, *, file: FileStat, content: bytes, sha256: bytes) -> bool:
        """Keep a file once, under an id that follows from session, path and content; say whether it is new."""
        ...

    async def leave_out(self, wanted: OutputsInput, path: str, *, file: FileStat, reason: LeftOut) -> None:
        """Record that a file was not kept, and why."""
        ...

    async def done(self, wanted: OutputsInput, began: datetime) -> None:
        """Record up to when everything has been looked at."""
        ...


class Refusals(Protocol):
    """What the way out of a sandbox has refused."""

    async def during(self, call: ToolCallInput, sandbox_id: str) -> Sequence[str]:
        """Return a sentence for each thing that the call was refused on its way out, or that failed there.

        What was refused meanwhile to nobody knows whom in the same sandbox is among it, and says so.
        """
        ...


class DeadWork(_Frozen):
    """An activity that a dead worker had in hand."""

    worker_id: str
    task_token: bytes


class Leases(Protocol):
    """Which workers live: each holds a lock on a connection of its own for as long as it does."""

    async def hold(self, worker_id: str, kind: Literal["brain", "sandbox", "egress", "memory"], *, host: str) -> None:
        """Take the lease and keep it, across reconnections, until cancelled."""
        ...

    async def dead(self) -> Sequence[str]:
        """Return the workers whose lease is free."""
        ...

    async def work_of(self, worker_id: str) -> Sequence[DeadWork]:
        """Return what a worker has in hand."""
        ...

    async def forget(self, worker_id: str) -> None:
        """Remove a dead worker, once its work has been handed back."""
        ...
