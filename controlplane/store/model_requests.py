"""Model requests as they are shown, and what was said in each, for as long as it is kept."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, ConfigDict

from controlplane.errors import NotFoundError
from controlplane.ids import shown_id
from controlplane.store.pool import Connection, one, rows
from controlplane.store.positions import Position
from harness_adapters.contract import Usage

RequestState = Literal["running", "metered", "lost", "free"]


class RequestRecord(BaseModel):
    """A row of the ledger. ``is_kept``: whether what was said is still there."""

    model_config = ConfigDict(frozen=True)

    id: str
    session_id: str
    turn_id: str
    model: str
    fallback_for: str | None
    provider: str
    state: RequestState
    status: int | None
    usage: Usage | None
    usage_estimated: bool
    cost_usd: Decimal | None
    started_at: datetime
    first_byte_ms: int | None
    ended_at: datetime | None
    is_kept: bool


@dataclass(frozen=True)
class KeptExchange:
    """What was said in a request, compressed with zstd; ``response_type``: of the answer, "" if there was none."""

    request_id: str
    request: bytes
    response: bytes
    response_type: str


async def listing(
    connection: Connection, session_id: str, *, beyond: Position | None, limit: int
) -> list[RequestRecord]:
    """Return up to ``limit`` model requests of a session in the order in which they were made."""
    found = await rows(
        connection,
        """
        SELECT r.id, r.session_id, r.turn_id, r.model, r.fallback_for, r.provider, r.state, r.status, r.usage,
               r.usage_estimated, r.cost_usd, r.started_at, r.first_byte_ms, r.ended_at,
               EXISTS (SELECT FROM model_exchanges e WHERE e.request_id = r.id) AS is_kept
          FROM model_requests r
         WHERE r.session_id = %(session)s
           AND (%(at)s::timestamptz IS NULL OR (r.started_at, r.id) > (%(at)s::timestamptz, %(id)s::text))
         ORDER BY r.started_at, r.id LIMIT %(limit)s
        """,
        {
            "session": session_id,
            "at": beyond.created_at if beyond else None,
            "id": beyond.id if beyond else None,
            "limit": limit,
        },
    )
    return [RequestRecord.model_validate(row) for row in found]


async def keep(connection: Connection, exchange: KeptExchange) -> None:
    """Keep what was said in a request, unless its session is gone."""
    await connection.execute(
        "INSERT INTO model_exchanges (request_id, workspace_id, request, response, response_type)"
        " SELECT id, workspace_id, %(request)b, %(response)b, %(type)s FROM model_requests WHERE id = %(id)s"
        " ON CONFLICT DO NOTHING",
        {
            "id": exchange.request_id,
            "request": exchange.request,
            "response": exchange.response,
            "type": exchange.response_type,
        },
    )


async def kept(connection: Connection, session_id: str, request_id: str) -> KeptExchange:
    """Return what was said in a request of a session; raises `NotFoundError`."""
    request = await one(
        connection,
        "SELECT id FROM model_requests WHERE id = %(id)s AND session_id = %(session)s",
        {"id": request_id, "session": session_id},
    )
    if request is None:
        raise NotFoundError(
            f"no model request {shown_id(request_id)!r} in this session",
            code="model_request_not_found",
            field="request_id",
            next_step="list the session's model requests",
        )
    cursor = await connection.execute(
        "SELECT request_id, request, response, response_type FROM model_exchanges WHERE request_id = %(id)s",
        {"id": request_id},
        binary=True,
    )
    row = await cursor.fetchone()
    if row is None:
        raise NotFoundError(
            f"what was said in the model request {request_id!r} is not kept, or not any more",
            code="model_request_not_kept",
            field="request_id",
            next_step="set BULKHEAD_MODEL_LOG_DAYS higher, for requests that are still to come",
        )
    return KeptExchange(**row)


async def prune(connection: Connection, *, older_than: timedelta, limit: int) -> int:
    """Remove up to ``limit`` exchanges that are older; return how many."""
    removed = await connection.execute(
        "DELETE FROM model_exchanges WHERE request_id IN (SELECT request_id FROM model_exchanges"
        " WHERE kept_at <= now() - %s::interval ORDER BY kept_at LIMIT %s FOR UPDATE SKIP LOCKED)",
        (older_than, limit),
    )
    return removed.rowcount
