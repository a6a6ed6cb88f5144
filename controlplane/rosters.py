"""The agents that an agent may start threads of: references resolved, and expanded for a session."""

from typing import Any

from controlplane.checks import refused, require_unarchived
from controlplane.definitions import (
    Advisor,
    AgentDefinition,
    AgentReference,
    Coordinator,
    SessionAgentBase,
    SessionCoordinator,
)
from controlplane.store import agents
from controlplane.store.pool import Connection
from controlplane.wire.agents import AdvisorRequest, AgentReferenceRequest, CoordinatorRequest, SelfRequest

_FIELD = "multiagent.agents"


async def resolve(
    connection: Connection, wanted: CoordinatorRequest | None, *, agent_id: str, version: int
) -> Coordinator | None:
    """Pin every entry to a version; ``agent_id`` at ``version`` is the one that the roster belongs to."""
    if wanted is None:
        return None
    entries: list[AgentReference | Advisor] = []
    for entry in wanted.agents:
        match entry:
            case SelfRequest():
                entries.append(AgentReference(type="agent", id=agent_id, version=version))
            case AdvisorRequest():
                entries.append(Advisor(type="advisor", model=entry.model))
            case AgentReferenceRequest():
                entries.append(await _pinned(connection, entry.id, entry.version))
            case _:
                entries.append(await _pinned(connection, entry, None))
    ids = [entry.id for entry in entries if isinstance(entry, AgentReference)]
    if len(set(ids)) < len(ids):
        raise refused(_FIELD, "an agent appears more than once")
    if len(entries) - len(ids) > 1:
        raise refused(_FIELD, "at most one advisor")
    return Coordinator(type="coordinator", agents=entries)


async def expand(connection: Connection, roster: Coordinator | None) -> SessionCoordinator | None:
    """Return the roster with every agent in full, as a session keeps it."""
    if roster is None:
        return None
    entries: list[SessionAgentBase | Advisor] = []
    for entry in roster.agents:
        if isinstance(entry, Advisor):
            entries.append(entry)
            continue
        record = await agents.get(connection, entry.id, version=entry.version)
        entries.append(SessionAgentBase(id=record.id, version=record.version, **base_fields(record.definition)))
    return SessionCoordinator(type="coordinator", agents=entries)


def base_fields(definition: AgentDefinition) -> dict[str, Any]:
    """Return what a session keeps of a definition, but for its roster."""
    return {name: value for name, value in definition if name not in ("multiagent", "metadata")}


async def _pinned(connection: Connection, agent_id: str, version: int | None) -> AgentReference:
    record = await agents.get(connection, agent_id, version=version)
    require_unarchived("agent", agent_id, record.archived_at)
    if record.definition.multiagent is not None:
        raise refused(_FIELD, f"agent {agent_id!r} has a roster of its own; one level is allowed")
    return AgentReference(type="agent", id=record.id, version=record.version)
