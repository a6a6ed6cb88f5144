"""Inputs and results of the workflows and activities. Every field added later has a default."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

BRAIN_QUEUE = "brain"
SANDBOX_QUEUE = "sandbox"
"""For calls of sessions that have no sandbox; those of the others go to the queue of the host that holds it."""

MEMORY_QUEUE = "memory"
"""For calls of the memory tools, which run in no sandbox."""

SESSION_WORKFLOW = "session"
WAKE_SIGNAL = "wake"
INTERRUPT_SIGNAL = "interrupt"
RUN_TURN = "run_turn"
RUN_TOOL = "run_tool"
KEEP_OUTPUTS = "keep_outputs"

SCHEDULE_QUEUE = "schedules"
DEPLOYMENT_WORKFLOW = "deployment"
FIRE_DEPLOYMENT = "fire_deployment"

WRONG_HOST = "wrong_host"
"""Type of the failure of a tool call whose sandbox turns out to be on another host; it is dispatched again."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


def session_workflow_id(session_id: str) -> str:
    """The id of the one workflow that holds a session."""
    return f"session-{session_id}"


def host_queue(host: str) -> str:
    """The queue of the tool calls for the sandboxes of one host."""
    return f"{SANDBOX_QUEUE}-{host}"


def schedule_id(deployment_id: str) -> str:
    """The id of a deployment's schedule; Temporal makes a firing's workflow id of it and the fire time."""
    return f"deployment-{deployment_id}"


class DeploymentInput(_Frozen):
    """What the workflow of a firing starts with; its fire time is in its id, where Temporal puts it."""

    deployment_id: str
    workspace_id: str


class FiringInput(_Frozen):
    """One firing. What becomes of it is decided in Postgres."""

    deployment_id: str
    workspace_id: str
    fire_at: datetime


class SessionInput(_Frozen):
    """What a session's workflow starts with; ``wanted`` crosses continue-as-new."""

    session_id: str
    workspace_id: str
    wanted: bool = False


class TurnInput(_Frozen):
    """One turn. What it takes from the session's queue is decided in Postgres when it begins."""

    session_id: str
    workspace_id: str
    turn_id: str


TurnEnd = Literal[
    "end_turn",
    "requires_action",
    "budget_reached",
    "retries_exhausted",
    "refusal",
    "interrupted",
    "nothing_to_do",
    "gone",
]


class TurnResult(_Frozen):
    """How a turn ended. ``more``: the queue held another input when it did."""

    reason: TurnEnd
    more: bool = False


class OutputsInput(_Frozen):
    """Whose outputs are to be kept, for which turn. ``tool_use_id``: the last call that ran in the sandbox."""

    session_id: str
    workspace_id: str
    turn_id: str
    sandbox_id: str
    tool_use_id: str


class ToolCallInput(_Frozen):
    """A journaled tool call, by reference: the sandbox worker reads the rest from the journal."""

    tool_use_id: str
    session_id: str
    workspace_id: str
