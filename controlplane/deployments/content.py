"""What a deployment is made of: as it was asked for, checked, and as it is kept."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import SecretStr

from controlplane.checks import patched_metadata, refused, require_unarchived
from controlplane.deployments import signatures, templates, timing
from controlplane.deployments.launch import wanted_session
from controlplane.sessions import changes
from controlplane.sessions.inputs import check_inputs, recorded_inputs
from controlplane.sessions.mounts import mounts_of
from controlplane.sessions.opening import checked_content
from controlplane.store import agents, frontdoors, triggers
from controlplane.store.deployments import DeploymentContent, DeploymentRecord, TriggerType
from controlplane.store.memory_attached import Owners
from controlplane.store.pool import Connection
from controlplane.vault.keyring import Keyring
from controlplane.wire.deployments import (
    INITIAL_EVENTS,
    DeployedAgent,
    DeploymentCreate,
    DeploymentUpdate,
    InitialEvent,
    TriggerRequest,
)
from controlplane.wire.sessions import AgentAtVersion, MountRequest

_PLAIN = ("name", "description", "environment_id", "session", "pause_on_failure", "reports_to")


async def made(connection: Connection, wanted: DeploymentCreate, *, now: datetime) -> DeploymentContent:
    """Return the content of a new deployment."""
    agent_id, agent_version = await _pinned(connection, wanted.agent)
    return DeploymentContent(
        **{name: getattr(wanted, name) for name in _PLAIN},
        metadata=wanted.metadata or {},
        agent_id=agent_id,
        agent_version=agent_version,
        initial_events=_kept(wanted.initial_events),
        resources=_kept(wanted.resources),
        vault_ids=wanted.vault_ids or [],
        budget=changes.budget(wanted.budget),
        budget_ids=wanted.budget_ids,
        schedule=timing.settings_of(wanted.schedule, now=now) if wanted.schedule else None,
        deadline_seconds=wanted.deadline,
    )


async def changed(
    connection: Connection, before: DeploymentRecord, wanted: DeploymentUpdate, *, now: datetime
) -> DeploymentContent:
    """Return the content that an update gives a deployment."""
    given = wanted.model_fields_set
    found: dict[str, Any] = {name: getattr(wanted, name) for name in _PLAIN if name in given}
    if "description" in given:
        found["description"] = wanted.description or None
    if "metadata" in given:
        found["metadata"] = patched_metadata(before.metadata, wanted.metadata)
    if "agent" in given:
        found["agent_id"], found["agent_version"] = await _pinned(connection, wanted.agent)
    for name in ("initial_events", "resources"):
        if name in given:
            found[name] = _kept(getattr(wanted, name))
    if "vault_ids" in given:
        found["vault_ids"] = wanted.vault_ids or []
    if "budget" in given:
        found["budget"] = changes.budget(wanted.budget)
    if "budget_ids" in given:
        found["budget_ids"] = wanted.budget_ids
    if "deadline" in given:
        found["deadline_seconds"] = wanted.deadline
    if "schedule" in given:
        found["schedule"] = (
            timing.settings_of(wanted.schedule, now=now, before=before.schedule) if wanted.schedule else None
        )
    kept = {name: value for name, value in before if name in DeploymentContent.model_fields}
    return DeploymentContent(**{**kept, **found})


async def checked(connection: Connection, content: DeploymentContent, *, by: str) -> None:
    """Refuse what no run could be made of, now."""
    inputs = INITIAL_EVENTS.validate_python(content.initial_events)
    check_inputs(inputs, "initial_events")
    await recorded_inputs(connection, "", inputs, "initial_events", by=by)
    wanted = wanted_session(content)
    if len(set(content.vault_ids)) < len(content.vault_ids):
        raise refused("vault_ids", "a vault appears more than once")
    await checked_content(connection, wanted)
    # A store that a session owns is no future session's, and neither is one of a user's.
    owners = Owners(session_id="", agent_id=content.agent_id, user_id=None)
    await mounts_of(connection, wanted.resources or [], owners, taken=[])
    if content.reports_to is not None:
        door = await frontdoors.get(connection, content.reports_to.front_door_id)
        if not door.rules.may_answer(content.reports_to.place, content.agent_id):
            raise refused(
                "reports_to.place",
                f"the front door {door.name!r} does not let this agent answer there",
                code="agent_not_here",
                next_step="choose another channel, or change the front door's rules",
            )


def check_trigger(wanted: TriggerRequest | None, *, kept: TriggerType | None = None) -> None:
    """Refuse a trigger that cannot be; ``kept``: the type of the secret that the deployment has."""
    if wanted is None:
        return
    try:
        templates.parse(wanted.template)
    except templates.TemplateError as error:
        raise refused(
            "trigger.template",
            str(error),
            code="invalid_template",
            next_step="use places such as {{ payload.issue.title }} only",
        ) from error
    if wanted.secret is None and wanted.type != kept:
        raise refused("trigger.secret", "missing", next_step="give the secret that the sender signs with")
    unusable = signatures.usable_secret(wanted.type, wanted.secret) if wanted.secret is not None else None
    if unusable is not None:
        raise refused("trigger.secret", unusable, code="weak_secret", next_step="use 32 random bytes")


async def put_trigger(
    connection: Connection, record: DeploymentRecord, wanted: TriggerRequest | None, *, keyring: Keyring
) -> None:
    """Give a deployment a trigger, another template for the one that it has, or none."""
    check_trigger(wanted, kept=record.trigger_type)
    if wanted is None:
        await triggers.remove(connection, record.id)
    elif wanted.secret is None:
        await triggers.change_template(connection, record.id, wanted.template)
    else:
        trigger = triggers.Trigger(
            deployment_id=record.id,
            workspace_id=record.workspace_id,
            type=wanted.type,
            template=wanted.template,
            secret=SecretStr(wanted.secret),
        )
        await triggers.put(connection, trigger, keyring=keyring)


async def _pinned(connection: Connection, choice: DeployedAgent) -> tuple[str, int]:
    reference = AgentAtVersion(type="agent", id=choice) if isinstance(choice, str) else choice
    record = await agents.get(connection, reference.id, version=reference.version)
    require_unarchived("agent", record.id, record.archived_at)
    return record.id, record.version


def _kept(items: Sequence[InitialEvent | MountRequest] | None) -> list[dict[str, Any]]:
    return [each.model_dump(mode="json", exclude_unset=True) for each in items or []]
