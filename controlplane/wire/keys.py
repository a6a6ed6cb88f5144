"""API keys on the wire."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from controlplane.wire.common import Answer, Request

_MAY_DECIDE_TEXT = "Whether it may decide about calls that wait for a person, and make rules."


class KeyCreate(Request):
    """A new key."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    may_decide: bool = Field(default=True, description=_MAY_DECIDE_TEXT)


class ApiKey(Answer):
    """A key without its secret."""

    type: Literal["api_key"] = "api_key"
    id: str
    name: str
    prefix: str = Field(description="The first characters of the key, to tell it from others.")
    may_decide: bool = Field(description=_MAY_DECIDE_TEXT)
    created_at: datetime
    last_used_at: datetime | None = Field(description="Noted at most once a minute.")
    revoked_at: datetime | None


class CreatedApiKey(ApiKey):
    """A new key; `key` is not shown again."""

    key: str
