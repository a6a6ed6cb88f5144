"""What a run begins with, if it may begin now: the rights of the moment, its session, and what that is told."""

from collections.abc import Sequence

from controlplane.errors import InvalidRequestError, NotFoundError
from controlplane.sessions.inputs import check_open, recorded_inputs
from controlplane.sessions.mounts import mounts_of
from controlplane.sessions.opening import checked_content, open_session
from controlplane.store import (
    agents,
    deployment_runs,
    deployments,
    egress,
    environments,
    events,
    front_door_threads,
    frontdoors,
    limits,
    sessions,
)
from controlplane.store.deployment_runs import RunRecord
from controlplane.store.deployments import DeploymentContent, DeploymentRecord
from controlplane.store.events import Event
from controlplane.store.memory_attached import Owners
from controlplane.store.pool import Connection
from controlplane.wire.deployments import INITIAL_EVENTS
from controlplane.wire.events import InputEvent, Text, UserMessage
from controlplane.wire.sessions import AgentAtVersion, SessionCreate


async def launch(connection: Connection, deployed: DeploymentRecord, run: RunRecord) -> tuple[str, list[Event]]:
    """Give a run's session what it is to work on; return the session and what was queued for it.

    Raises a `BulkheadError` where the run may not be, now.
    """
    await _check_rights(connection, deployed)
    inputs = _with_message(INITIAL_EVENTS.validate_python(deployed.initial_events), run.message)
    session_id = await _continued(connection, deployed)
    if session_id is None:
        session_id, queued = await open_session(
            connection,
            deployed.workspace_id,
            wanted_session(deployed),
            inputs,
            by=deployed.created_by,
            deployment_id=deployed.id,
        )
        if deployed.session == "continue":
            await deployments.keep_session(connection, deployed.id, session_id)
    else:
        new = await recorded_inputs(connection, session_id, inputs, "initial_events", by=deployed.created_by)
        queued = await events.append(connection, session_id, new)
    await _report(connection, deployed, run, session_id, from_seq=min(each.seq for each in queued))
    await deployment_runs.begin(connection, run, deployed, session_id=session_id, inputs=[each.id for each in queued])
    return session_id, queued


def wanted_session(deployed: DeploymentContent) -> SessionCreate:
    """Return what the session of a deployment's run is opened with, but for its inputs."""
    return SessionCreate.model_validate(
        {
            "agent": AgentAtVersion(type="agent", id=deployed.agent_id, version=deployed.agent_version),
            "environment_id": deployed.environment_id,
            "title": deployed.name,
            "resources": deployed.resources,
            "vault_ids": deployed.vault_ids,
            "budget": deployed.budget.model_dump() if deployed.budget else None,
            "budget_ids": deployed.budget_ids,
        }
    )


async def _report(
    connection: Connection, deployed: DeploymentRecord, run: RunRecord, session_id: str, *, from_seq: int
) -> None:
    """Have the run's session be a thread where it is to be told what it comes to, if it may be there now."""
    to = deployed.reports_to
    door = await frontdoors.find(connection, to.front_door_id) if to else None
    if to is None or door is None:
        return
    if not door.rules.may_answer(to.place, deployed.agent_id):
        await frontdoors.refuse(connection, door, reason="agent_not_here", place=to.place)
        return
    await front_door_threads.report(
        connection,
        door,
        place=to.place,
        run_id=run.id,
        session_id=session_id,
        heading=deployed.name,
        from_seq=from_seq,
    )


async def _check_rights(connection: Connection, deployed: DeploymentRecord) -> None:
    if not await deployments.acts(connection, deployed):
        raise InvalidRequestError(
            f"the API key {deployed.created_by!r}, for which the deployment acts, was revoked",
            code="key_revoked",
            next_step="unpause the deployment with another key, which then takes its place",
        )
    spent = await limits.spent(connection, deployed.agent_id, deployed.budget_ids)
    if spent is not None:
        raise InvalidRequestError(f"the budget {spent.name!r} is spent", code="budget_reached")
    agent = await agents.get(connection, deployed.agent_id, version=deployed.agent_version)
    environment = await environments.get(connection, deployed.environment_id)
    blocked = egress.blocked_servers(environment.config, agent.definition.mcp_servers)
    if blocked:
        raise InvalidRequestError(
            f"the environment's network keeps the agent from its MCP server {blocked[0]!r}",
            code="mcp_egress_blocked",
        )


async def _continued(connection: Connection, deployed: DeploymentRecord) -> str | None:
    """Return the session that goes on, if the deployment has one that takes inputs; raises if it may not go on."""
    session_id = deployed.session_id
    if deployed.session == "new" or session_id is None:
        return None
    try:
        await check_open(connection, session_id)
    except (NotFoundError, InvalidRequestError):
        return None
    wanted = wanted_session(deployed)
    content = await checked_content(connection, wanted)
    owners = Owners(session_id=session_id, agent_id=content.agent.id, user_id=wanted.user_id)
    await mounts_of(connection, wanted.resources or [], owners, taken=[])
    blocked = await limits.blocked(connection, session_id)
    if blocked is not None and blocked.budget_id is None:
        raise InvalidRequestError(
            f"{blocked.message}, and all runs go on in session {session_id!r}",
            code="budget_reached",
            next_step="resume the session with a larger budget, or give the deployment another, and so a new session",
        )
    await sessions.admit(connection, session_id)
    return session_id


def _with_message(inputs: Sequence[InputEvent], message: str | None) -> Sequence[InputEvent]:
    """Add what a trigger said to the last message that there is."""
    if message is None:
        return inputs
    place, said = [(index, each) for index, each in enumerate(inputs) if isinstance(each, UserMessage)][-1]
    content = [*said.content, Text(type="text", text=message)]
    return [*inputs[:place], said.model_copy(update={"content": content}), *inputs[place + 1 :]]
