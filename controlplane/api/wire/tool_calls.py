"""Tool calls on the wire: the side-effect journal, and what of it waits for a person."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from controlplane.api.wire.common import Answer, Request


class ToolCall(Answer):
    """A tool call and how far it is. Its id is the tool use's event id, and the id under which its command ran."""

    type: Literal["tool_call"] = "tool_call"
    id: str
    session_id: str
    turn_id: str
    name: str
    input: dict[str, Any]
    state: Literal["intended", "dispatched", "confirmed", "unknown", "refused"] = Field(
        description="`intended`: recorded, not sent. `dispatched`: sent, no outcome yet. `unknown`: nobody can say"
        " whether it took effect."
    )
    verdict: Literal["allow", "ask", "client", "deny"] = Field(
        description="`ask`: a person decides. `client`: the client runs it and sends the result."
    )
    decision: Literal["allow", "deny", "result"] | None
    deny_message: str | None
    decided_by: str | None = Field(description="The id of the API key.")
    decided_at: datetime | None
    sandbox_id: str | None
    result_event_id: str | None
    intended_at: datetime
    dispatched_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None


class Approval(Answer):
    """A tool call that waits for a person. Its id is the tool use's."""

    type: Literal["approval"] = "approval"
    id: str
    session_id: str
    session_title: str | None
    agent_id: str
    agent_name: str
    name: str
    input: dict[str, Any]
    asked_at: datetime


class ApprovalDecision(Request):
    """What a person decides."""

    result: Literal["allow", "deny"]
    deny_message: Annotated[str, Field(max_length=10_000)] | None = Field(
        default=None, description="Told to the model."
    )

    @model_validator(mode="after")
    def _message_only_with_deny(self) -> "ApprovalDecision":
        if self.deny_message is not None and self.result != "deny":
            raise ValueError("'deny_message' goes with the result 'deny' only")
        return self
