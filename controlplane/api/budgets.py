"""/v1/budgets: what sessions may cost together."""

from fastapi import APIRouter
from starlette.responses import Response

from controlplane.api.exchange import CurrentExchange, json_response, reads
from controlplane.checks import refused
from controlplane.store import agents, budgets, resuming
from controlplane.store.budgets import BudgetContent, BudgetRecord
from controlplane.store.pool import Connection
from controlplane.wire.budgets import BudgetCreate, BudgetUpdate, NamedBudget, Spent, changes
from controlplane.wire.common import Page

router = APIRouter(prefix="/v1/budgets", tags=["budgets"])

_RESUMED_PER_SECOND = 5.0


@router.post("", response_model=NamedBudget)
async def create_budget(exchange: CurrentExchange, wanted: BudgetCreate = reads(BudgetCreate)) -> Response:
    """Make a budget; it holds from the next model request of the sessions that draw on it."""

    async def effect(connection: Connection) -> NamedBudget:
        if wanted.agent_id is not None:
            await agents.get(connection, wanted.agent_id)
        content = BudgetContent(**wanted.model_dump())
        return _wire(await budgets.create(connection, exchange.workspace_id, content))

    return await exchange.once(effect)


@router.get("", response_model=Page[NamedBudget])
async def list_budgets(exchange: CurrentExchange, *, include_archived: bool = False) -> Response:
    """List the budgets, newest first, with what is spent of each."""
    async with exchange.transaction() as connection:
        found = await budgets.listing(connection, include_archived=include_archived)
    return json_response(Page[NamedBudget](data=[_wire(record) for record in found]))


@router.get("/{budget_id}", response_model=NamedBudget)
async def get_budget(exchange: CurrentExchange, budget_id: str) -> Response:
    """Get a budget."""
    async with exchange.transaction() as connection:
        return json_response(_wire(await budgets.get(connection, budget_id)))


@router.post("/{budget_id}", response_model=NamedBudget)
async def update_budget(
    exchange: CurrentExchange, budget_id: str, wanted: BudgetUpdate = reads(BudgetUpdate)
) -> Response:
    """Change a budget. With other limits the sessions that rest because it was spent try to go on, a few a second."""

    async def effect(connection: Connection) -> NamedBudget:
        limits = wanted.model_fields_set & {"max_cost_usd", "max_tokens"}
        resting = await resuming.resting(connection, budget_id) if limits else []
        before = await budgets.lock(connection, budget_id)
        if before.archived_at is not None:
            raise refused("budget_id", "the budget is archived", code="budget_archived", next_step="make a new one")
        after = before.model_copy(update=changes(wanted))
        if after.max_cost_usd is None and after.max_tokens is None:
            raise refused(
                "max_cost_usd", "a budget without a limit binds nobody", next_step="archive the budget instead"
            )
        changed = await budgets.change(connection, budget_id, changes(wanted))
        await resuming.want_all(connection, resting, rate_per_second=_RESUMED_PER_SECOND)
        return _wire(changed)

    return await exchange.once(effect)


@router.post("/{budget_id}/archive", response_model=NamedBudget)
async def archive_budget(exchange: CurrentExchange, budget_id: str) -> Response:
    """Let a budget bind nobody any more; the sessions that rest because it was spent go on."""

    async def effect(connection: Connection) -> NamedBudget:
        resting = await resuming.resting(connection, budget_id)
        archived = await budgets.archive(connection, budget_id)
        await resuming.want_all(connection, resting, rate_per_second=_RESUMED_PER_SECOND)
        return _wire(archived)

    return await exchange.once(effect)


def _wire(record: BudgetRecord) -> NamedBudget:
    fields = record.model_dump()
    shown = {name: value for name, value in fields.items() if name in NamedBudget.model_fields}
    return NamedBudget(**shown, spent=Spent(**{name: fields[name] for name in Spent.model_fields}))
