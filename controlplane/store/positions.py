"""Where a page of a listing ends: the sort key of its last row."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict


class Position(BaseModel):
    """The row that the next page comes after."""

    model_config = ConfigDict(frozen=True)

    created_at: datetime
    id: str
