"""Model requests on the wire: what was asked of which model, and what it cost."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from controlplane.wire.common import Answer
from harness_adapters.contract import Usage


class ModelRequestRecord(Answer):
    """A model request. Its id is the `span.model_request_start` event's."""

    type: Literal["model_request"] = "model_request"
    id: str
    session_id: str
    turn_id: str
    model: str = Field(description="The model that it is booked on.")
    fallback_for: str | None = Field(description="The model that was asked first, if this one stood in for it.")
    provider: str
    state: Literal["running", "metered", "lost", "free"] = Field(
        description="`metered`: as the provider counted. `lost`: nobody knows, so that it costs what was reserved."
        " `free`: it was not sent, or refused."
    )
    status: int | None = Field(description="The HTTP status of the provider's answer; null: there was none.")
    usage: Usage | None
    usage_estimated: bool = Field(description="The answer did not say what it used, so that we counted.")
    cost_usd: str | None = Field(description="Null where it was free, or has no price.")
    started_at: datetime
    first_byte_ms: int | None
    ended_at: datetime | None
    logged: bool = Field(description="Whether its body and its answer are kept.")
