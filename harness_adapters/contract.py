"""What a harness is given and what it yields.

The event log is the truth. A harness yields what happened; the turn records it, and only then takes the next
item. So when a ``yield`` returns, what it carried is durable, and the effect that depends on it may start.
"""

from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

REQUEST_ID_HEADER = "x-bulkhead-request-id"
"""Tells the model gateway which `ModelRequestStarted` a request is, so that its cost is booked under that id."""


COMPACT_ABOVE_TOKENS = 150_000
"""Three quarters of the smallest context window among current models of the large providers (200,000)."""


WireFormat = Literal["anthropic", "openai", "openai-responses"]
"""The formats in which models are asked: Anthropic Messages, OpenAI Chat Completions, OpenAI Responses."""


HarnessName = Literal["builtin", "opencode", "claude-agent-sdk", "codex"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class TextBlock(_Frozen):
    """Plain text."""

    type: Literal["text"] = "text"
    text: str


class MediaBlock(_Frozen):
    """An image or a document of a user's message or a tool's result, in the wire format's shape."""

    type: Literal["image", "document"]
    source: dict[str, Any]
    title: str | None = None
    context: str | None = None


class ThinkingBlock(_Frozen):
    """A model's reasoning, kept whole: ``signature`` (or ``redacted`` data) goes back to the model unchanged."""

    type: Literal["thinking"] = "thinking"
    event_id: str
    text: str = ""
    signature: str | None = None
    redacted: str | None = None
    origin: WireFormat = "anthropic"
    """Whose signature it is: no other format's provider takes it."""


class AnswerText(_Frozen):
    """Text that the model wrote; one ``agent.message`` event."""

    type: Literal["text"] = "text"
    event_id: str
    text: str


class ToolUse(_Frozen):
    """A tool call that the model asked for. ``event_id`` is its one id everywhere: event, journal, activity, exec."""

    type: Literal["tool_use"] = "tool_use"
    event_id: str
    name: str
    input: dict[str, Any]


AnswerBlock = Annotated[ThinkingBlock | AnswerText | ToolUse, Field(discriminator="type")]


class ToolOutcome(_Frozen):
    """What a tool call came to, as the model is told."""

    tool_use_id: str
    content: list[TextBlock | MediaBlock]
    is_error: bool = False


class UserInput(_Frozen):
    """A message that a user (or the system) sent."""

    role: Literal["user", "system"] = "user"
    event_id: str
    content: list[TextBlock | MediaBlock]


def summarized(event_id: str, summary: str) -> UserInput:
    """Return what a model sees in place of the older part of a conversation."""
    said = f"[The conversation so far was replaced by these notes, which you wrote yourself.]\n\n{summary}"
    return UserInput(event_id=event_id, content=[TextBlock(text=said)])


class Answer(_Frozen):
    """One complete answer of the model; ``request_id`` is its ``span.model_request_start`` event."""

    request_id: str
    blocks: list[AnswerBlock]


HistoryItem = UserInput | Answer | ToolOutcome


class ToolDefinition(_Frozen):
    """A tool as the model sees it; ``input_schema`` is a JSON Schema of type object."""

    name: str
    description: str
    input_schema: dict[str, Any]


class Usage(_Frozen):
    """Tokens of one model request; ``input_tokens`` excludes both kinds of cache tokens.

    ``reasoning_tokens`` are part of ``output_tokens``, where a provider tells them apart.
    """

    input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Return how many tokens went in and out."""
        cached = self.cache_read_input_tokens + self.cache_creation_input_tokens
        return self.input_tokens + cached + self.output_tokens


class HarnessSpec(_Frozen):
    """The agent as this turn runs it."""

    session_id: str
    turn_id: str
    model: str
    max_tokens: int = 16_384
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    system: str | None = None
    tools: list[ToolDefinition] = Field(default_factory=list)
    max_model_requests: int = 200
    compact_above_tokens: int = COMPACT_ABOVE_TOKENS
    mode: Literal["inline", "isolated"] = "inline"
    """Whether a harness that is a program of its own may hold other sessions in the process that holds this one."""

    gateway_url: str
    gateway_token: str


class ModelRequestStarted(_Frozen):
    """About to ask the model."""

    type: Literal["model_request_started"] = "model_request_started"
    request_id: str


class PreviewStarted(_Frozen):
    """The event ``event_id`` has begun to be produced."""

    type: Literal["preview_started"] = "preview_started"
    event_id: str
    event_type: Literal["agent.message", "agent.thinking"]


class TextDelta(_Frozen):
    """More text of the ``agent.message`` with this id; not recorded."""

    type: Literal["text_delta"] = "text_delta"
    event_id: str
    text: str


class ModelAnswered(_Frozen):
    """The model's answer is complete; recorded in one transaction before anything it asks for is done."""

    type: Literal["model_answered"] = "model_answered"
    answer: Answer
    usage: Usage
    stop_reason: Literal["end_turn", "tool_use", "max_tokens", "refusal", "stop_sequence"]

    def ending(self, spec: HarnessSpec) -> "TurnFinished":
        """Return how an answer without tool uses ends its turn."""
        if self.stop_reason == "refusal":
            return TurnFinished(reason="refusal", message="the model refused to answer")
        if self.stop_reason == "max_tokens":
            return TurnFinished(
                reason="end_turn", message=f"the answer was cut at its limit of {spec.max_tokens} tokens"
            )
        return TurnFinished(reason="end_turn")


class ContextCompacted(_Frozen):
    """From now on ``summary`` stands for what came before the event ``kept_from``, or for everything so far."""

    type: Literal["context_compacted"] = "context_compacted"
    event_id: str
    request_id: str
    summary: str
    kept_from: str | None
    tokens_before: int
    usage: Usage


FailureKind = Literal[
    "budget_reached",
    "unpriced",
    "agent_frozen",
    "overloaded",
    "rate_limited",
    "billing",
    "context_window",
    "invalid_request",
    "authentication",
    "interrupted_stream",
    "unreachable",
    "unknown",
]


class ModelRequestFailed(_Frozen):
    """A model request failed. ``retry_in_seconds`` set: the harness waits that long and asks again."""

    type: Literal["model_request_failed"] = "model_request_failed"
    request_id: str
    kind: FailureKind
    message: str
    retry_in_seconds: float | None = None


class HarnessRestarted(_Frozen):
    """The harness's own program has failed; it goes on from what is recorded."""

    type: Literal["harness_restarted"] = "harness_restarted"
    message: str


class TurnFinished(_Frozen):
    """The last item of a turn."""

    type: Literal["turn_finished"] = "turn_finished"
    reason: Literal["end_turn", "parked", "refusal", "failed", "limit"]
    message: str | None = None


HarnessEvent = (
    ModelRequestStarted
    | PreviewStarted
    | TextDelta
    | ModelAnswered
    | ContextCompacted
    | ModelRequestFailed
    | HarnessRestarted
    | TurnFinished
)


class TurnPort(Protocol):
    """What a harness may do beside asking the model: its only hands, and its ear."""

    async def call(self, use: ToolUse) -> ToolOutcome | None:
        """Run a tool call that has been recorded; the outcome is recorded when this returns.

        None: it waits for somebody. When its other calls are done the turn ends ``parked``, and another goes on.
        """
        ...

    async def steering(self) -> list[UserInput]:
        """Take what was said to steer the running turn; asked before each model request, and part of it."""
        ...


class Harness(Protocol):
    """A loop that plans with a model and calls tools."""

    def run_turn(
        self, spec: HarnessSpec, history: list[HistoryItem], tools: TurnPort
    ) -> AsyncGenerator[HarnessEvent]:
        """Continue ``history`` until the agent has nothing more to do; the last item is `TurnFinished`.

        ``history`` may end in an answer with tool uses that have no outcome yet: those are called first.
        Closing the iterator cancels the turn: no model request and no tool call is left behind.
        """
        ...

    async def close(self) -> None:
        """Release what the harness holds across turns."""
        ...
