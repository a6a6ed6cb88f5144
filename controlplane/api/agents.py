"""/v1/agents: agents and their immutable versions."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from controlplane import rosters
from controlplane.api.exchange import CurrentExchange, Exchange, json_response, reads
from controlplane.api.pages import (
    DEFAULT_LIMIT,
    Cursor,
    PageParam,
    SmallInteger,
    SmallLimitParam,
    Times,
    cut,
    decode,
    encode,
    times,
)
from controlplane.checks import check_harness, check_tools, patched_metadata, require_unarchived
from controlplane.definitions import AgentDefinition
from controlplane.errors import ConflictError
from controlplane.store import agents, resuming
from controlplane.store.agents import AgentFilter, AgentRecord
from controlplane.store.pool import Connection
from controlplane.store.positions import Position
from controlplane.store.resuming import FailedFilter
from controlplane.wire.agents import Agent, AgentCreate, AgentUpdate, CoordinatorRequest, resolved_model
from controlplane.wire.common import Page, Version
from controlplane.wire.tools import resolved_servers, resolved_tools

router = APIRouter(prefix="/v1/agents", tags=["agents"])

_MOST_RESUMED = 10_000
_RESUMED_PER_SECOND = 5.0


@router.post("", response_model=Agent)
async def create_agent(exchange: CurrentExchange, wanted: AgentCreate = reads(AgentCreate)) -> Response:
    """Make an agent at version 1."""

    async def effect(connection: Connection) -> Agent:
        agent_id = agents.new_agent_id()
        definition = AgentDefinition(
            name=wanted.name,
            description=wanted.description or None,
            model=resolved_model(wanted.model),
            system=wanted.system or None,
            tools=resolved_tools(wanted.tools),
            mcp_servers=resolved_servers(wanted.mcp_servers),
            skills=[skill.resolve() for skill in wanted.skills or []],
            multiagent=await rosters.resolve(connection, wanted.multiagent, agent_id=agent_id, version=1),
            metadata=wanted.metadata or {},
            harness=check_harness(wanted.harness, exchange.parts.harnesses),
            harness_mode=wanted.harness_mode or "inline",
        )
        check_tools(definition.tools, definition.mcp_servers)
        return _wire(await agents.create(connection, exchange.workspace_id, agent_id=agent_id, definition=definition))

    return await exchange.once(effect)


@router.get("", response_model=Page[Agent])
async def list_agents(
    exchange: CurrentExchange,
    window: Annotated[Times, Depends(times)],
    limit: SmallLimitParam = DEFAULT_LIMIT,
    page: PageParam = None,
    include_archived: bool = False,
) -> Response:
    """List agents at their newest versions, newest first."""
    narrowed = AgentFilter(
        include_archived=include_archived,
        created_at_gte=window.gte,
        created_at_lte=window.lte,
        beyond=decode(page, "agents").position(),
    )
    async with exchange.transaction() as connection:
        found = await agents.listing(connection, narrowed, limit=limit + 1)
    shown, following = cut(found, limit, "agents", lambda a: Position(created_at=a.created_at, id=a.id))
    return json_response(Page[Agent](data=[_wire(record) for record in shown], next_page=following))


@router.get("/{agent_id}", response_model=Agent)
async def get_agent(
    exchange: CurrentExchange,
    agent_id: str,
    version: Annotated[Version | None, SmallInteger, Query(description="The newest one if omitted.")] = None,
) -> Response:
    """Get an agent at a version."""
    async with exchange.transaction() as connection:
        return json_response(_wire(await agents.get(connection, agent_id, version=version)))


@router.post("/{agent_id}", response_model=Agent)
async def update_agent(
    exchange: CurrentExchange, agent_id: str, wanted: AgentUpdate = reads(AgentUpdate)
) -> Response:
    """Add a version. An update that changes nothing returns the newest version as it is."""

    async def effect(connection: Connection) -> Agent:
        before = await agents.lock(connection, agent_id)
        require_unarchived("agent", agent_id, before.archived_at)
        if wanted.version is not None and wanted.version != before.version:
            raise ConflictError(
                f"the agent is at version {before.version}, not {wanted.version}",
                code="version_conflict",
                field="version",
                next_step="get the agent, and apply the change to its newest version",
            )
        definition = await _updated(exchange, connection, before, wanted)
        if definition == before.definition:
            return _wire(before)
        check_tools(definition.tools, definition.mcp_servers)
        return _wire(await agents.add_version(connection, exchange.workspace_id, agent=before, definition=definition))

    return await exchange.once(effect)


@router.post("/{agent_id}/archive", response_model=Agent)
async def archive_agent(exchange: CurrentExchange, agent_id: str) -> Response:
    """Make an agent read-only: it stays as it is, and no new session can use it."""

    async def effect(connection: Connection) -> Agent:
        return _wire(await agents.archive(connection, agent_id))

    return await exchange.once(effect)


@router.post("/{agent_id}/freeze", response_model=Agent)
async def freeze_agent(exchange: CurrentExchange, agent_id: str) -> Response:
    """Let no session of the agent begin a turn, ask a model or reach anything, until it is thawed.

    What runs comes to rest before its next model request; `/v1/live/stop` stops it at once.
    """

    async def effect(connection: Connection) -> Agent:
        return _wire(await agents.set_frozen(connection, agent_id, frozen=True))

    return await exchange.once(effect)


@router.post("/{agent_id}/thaw", response_model=Agent)
async def thaw_agent(exchange: CurrentExchange, agent_id: str) -> Response:
    """Let a frozen agent's sessions go on: with what waits in their queues, and with the turns that came to rest."""

    async def effect(connection: Connection) -> Agent:
        thawed = await agents.set_frozen(connection, agent_id, frozen=False)
        stuck = FailedFilter(agent_id=agent_id, causes=["agent_frozen"])
        found = await resuming.failed(connection, stuck, limit=_MOST_RESUMED)
        await resuming.want_all(connection, found, rate_per_second=_RESUMED_PER_SECOND)
        return _wire(thawed)

    return await exchange.once(effect)


