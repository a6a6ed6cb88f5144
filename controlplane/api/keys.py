"""/v1/api_keys: make, list and revoke keys."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from controlplane.api.exchange import CurrentExchange, json_response, reads
from controlplane.store import keys
from controlplane.store.keys import KeyRecord
from controlplane.store.pool import Connection
from controlplane.wire.common import Page
from controlplane.wire.keys import ApiKey, CreatedApiKey, KeyCreate

router = APIRouter(prefix="/v1/api_keys", tags=["api keys"])


@router.post("", response_model=CreatedApiKey)
async def create_key(exchange: CurrentExchange, wanted: KeyCreate = reads(KeyCreate)) -> Response:
    """Make an API key. The answer is the only one that shows it, and it is not kept for an Idempotency-Key."""
    if wanted.may_decide:
        exchange.require_decider("make a key that may decide")
    async with exchange.transaction() as connection:
        issued = await keys.create(connection, exchange.workspace_id, name=wanted.name, may_decide=wanted.may_decide)
    return json_response(CreatedApiKey(**_fields(issued.record), key=issued.secret))


@router.get("", response_model=Page[ApiKey])
async def list_keys(exchange: CurrentExchange) -> Response:
    """List every API key, newest first, revoked ones too."""
    async with exchange.transaction() as connection:
        found = await keys.listing(connection)
    return json_response(Page[ApiKey](data=[ApiKey(**_fields(record)) for record in found]))


@router.post("/{key_id}/revoke", response_model=ApiKey)
async def revoke_key(exchange: CurrentExchange, key_id: str) -> Response:
    """Revoke an API key for good; it stops to work within a second."""

    async def effect(connection: Connection) -> ApiKey:
        return ApiKey(**_fields(await keys.revoke(connection, key_id)))

    return await exchange.once(effect)


def _fields(record: KeyRecord) -> dict[str, Any]:
    return record.model_dump(exclude={"workspace_id"})
