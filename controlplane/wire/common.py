"""What the requests and answers of all resources share."""

from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")


class Request(BaseModel):
    """A part of a request: no field that we do not know, no value of another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class Answer(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(frozen=True)


NonEmpty = Annotated[str, Field(min_length=1)]
Reference = Annotated[str, Field(min_length=1, max_length=128)]
MetadataKey = Annotated[str, Field(min_length=1, max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]

MAX_METADATA_PAIRS = 16
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=MAX_METADATA_PAIRS)]
MetadataPatch = dict[MetadataKey, MetadataValue | None]

Version = Annotated[int, Field(ge=1, le=2**31 - 1)]


class Page(Answer, Generic[T]):
    """One page of a listing; ``next_page`` goes into the ``page`` parameter of the next request."""

    data: list[T]
    next_page: str | None = None


class ErrorDetails(Answer):
    """The code once more, where the public SDK looks for it."""

    error_code: str


class ErrorBody(Answer):
    """What went wrong, where, and what to do about it."""

    type: str = Field(description="The kind of error; decides the HTTP status.")
    message: str = Field(description="For a person to read; its wording may change.")
    code: str = Field(description="Stable, for a program to read.")
    field: str | None = Field(default=None, description="The offending field as a dotted path.")
    next_step: str | None = Field(default=None, description="What to do next.")
    details: ErrorDetails


class ErrorEnvelope(Answer):
    """Every answer that is not a success."""

    type: Literal["error"] = "error"
    error: ErrorBody
    request_id: str
