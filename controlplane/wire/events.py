"""Events on the wire: what clients send, and what they see."""

import base64
import binascii
from datetime import datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, field_validator, model_validator

from controlplane.wire.common import Answer, NonEmpty, Reference, Request

MAX_EVENTS = 50
"""The wire format's limit for a session's initial events; we hold every request to it."""

MAX_CONTENT_BLOCKS = 100

EventType = Literal[
    "user.message", "user.interrupt", "user.tool_confirmation", "user.custom_tool_result", "user.tool_result",
    "user.define_outcome", "system.message",
    "agent.message", "agent.thinking", "agent.tool_use", "agent.tool_result", "agent.mcp_tool_use",
    "agent.mcp_tool_result", "agent.custom_tool_use", "agent.thread_message_received",
    "agent.thread_message_sent", "agent.thread_context_compacted",
    "session.error", "session.status_rescheduled", "session.status_running", "session.status_idle",
    "session.status_terminated", "session.thread_created", "session.thread_status_running",
    "session.thread_status_idle", "session.thread_status_terminated", "session.thread_status_rescheduled",
    "session.updated", "session.usage", "session.deleted",
    "span.model_request_start", "span.model_request_end", "span.outcome_evaluation_start",
    "span.outcome_evaluation_ongoing", "span.outcome_evaluation_end",
    "workflow_run.created", "workflow_run.status_running", "workflow_run.status_idle",
    "workflow_run.status_ended", "workflow_run.error", "workflow_run.phase_started", "workflow_run.phase_ended",
]  # fmt: skip
EVENT_TYPES = frozenset[str](get_args(EventType))

DeltaType = Literal["agent.message", "agent.thinking"]


def _must_be_base64(data: str) -> str:
    try:
        base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error
    return data


class _Base64(Request):
    type: Literal["base64"]
    data: NonEmpty

    _valid = field_validator("data")(_must_be_base64)


class Base64Image(_Base64):
    """An image in the request itself."""

    media_type: Literal["image/png", "image/jpeg", "image/gif", "image/webp"]


class Base64Document(_Base64):
    """A document in the request itself."""

    media_type: Annotated[str, Field(pattern=r"^[\w.+-]+/[\w.+-]+$", max_length=255)]


class UrlSource(Request):
    """Something to be fetched by the model's provider."""

    type: Literal["url"]
    url: Annotated[str, Field(pattern=r"^https?://[^\s/]+", max_length=8192)]


class FileSource(Request):
    """A file that was uploaded before."""

    type: Literal["file"]
    file_id: Reference


class PlainText(Request):
    """A document of plain text."""

    type: Literal["text"]
    media_type: Literal["text/plain"]
    data: NonEmpty


class Text(Request):
    """Text that is more than blanks."""

    type: Literal["text"]
    text: NonEmpty

    @field_validator("text")
    @classmethod
    def _says_something(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("text must be more than blanks")
        return text


class Image(Request):
    """An image."""

    type: Literal["image"]
    source: Annotated[Base64Image | UrlSource | FileSource, Field(discriminator="type")]


class Document(Request):
    """A document."""

    type: Literal["document"]
    source: Annotated[Base64Document | PlainText | UrlSource | FileSource, Field(discriminator="type")]
    title: Annotated[str, Field(max_length=500)] | None = None
    context: str | None = None


class Citations(Request):
    """Whether a search result is cited."""

    enabled: bool


class SearchResult(Request):
    """A search result that a custom tool found."""

    type: Literal["search_result"]
    source: NonEmpty
    title: NonEmpty
    citations: Citations
    content: Annotated[list[Text], Field(min_length=1, max_length=MAX_CONTENT_BLOCKS)]


MessageBlock = Annotated[Text | Image | Document, Field(discriminator="type")]
ResultBlock = Annotated[Text | Image | Document | SearchResult, Field(discriminator="type")]


class UserMessage(Request):
    """A message to the agent. ``delivery``: `steer` goes into the running turn before its next model request; where
    none runs, and otherwise, it waits for a turn of its own."""

    type: Literal["user.message"]
    content: Annotated[list[MessageBlock], Field(min_length=1, max_length=MAX_CONTENT_BLOCKS)]
    delivery: Literal["queue", "steer"] | None = None


class UserInterrupt(Request):
    """Stop the present turn."""

    type: Literal["user.interrupt"]
    session_thread_id: Reference | None = None


class UserToolConfirmation(Request):
    """A person's answer to a tool call that waits for one."""

    type: Literal["user.tool_confirmation"]
    tool_use_id: Reference
    result: Literal["allow", "deny"]
    deny_message: Annotated[str, Field(max_length=10_000)] | None = None

    @model_validator(mode="after")
    def _message_only_with_deny(self) -> "UserToolConfirmation":
        if self.deny_message is not None and self.result != "deny":
            raise ValueError("'deny_message' goes with the result 'deny' only")
        return self


class UserCustomToolResult(Request):
    """The result of a tool that the client ran."""

    type: Literal["user.custom_tool_result"]
    custom_tool_use_id: Reference
    content: Annotated[list[ResultBlock], Field(max_length=MAX_CONTENT_BLOCKS)] = Field(
        default_factory=list[ResultBlock]
    )
    is_error: bool | None = None


class SystemMessage(Request):
    """Privileged context for the message or result that it follows."""

    type: Literal["system.message"]
    content: Annotated[list[Text], Field(min_length=1, max_length=MAX_CONTENT_BLOCKS)]


class UserDefineOutcome(Request):
    """Not in this version."""

    model_config = ConfigDict(extra="allow")
    type: Literal["user.define_outcome"]


class UserToolResult(Request):
    """Only for self-hosted environments, which are not in this version."""

    model_config = ConfigDict(extra="allow")
    type: Literal["user.tool_result"]


InputEvent = Annotated[
    UserMessage
    | UserInterrupt
    | UserToolConfirmation
    | UserCustomToolResult
    | SystemMessage
    | UserDefineOutcome
    | UserToolResult,
    Field(discriminator="type"),
]


class EventsSend(Request):
    """Events for a session, accepted all together or not at all."""

    events: Annotated[list[InputEvent], Field(min_length=1, max_length=MAX_EVENTS)]
    expected_seq: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = Field(
        default=None, description="Refuse the events (409) unless the session's newest event has this seq."
    )


class WireEvent(Answer):
    """An event; further fields depend on its type."""

    model_config = ConfigDict(extra="allow")

    id: str
    type: str
    processed_at: datetime | None = Field(description="Null while the event is queued.")


class SentEvents(Answer):
    """The events as they were accepted."""

    data: list[WireEvent]


def payload(event: InputEvent) -> dict[str, Any]:
    """Return an input event as it is recorded: what the client set, without its type."""
    return event.model_dump(exclude={"type"}, exclude_unset=True)
