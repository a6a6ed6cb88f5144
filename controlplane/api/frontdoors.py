"""/v1/front_doors: where people talk with agents in another service, and what holds there."""

from fastapi import APIRouter
from starlette.responses import Response

from controlplane.api.exchange import CurrentExchange, json_response, reads
from controlplane.api.pages import DEFAULT_LIMIT, LimitParam
from controlplane.frontdoors.policy import Rules
from controlplane.store import agents, environments, frontdoors, vaults
from controlplane.store.frontdoors import FrontDoorRecord
from controlplane.store.pool import Connection
from controlplane.wire.common import Page
from controlplane.wire.frontdoors import (
    FrontDoor,
    FrontDoorCreate,
    FrontDoorDeleted,
    FrontDoorUpdate,
    RefusalRecord,
)

router = APIRouter(prefix="/v1/front_doors", tags=["front doors"])

_DECIDES = "let people decide about tool calls"


@router.post("", response_model=FrontDoor)
async def create_front_door(exchange: CurrentExchange, wanted: FrontDoorCreate = reads(FrontDoorCreate)) -> Response:
    """Make a front door; `bulkhead slack` serves it. Who comes in by it may decide about calls, as its rules say."""
    exchange.require_decider(_DECIDES)

    async def effect(connection: Connection) -> FrontDoor:
        await vaults.check_usable(connection, [wanted.vault_id])
        await _check(connection, wanted.rules)
        made = await frontdoors.create(
            connection, exchange.workspace_id, name=wanted.name, vault_id=wanted.vault_id, rules=wanted.rules
        )
        return _wire(made)

    return await exchange.once(effect)


@router.get("", response_model=Page[FrontDoor])
async def list_front_doors(exchange: CurrentExchange) -> Response:
    """List the front doors, newest first."""
    async with exchange.transaction() as connection:
        found = await frontdoors.listing(connection)
    return json_response(Page[FrontDoor](data=[_wire(each) for each in found]))


@router.get("/{front_door_id}", response_model=FrontDoor)
async def get_front_door(exchange: CurrentExchange, front_door_id: str) -> Response:
    """Get a front door."""
    async with exchange.transaction() as connection:
        return json_response(_wire(await frontdoors.get(connection, front_door_id)))


@router.post("/{front_door_id}", response_model=FrontDoor)
async def update_front_door(
    exchange: CurrentExchange, front_door_id: str, wanted: FrontDoorUpdate = reads(FrontDoorUpdate)
) -> Response:
    """Replace a front door's rules; they hold from the next message and the next click on."""
    exchange.require_decider(_DECIDES)

    async def effect(connection: Connection) -> FrontDoor:
        await _check(connection, wanted.rules)
        return _wire(await frontdoors.replace_rules(connection, front_door_id, wanted.rules))

    return await exchange.once(effect)


@router.delete("/{front_door_id}", response_model=FrontDoorDeleted)
async def delete_front_door(exchange: CurrentExchange, front_door_id: str) -> Response:
    """Delete a front door with the record of what came and went by it; its sessions stay."""
    async with exchange.transaction() as connection:
        await frontdoors.delete(connection, front_door_id)
    return json_response(FrontDoorDeleted(id=front_door_id))


@router.get("/{front_door_id}/refusals", response_model=Page[RefusalRecord])
async def list_refusals(exchange: CurrentExchange, front_door_id: str, limit: LimitParam = DEFAULT_LIMIT) -> Response:
    """List what was refused at a front door, the latest first."""
    async with exchange.transaction() as connection:
        await frontdoors.get(connection, front_door_id)
        found = await frontdoors.refusals(connection, front_door_id, limit=limit)
    return json_response(Page[RefusalRecord](data=[RefusalRecord(**each.model_dump()) for each in found]))


async def _check(connection: Connection, rules: Rules) -> None:
    """Refuse rules that name what is not there."""
    await environments.get(connection, rules.environment_id)
    await vaults.check_usable(connection, rules.vault_ids)
    for agent_id in sorted(rules.named_agents()):
        await agents.get(connection, agent_id, version=None)


def _wire(record: FrontDoorRecord) -> FrontDoor:
    return FrontDoor(**{name: value for name, value in record if name in FrontDoor.model_fields})
