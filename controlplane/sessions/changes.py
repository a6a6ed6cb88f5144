"""What may change of a session, and what its `session.updated` event says of it."""

from collections.abc import Collection
from decimal import Decimal
from typing import Any

from controlplane.checks import check_harness, check_tools, not_supported, patched_metadata, refused
from controlplane.definitions import SessionAgent, stored
from controlplane.errors import ConflictError
from controlplane.store.sessions import Budget, SessionRecord
from controlplane.wire.agents import resolved_model
from controlplane.wire.sessions import BudgetRequest, MoveSettings, SessionUpdate
from controlplane.wire.tools import resolved_servers, resolved_tools
from harness_adapters.contract import HarnessName


def wanted_changes(
    before: SessionRecord, wanted: SessionUpdate, harnesses: Collection[HarnessName]
) -> dict[str, Any]:
    """Return the fields of a session that an update gives new values, or raise what keeps it from that."""
    given = wanted.model_fields_set
    found: dict[str, Any] = {}
    if "vault_ids" in given:
        raise not_supported("vault_ids", "changing the vaults of a session is", next_step="omit the field")
    if "title" in given:
        found["title"] = wanted.title
    if "metadata" in given:
        found["metadata"] = patched_metadata(before.metadata, wanted.metadata)
    if "budget" in given:
        found["budget"] = new_budget(before, wanted.budget)
    if "budget_ids" in given:
        found["budget_ids"] = wanted.budget_ids
    agent = moved_agent(_new_agent(before, wanted), wanted, harnesses)
    if agent != before.agent:
        found["agent"] = agent
    return found


def moved_agent(before: SessionAgent, wanted: MoveSettings, harnesses: Collection[HarnessName]) -> SessionAgent:
    """Return the agent with the model and the harness that its next turn is to run with."""
    found: dict[str, Any] = {}
    if wanted.model is not None:
        found["model"] = resolved_model(wanted.model, before.model)
    if wanted.harness is not None:
        found["harness"] = check_harness(wanted.harness, harnesses)
    if wanted.harness_mode is not None:
        found["harness_mode"] = wanted.harness_mode
    return before.model_copy(update=found)


def _new_agent(before: SessionRecord, wanted: SessionUpdate) -> SessionAgent:
    update = wanted.agent
    if update is None or not update.model_fields_set:
        return before.agent
    require_rest(before)
    changes: dict[str, Any] = {}
    if "tools" in update.model_fields_set:
        changes["tools"] = resolved_tools(update.tools)
    if "mcp_servers" in update.model_fields_set:
        changes["mcp_servers"] = resolved_servers(update.mcp_servers)
    agent = before.agent.model_copy(update=changes)
    check_tools(agent.tools, agent.mcp_servers)
    return agent


def new_budget(before: SessionRecord, wanted: BudgetRequest | None) -> Budget | None:
    """Return the budget that replaces the session's, or raise what keeps it from that."""
    if before.status == "terminated":
        raise refused("budget", "the session has ended", code="session_terminated")
    if wanted is None:
        return None
    if before.budget is None:
        raise refused(
            "budget",
            "a budget can only be given when the session is created",
            code="budget_create_only",
            next_step="create a session with a budget",
        )
    if Decimal(wanted.max_list_cost.amount) <= before.cost_usd * 100:
        raise refused(
            "budget.max_list_cost.amount",
            f"the session has cost {before.cost_usd * 100:.2f} cents already",
            code="budget_not_raised",
            next_step="set a higher amount, or null to remove the budget",
        )
    return budget(wanted)


def budget(wanted: BudgetRequest | None) -> Budget | None:
    """Return a budget as it is kept."""
    return Budget.model_validate(wanted.model_dump()) if wanted else None


def changed_fields(before: SessionRecord, after: SessionRecord) -> dict[str, Any] | None:
    """Return what the `session.updated` event shows; None where nothing has changed."""
    changed: dict[str, Any] = {}
    if after.title != before.title:
        changed["title"] = after.title
    if after.budget != before.budget:
        changed["budget"] = stored(after.budget) if after.budget else None
    if after.budget_ids != before.budget_ids:
        changed["budget_ids"] = after.budget_ids
    if after.agent != before.agent:
        changed["agent"] = stored(after.agent)
    if after.metadata != before.metadata and after.metadata:
        changed["metadata"] = after.metadata
    return changed if changed or after.metadata != before.metadata else None


def may_go_on(before: SessionRecord, after: SessionRecord) -> bool:
    """Say whether a session rests because a budget was spent, and its budgets are others now."""
    rests = before.status == "idle" and (before.stop_reason or {}).get("type") == "budget_reached"
    return rests and (before.budget, before.budget_ids) != (after.budget, after.budget_ids)


def require_rest(session: SessionRecord) -> None:
    """Refuse what needs a session without a running turn."""
    if session.status in ("running", "rescheduling"):
        raise ConflictError(
            f"session {session.id!r} is {session.status}",
            code="session_running",
            field="session_id",
            next_step="send a user.interrupt event and wait until the session is idle",
        )
