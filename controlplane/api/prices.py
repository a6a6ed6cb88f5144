"""/v1/prices: what models cost where their list price is not known, or not ours."""

from fnmatch import fnmatchcase

from fastapi import APIRouter
from starlette.responses import Response

from controlplane.api.exchange import CurrentExchange, json_response, reads
from controlplane.prices import Price, Rate
from controlplane.store import prices, resuming
from controlplane.store.pool import Connection
from controlplane.store.prices import PriceRecord
from controlplane.wire.common import Page
from controlplane.wire.prices import ModelPrice, PriceDeleted, PriceSet

router = APIRouter(prefix="/v1/prices", tags=["budgets"])

_RESUMED_PER_SECOND = 5.0
_KINDS = ("input", "output", "cache_read", "cache_write")


@router.post("", response_model=ModelPrice)
async def set_price(exchange: CurrentExchange, wanted: PriceSet = reads(PriceSet)) -> Response:
    """Set what the models of a pattern cost, from their next request on; the longest pattern that fits counts.

    The sessions that rest because their model had no price go on.
    """
    given = {kind: getattr(wanted, kind) for kind in _KINDS}
    price = Price(**{kind: Rate(base=amount) for kind, amount in given.items() if amount is not None})

    async def effect(connection: Connection) -> ModelPrice:
        record = await prices.put(connection, exchange.workspace_id, model=wanted.model, price=price)
        resting = await resuming.resting_unpriced(connection)
        freed = [session_id for session_id, model in resting if fnmatchcase(model, wanted.model)]
        await resuming.want_all(connection, freed, rate_per_second=_RESUMED_PER_SECOND)
        return _wire(record)

    return await exchange.once(effect)


@router.get("", response_model=Page[ModelPrice])
async def list_prices(exchange: CurrentExchange) -> Response:
    """List the prices that were set, the most specific pattern first."""
    async with exchange.transaction() as connection:
        found = await prices.listing(connection, exchange.workspace_id)
    return json_response(Page[ModelPrice](data=[_wire(record) for record in found]))


@router.delete("/{price_id}", response_model=PriceDeleted)
async def delete_price(exchange: CurrentExchange, price_id: str) -> Response:
    """Remove a price that was set; the list price holds again."""
    async with exchange.transaction() as connection:
        removed = await prices.remove(connection, price_id)
    return json_response(PriceDeleted(id=removed.id))


def _wire(record: PriceRecord) -> ModelPrice:
    price = record.price
    return ModelPrice(
        id=record.id,
        model=record.model,
        input=price.input.base,
        output=price.output.base,
        cache_read=price.cache_read.base if price.cache_read else None,
        cache_write=price.cache_write.base if price.cache_write else None,
        created_at=record.created_at,
    )
