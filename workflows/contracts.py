"""Inputs and results of the workflows and activities. Every field added later has a default."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from harness_adapters.contract import ToolOutcome

BRAIN_QUEUE = "brain"
SANDBOX_QUEUE = "sandbox"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


def session_workflow_id(session_id: str) -> str:
    """The id of the one workflow that holds a session."""
    return f"session-{session_id}"


class Submission(_Frozen):
    """An input event that has been recorded; delivered at least once."""

    event_id: str
    seq: int
    type: str = "user.message"


class SessionInput(_Frozen):
    """What a session's workflow starts with; ``recent_ids`` and ``queue`` cross continue-as-new."""

    session_id: str
    workspace_id: str
    queue: list[Submission] = Field(default_factory=list)
    recent_ids: list[str] = Field(default_factory=list)
    turns: int = 0


class TurnInput(_Frozen):
    """One turn: the queued events that it takes, decided before it starts."""

    session_id: str
    workspace_id: str
    turn_id: str
    event_ids: list[str]


class TurnResult(_Frozen):
    """How a turn ended."""

    turn_id: str
    reason: Literal["end_turn", "requires_action", "retries_exhausted", "refusal", "interrupted", "gone"]
    attempts: int = 1


class ToolCall(_Frozen):
    """A journaled tool call, by reference: the sandbox worker reads the rest from the journal."""

    tool_use_id: str
    session_id: str
    workspace_id: str
    turn_id: str


class JournaledCall(_Frozen):
    """A row of the side-effect journal."""

    tool_use_id: str
    session_id: str
    workspace_id: str
    turn_id: str
    name: str
    input: dict[str, Any]
    state: Literal["intended", "dispatched", "confirmed", "unknown", "refused"]
    sandbox_id: str | None = None
    outcome: ToolOutcome | None = None
