"""Prices that an operator has set; they precede the list prices."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict

from controlplane.errors import NotFoundError
from controlplane.ids import new_id, shown_id
from controlplane.prices import Price
from controlplane.store.pool import Connection, one, rows

_LOCK_CLASS = 7_102
"""The first half of the advisory lock of a workspace's prices; the second is a hash."""


class PriceRecord(BaseModel):
    """The price of the models whose name fits the glob pattern ``model``."""

    model_config = ConfigDict(frozen=True)

    id: str
    model: str
    price: Price
    created_at: datetime


async def put(connection: Connection, workspace_id: str, *, model: str, price: Price) -> PriceRecord:
    """Set the price of a pattern, in place of the one it had; from now on nothing comes to rest for want of it.

    Sessions that rest must be looked for after this: `hold` keeps those that are about to until it is committed.
    """
    await connection.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_LOCK_CLASS, workspace_id))
    row = await one(
        connection,
        "INSERT INTO model_prices (id, workspace_id, model, price)"
        " VALUES (%(id)s, %(workspace)s, %(model)s, %(price)s)"
        " ON CONFLICT (workspace_id, model) DO UPDATE SET price = excluded.price"
        " RETURNING id, model, price, created_at",
        {
            "id": new_id("prc"),
            "workspace": workspace_id,
            "model": model,
            "price": Jsonb(price.model_dump(mode="json")),
        },
    )
    return PriceRecord.model_validate(row)


async def hold(connection: Connection, workspace_id: str) -> None:
    """Let nobody set a price until the caller's transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock_shared(%s, hashtext(%s))", (_LOCK_CLASS, workspace_id))


async def listing(connection: Connection, workspace_id: str) -> list[PriceRecord]:
    """Return every price of a workspace, the most specific pattern first: the longest."""
    found = await rows(
        connection,
        "SELECT id, model, price, created_at FROM model_prices WHERE workspace_id = %(workspace)s"
        " ORDER BY length(model) DESC, model",
        {"workspace": workspace_id},
    )
    return [PriceRecord.model_validate(row) for row in found]


async def remove(connection: Connection, price_id: str) -> PriceRecord:
    """Remove a price; the list price holds again."""
    row = await one(
        connection,
        "DELETE FROM model_prices WHERE id = %(id)s RETURNING id, model, price, created_at",
        {"id": price_id},
    )
    if row is None:
        raise NotFoundError(
            f"no price {shown_id(price_id)!r}", code="price_not_found", field="price_id", next_step="list the prices"
        )
    return PriceRecord.model_validate(row)


async def of_model(connection: Connection, workspace_id: str, model: str) -> Price | None:
    """Return the price that was set for a model, if one was."""
    return fitting([each.model_dump() for each in await listing(connection, workspace_id)], model)


def fitting(listed: Sequence[Mapping[str, Any]], model: str) -> Price | None:
    """Return the price for a model, if one was set. ``listed``: ``model`` and ``price`` of each, as in `listing`."""
    return next((Price.model_validate(each["price"]) for each in listed if fnmatchcase(model, each["model"])), None)
