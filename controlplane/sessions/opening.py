"""Opening a session: what was asked for, checked and recorded in the caller's transaction."""

from collections.abc import Sequence
from typing import Any

from controlplane import rosters
from controlplane.checks import check_tools, require_unarchived
from controlplane.definitions import SessionAgent
from controlplane.sessions import changes
from controlplane.sessions.inputs import recorded_inputs
from controlplane.sessions.mounts import mounts_of
from controlplane.store import agents, budgets, environments, events, resources, sessions, vaults
from controlplane.store.events import Event
from controlplane.store.memory_attached import Owners
from controlplane.store.pool import Connection
from controlplane.store.sessions import SessionContent
from controlplane.wire.agents import resolved_model
from controlplane.wire.events import InputEvent
from controlplane.wire.sessions import AgentAtVersion, AgentChoice, AgentWithOverrides, SessionCreate
from controlplane.wire.tools import resolved_servers, resolved_tools


async def open_session(
    connection: Connection,
    workspace_id: str,
    wanted: SessionCreate,
    inputs: Sequence[InputEvent],
    *,
    by: str,
    deployment_id: str | None = None,
) -> tuple[str, list[Event]]:
    """Open a session, mount its files and queue its inputs; return its id and what was queued.

    ``by``: the key that it is opened with. ``inputs`` must be in order as `check_inputs` has it.
    """
    content = await checked_content(connection, wanted)
    session_id = await sessions.create(
        connection,
        workspace_id,
        environment_id=wanted.environment_id,
        vault_ids=wanted.vault_ids or [],
        content=content,
        deployment_id=deployment_id,
        user_id=wanted.user_id,
    )
    owners = Owners(session_id=session_id, agent_id=content.agent.id, user_id=wanted.user_id)
    for mount in await mounts_of(connection, wanted.resources or [], owners, taken=[]):
        await resources.add(connection, workspace_id, session_id=session_id, mount=mount)
    new = await recorded_inputs(connection, session_id, inputs, "initial_events", by=by)
    return session_id, await events.append(connection, session_id, new)


async def checked_content(connection: Connection, wanted: SessionCreate) -> SessionContent:
    """Return what a session would be opened with; raises where it could not be, now."""
    environment = await environments.get(connection, wanted.environment_id)
    require_unarchived("environment", environment.id, environment.archived_at)
    await vaults.check_usable(connection, wanted.vault_ids or [])
    await budgets.check_usable(connection, wanted.budget_ids)
    return SessionContent(
        agent=await _chosen_agent(connection, wanted.agent),
        title=wanted.title,
        metadata=wanted.metadata or {},
        budget=changes.budget(wanted.budget),
        budget_ids=wanted.budget_ids,
    )


async def _chosen_agent(connection: Connection, choice: AgentChoice) -> SessionAgent:
    reference = AgentAtVersion(type="agent", id=choice) if isinstance(choice, str) else choice
    record = await agents.get(connection, reference.id, version=reference.version)
    require_unarchived("agent", record.id, record.archived_at)
    agent = SessionAgent(
        id=record.id,
        version=record.version,
        multiagent=await rosters.expand(connection, record.definition.multiagent),
        **rosters.base_fields(record.definition),  # pyright: ignore[reportArgumentType] - the fields of the same model
    )
    if isinstance(reference, AgentWithOverrides):
        agent = agent.model_copy(update=_overrides(reference, agent))
        check_tools(agent.tools, agent.mcp_servers)
    return agent


def _overrides(wanted: AgentWithOverrides, agent: SessionAgent) -> dict[str, Any]:
    given = wanted.model_fields_set
    found: dict[str, Any] = {
        "system": wanted.system or None,
        "tools": resolved_tools(wanted.tools),
        "mcp_servers": resolved_servers(wanted.mcp_servers),
        "skills": [skill.resolve() for skill in wanted.skills or []],
    }
    if "model" in given:
        found["model"] = resolved_model(wanted.model, agent.model)
    return {name: value for name, value in found.items() if name in given}
