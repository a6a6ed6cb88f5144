"""/v1/sessions/{id}/model_requests: what a session asked of models, what it cost, and what was said word for word."""

import asyncio
from typing import Any

import zstandard
from fastapi import APIRouter
from starlette.responses import Response

from controlplane.api.exchange import CurrentExchange, Exchange, json_response
from controlplane.api.pages import DEFAULT_LIMIT, LimitParam, PageParam, cut, decode
from controlplane.errors import NotFoundError
from controlplane.store import model_requests, sessions
from controlplane.store.model_requests import KeptExchange, RequestRecord
from controlplane.store.positions import Position
from controlplane.wire.common import Page
from controlplane.wire.model_requests import ModelRequestRecord

router = APIRouter(prefix="/v1/sessions/{session_id}/model_requests", tags=["sessions"])

_JSON, _STREAM = "application/json", "text/event-stream"
_BYTES: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}


@router.get("", response_model=Page[ModelRequestRecord])
async def list_model_requests(
    exchange: CurrentExchange, session_id: str, limit: LimitParam = DEFAULT_LIMIT, page: PageParam = None
) -> Response:
    """List what a session asked of models, in order, and what each request cost."""
    cursor = decode(page, "model_requests")
    async with exchange.transaction() as connection:
        await sessions.last_seq(connection, session_id)
        found = await model_requests.listing(connection, session_id, beyond=cursor.position(), limit=limit + 1)
    shown, following = cut(
        found, limit, "model_requests", lambda each: Position(created_at=each.started_at, id=each.id)
    )
    return json_response(Page[ModelRequestRecord](data=[_wire(each) for each in shown], next_page=following))


@router.get("/{request_id}/request", response_class=Response, responses={200: {"content": {_JSON: {"schema": {}}}}})
async def get_model_request_body(exchange: CurrentExchange, session_id: str, request_id: str) -> Response:
    """Get the body of a model request as it was sent to its provider."""
    kept = await _kept(exchange, session_id, request_id)
    return _raw(await _unpacked(kept.request), _JSON)


@router.get(
    "/{request_id}/response",
    response_class=Response,
    responses={200: {"content": {_JSON: {"schema": {}}, _STREAM: _BYTES}}},
)
async def get_model_request_answer(exchange: CurrentExchange, session_id: str, request_id: str) -> Response:
    """Get the provider's answer to a model request as it was passed on, as far as it came."""
    kept = await _kept(exchange, session_id, request_id)
    content = await _unpacked(kept.response)
    if not content:
        raise NotFoundError(
            f"no answer came to the model request {request_id!r}",
            code="model_request_unanswered",
            field="request_id",
            next_step="look at the request's state and status",
        )
    return _raw(content, _STREAM if _STREAM in kept.response_type else _JSON)


async def _kept(exchange: Exchange, session_id: str, request_id: str) -> KeptExchange:
    async with exchange.transaction() as connection:
        await sessions.last_seq(connection, session_id)
        return await model_requests.kept(connection, session_id, request_id)


async def _unpacked(packed: bytes) -> bytes:
    return await asyncio.to_thread(zstandard.ZstdDecompressor().decompress, packed)


def _raw(content: bytes, media_type: str) -> Response:
    return Response(content, media_type=media_type, headers={"x-content-type-options": "nosniff"})


def _wire(record: RequestRecord) -> ModelRequestRecord:
    cost = record.cost_usd
    return ModelRequestRecord(
        **record.model_dump(exclude={"cost_usd", "is_kept", "usage"}),
        usage=record.usage,
        cost_usd=f"{cost.normalize():f}" if cost is not None else None,
        logged=record.is_kept,
    )
