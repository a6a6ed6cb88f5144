"""Rules on tool calls on the wire."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, JsonValue, model_validator

from controlplane.wire.common import Answer, NonEmpty, Request
from workflows.rules import Condition, Glob

MAX_CONDITIONS = 32

Seconds = Annotated[int, Field(ge=1, le=10 * 365 * 24 * 3600)]
Position = Annotated[int, Field(ge=0, le=10**9)]
Reason = Annotated[str, Field(max_length=1000)]
Moment = Annotated[AwareDatetime, Field(strict=False)]
ToolGlob = Annotated[Glob, Field(min_length=1, max_length=128)]
Conditions = Annotated[list[Condition], Field(max_length=MAX_CONDITIONS)]
RuleVerdict = Literal["allow", "ask", "deny"]
OnExpiry = Literal["allow", "deny"]

_SCOPE_TEXT = "`workspace`, or the id of an agent or a session. A session's rules come first, then its agent's."
_TOOL_TEXT = "The name of a tool, or a glob. What is said of `bash` holds for `sandbox_execute` too."
_ARGUMENTS_TEXT = "Conditions on the input, all of which must hold; none: the rule fits every call of the tool."
_POSITION_TEXT = "Its place among the rules of its scope, the lowest first; the last where omitted."
_EXPIRES_AFTER_TEXT = "With `ask`: how long a call waits for a person."
_ON_EXPIRY_TEXT = "With `ask`: what is decided when that time is over; `deny` where omitted."
_EXPIRES_AT_TEXT = "When the rule ceases to hold; never where omitted."


class RuleCreate(Request):
    """A new rule."""

    scope: Annotated[str, Field(pattern=r"^(workspace|(agent|sesn)_[0-9a-z]{1,64})$")] = Field(
        default="workspace", description=_SCOPE_TEXT
    )
    tool: ToolGlob = Field(description=_TOOL_TEXT)
    arguments: Conditions = Field(default_factory=list[Condition], description=_ARGUMENTS_TEXT)
    verdict: RuleVerdict
    reason: Reason | None = Field(
        default=None, description="Told to the model with a denial, and to whoever is asked."
    )
    position: Position | None = Field(default=None, description=_POSITION_TEXT)
    expires_after_seconds: Seconds | None = Field(default=None, description=_EXPIRES_AFTER_TEXT)
    on_expiry: OnExpiry | None = Field(default=None, description=_ON_EXPIRY_TEXT)
    expires_at: Moment | None = Field(default=None, description=_EXPIRES_AT_TEXT)

    @model_validator(mode="after")
    def _expiry_goes_with_ask(self) -> "RuleCreate":
        if self.verdict != "ask" and (self.expires_after_seconds is not None or self.on_expiry is not None):
            raise ValueError("'expires_after_seconds' and 'on_expiry' go with the verdict 'ask' only")
        return self


class RuleUpdate(Request):
    """What changes; an omitted field keeps its value, null clears one that may be omitted. The scope stays."""

    tool: ToolGlob | None = Field(default=None, description=_TOOL_TEXT)
    arguments: Conditions | None = Field(default=None, description=_ARGUMENTS_TEXT)
    verdict: RuleVerdict | None = None
    reason: Reason | None = None
    position: Position | None = Field(default=None, description=_POSITION_TEXT)
    expires_after_seconds: Seconds | None = Field(default=None, description=_EXPIRES_AFTER_TEXT)
    on_expiry: OnExpiry | None = Field(default=None, description=_ON_EXPIRY_TEXT)
    expires_at: Moment | None = Field(default=None, description=_EXPIRES_AT_TEXT)


class Rule(Answer):
    """A rule on the calls of a tool."""

    type: Literal["rule"] = "rule"
    id: str
    scope: str
    tool: str
    arguments: list[dict[str, Any]]
    verdict: RuleVerdict
    reason: str | None
    position: int
    expires_after_seconds: int | None
    on_expiry: OnExpiry | None
    expires_at: datetime | None
    created_by: str = Field(description="The id of the API key.")
    updated_by: str = Field(description="The id of the API key.")
    created_at: datetime
    updated_at: datetime


class RuleDeleted(Answer):
    """The rule is gone; it holds no more from the next call on."""

    type: Literal["rule_deleted"] = "rule_deleted"
    id: str


class RuleEvaluate(Request):
    """A call that nobody makes, to see what would be decided about it."""

    tool: NonEmpty
    input: dict[str, JsonValue]
    session_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    agent_id: Annotated[str, Field(min_length=1, max_length=128)] | None = Field(
        default=None, description="Instead of `session_id`; without either, the rules of the workspace alone."
    )

    @model_validator(mode="after")
    def _one_place(self) -> "RuleEvaluate":
        if self.session_id is not None and self.agent_id is not None:
            raise ValueError("give 'session_id' or 'agent_id', not both")
        return self


class PassedRule(Answer):
    """A rule for the tool that does not fit the call."""

    rule_id: str
    because: str


class Evaluation(Answer):
    """What would be decided about a call, and by what."""

    type: Literal["rule_evaluation"] = "rule_evaluation"
    verdict: Literal["allow", "ask", "client", "deny"]
    decided_by: Literal["rule", "policy"]
    rule: Rule | None = Field(description="The rule that decides, if one does.")
    reason: str | None
    policy_verdict: Literal["allow", "ask", "client", "deny"] = Field(description="What holds where no rule fits.")
    passed: list[PassedRule] = Field(description="The rules before it that do not fit, in order.")
