"""Pages of listings: opaque cursors, and the parameters that listings share."""

import base64
import binascii
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, TypeVar

from fastapi import Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from controlplane.errors import InvalidRequestError
from controlplane.store.positions import Position

T = TypeVar("T")

_PREFIX = "page_"

DEFAULT_LIMIT = 20
MAX_LIMIT = 1000


def in_utc(moment: datetime) -> datetime:
    """Return a moment; one that names no zone is one of UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class Cursor(BaseModel):
    """Where a page starts: which listing, and the key of the row before it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    of: str
    at: datetime | None = None
    id: str | None = Field(default=None, pattern=r"^[a-z]+_[0-9a-zA-Z]{1,64}$")
    n: int | None = Field(default=None, ge=0, le=2**31 - 1)
    path: str | None = Field(default=None, max_length=1100)
    back: bool = False

    def position(self) -> Position | None:
        """Return the row that the page comes after."""
        return Position(created_at=in_utc(self.at), id=self.id) if self.at and self.id else None


def encode(cursor: Cursor) -> str:
    """Return the cursor as clients see it."""
    text = cursor.model_dump_json(exclude_defaults=True)
    return _PREFIX + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(page: str | None, of: str) -> Cursor:
    """Return the cursor that a client sent back; raises `InvalidRequestError` if it is none of this listing's."""
    if not page:
        return Cursor(of=of)
    try:
        text = base64.b64decode(page.removeprefix(_PREFIX) + "===", altchars=b"-_", validate=False)
        cursor = Cursor.model_validate_json(text)
    except (binascii.Error, ValidationError, ValueError) as error:
        raise _bad_cursor() from error
    if not page.startswith(_PREFIX) or cursor.of != of:
        raise _bad_cursor()
    return cursor


def cut(found: Sequence[T], limit: int, of: str, key: Callable[[T], Position]) -> tuple[Sequence[T], str | None]:
    """Split what was read with a limit of one more into the page and the next page's cursor."""
    if len(found) <= limit:
        return found, None
    last = key(found[limit - 1])
    return found[:limit], encode(Cursor(of=of, at=last.created_at, id=last.id))


def _bad_cursor() -> InvalidRequestError:
    return InvalidRequestError(
        "the cursor is none that this listing gave out",
        code="bad_cursor",
        field="page",
        next_step="pass next_page of the last answer unchanged, or omit page to start again",
    )


def _small_integer(value: object) -> object:
    return value if not isinstance(value, str) or len(value) <= 20 else "too long"


SmallInteger = BeforeValidator(_small_integer)

PageParam = Annotated[str | None, Query(max_length=1024, description="`next_page` of the page before.")]
LimitParam = Annotated[int, SmallInteger, Query(ge=1, le=MAX_LIMIT, description="How many at most.")]
SmallLimitParam = Annotated[int, SmallInteger, Query(ge=1, le=100, description="How many at most.")]
Moment = Annotated[datetime | None, Query(description="RFC 3339; UTC where it names no zone.")]


class Times(BaseModel):
    """A window of time."""

    gt: datetime | None
    gte: datetime | None
    lt: datetime | None
    lte: datetime | None


def times(
    gt: Annotated[datetime | None, Query(alias="created_at[gt]", description="After this time.")] = None,
    gte: Annotated[datetime | None, Query(alias="created_at[gte]", description="At or after this time.")] = None,
    lt: Annotated[datetime | None, Query(alias="created_at[lt]", description="Before this time.")] = None,
    lte: Annotated[datetime | None, Query(alias="created_at[lte]", description="At or before this time.")] = None,
) -> Times:
    """Read the window of time of a listing."""
    zoned = [moment and in_utc(moment) for moment in (gt, gte, lt, lte)]
    return Times(gt=zoned[0], gte=zoned[1], lt=zoned[2], lte=zoned[3])
