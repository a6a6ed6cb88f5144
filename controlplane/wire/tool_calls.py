"""Tool calls on the wire: the side-effect journal, and what of it waits for a person."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, model_validator

from controlplane.wire.common import Answer, Request


class ToolCall(Answer):
    """A tool call and how far it is. Its id is the tool use's event id."""

    type: Literal["tool_call"] = "tool_call"
    id: str
    session_id: str
    turn_id: str
    name: str
    input: dict[str, Any] = Field(description="As the model gave it.")
    edited_input: dict[str, Any] | None = Field(description="What it runs with instead, if who allowed it said so.")
    state: Literal["intended", "dispatched", "confirmed", "unknown", "refused"] = Field(
        description="`intended`: recorded, not sent. `dispatched`: sent, no outcome yet. `unknown`: nobody can say"
        " whether it took effect."
    )
    verdict: Literal["allow", "ask", "client", "deny"] = Field(
        description="`ask`: a person decides. `client`: the client runs it and sends the result."
    )
    rule_id: str | None = Field(description="The rule that gave the verdict; null: the tool's policy did.")
    verdict_reason: str | None = Field(description="What that rule says.")
    expires_at: datetime | None = Field(description="With `ask`: until when somebody can decide.")
    on_expiry: Literal["allow", "deny"] | None = Field(description="What is decided then.")
    decision: Literal["allow", "deny", "result"] | None
    deny_message: str | None
    decided_by: str | None = Field(
        description="The id of the API key, with `for` and whoever it passed on; or `expiry`."
    )
    decided_at: datetime | None
    sandbox_id: str | None
    exec_id: str | None = Field(
        description="Of a command: the id under which its sandbox runs it, at most once. A call that goes on with an"
        " earlier command has that one's."
    )
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
    rule_id: str | None = Field(description="The rule that asks; null: the tool's policy does.")
    reason: str | None = Field(description="What that rule says.")
    asked_at: datetime
    expires_at: datetime | None = Field(description="Until when somebody can decide.")
    on_expiry: Literal["allow", "deny"] | None = Field(description="What is decided then.")


class ApprovalDecision(Request):
    """What a person decides."""

    result: Literal["allow", "deny"]
    deny_message: Annotated[str, Field(max_length=10_000)] | None = Field(
        default=None, description="Told to the model."
    )
    input: dict[str, JsonValue] | None = Field(
        default=None, description="With `allow`: the whole input that the call runs with instead; the model is told."
    )
    remember: Literal["session"] | None = Field(
        default=None, description="With `allow`: make a rule that allows calls with the same input in this session."
    )
    on_behalf_of: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        default=None,
        description="Who decided, if the key's owner passes on what somebody else said: recorded behind the key.",
    )

    @model_validator(mode="after")
    def _message_only_with_deny(self) -> "ApprovalDecision":
        if self.deny_message is not None and self.result != "deny":
            raise ValueError("'deny_message' goes with the result 'deny' only")
        if self.result != "allow" and (self.input is not None or self.remember is not None):
            raise ValueError("'input' and 'remember' go with the result 'allow' only")
        return self