@router.get("/{agent_id}/versions", response_model=Page[Agent])
async def list_versions(
    exchange: CurrentExchange, agent_id: str, limit: SmallLimitParam = DEFAULT_LIMIT, page: PageParam = None
) -> Response:
    """List the versions of an agent, newest first."""
    cursor = decode(page, "versions")
    async with exchange.transaction() as connection:
        await agents.get(connection, agent_id)
        found = await agents.versions(connection, agent_id, below=cursor.n, limit=limit + 1)
    shown = found[:limit]
    following = encode(Cursor(of="versions", n=shown[-1].version)) if len(found) > limit else None
    return json_response(Page[Agent](data=[_wire(record) for record in shown], next_page=following))


async def _updated(
    exchange: Exchange, connection: Connection, before: AgentRecord, wanted: AgentUpdate
) -> AgentDefinition:
    given = wanted.model_fields_set
    changes: dict[str, Any] = {
        "name": wanted.name,
        "description": wanted.description or None,
        "system": wanted.system or None,
        "tools": resolved_tools(wanted.tools),
        "mcp_servers": resolved_servers(wanted.mcp_servers),
        "skills": [skill.resolve() for skill in wanted.skills or []],
        "metadata": patched_metadata(before.definition.metadata, wanted.metadata),
        "harness": check_harness(wanted.harness, exchange.parts.harnesses),
        "harness_mode": wanted.harness_mode or "inline",
    }
    if "model" in given:
        changes["model"] = resolved_model(wanted.model, before.definition.model)
    if "multiagent" in given:
        changes["multiagent"] = await _new_roster(connection, before, wanted.multiagent)
    return before.definition.model_copy(update={name: changes[name] for name in changes if name in given})


async def _new_roster(connection: Connection, before: AgentRecord, wanted: CoordinatorRequest | None) -> Any:
    current = before.definition.multiagent
    same = await rosters.resolve(connection, wanted, agent_id=before.id, version=before.version)
    if same == current:
        return current
    return await rosters.resolve(connection, wanted, agent_id=before.id, version=before.version + 1)


def _wire(record: AgentRecord) -> Agent:
    return Agent(
        **dict(record.definition),
        id=record.id,
        version=record.version,
        created_at=record.created_at,
        updated_at=record.updated_at,
        archived_at=record.archived_at,
        frozen_at=record.frozen_at,
    )
