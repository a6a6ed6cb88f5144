"""``bulkhead budgets``."""

from typing import Annotated, Any

import typer

from controlplane.cli.definition import resolve
from controlplane.cli.server import Server, connected

app = typer.Typer(help="What sessions may cost together.", no_args_is_help=True)

_COLUMNS = ("id", "name", "agent_id", "period", "max_cost_usd", "max_tokens", "spent.cost_usd", "spent.tokens")
_FIELDS = (*_COLUMNS, "period_end", "created_at", "archived_at")

MaxCost = Annotated[str | None, typer.Option("--max-cost-usd", help="US dollars, as 25.00.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", min=1, help="Tokens of any kind.")]


@app.command("create")
@connected
def create(
    server: Server,
    name: str,
    *,
    agent: Annotated[str | None, typer.Option("--agent", help="Of this agent's sessions (id or name).")] = None,
    period: Annotated[str, typer.Option("--period", help="total, day or month (of UTC).")] = "total",
    max_cost_usd: MaxCost = None,
    max_tokens: MaxTokens = None,
) -> None:
    """Make a budget; without --agent it binds the sessions that name it."""
    fields = {
        "agent_id": resolve(server, "agents", agent) if agent else None,
        "max_cost_usd": max_cost_usd,
        "max_tokens": max_tokens,
    }
    given = {key: value for key, value in fields.items() if value is not None}
    server.output.object(server.post("/v1/budgets", {"name": name, "period": period, **given}), _FIELDS)


@app.command("list")
@connected
def show_all(
    server: Server, archived: Annotated[bool, typer.Option("--archived", help="Archived ones too.")] = False
) -> None:
    """List budgets with what is spent of each."""
    found = server.get("/v1/budgets", include_archived="true" if archived else None)
    server.output.table(found["data"], _COLUMNS)


@app.command("show")
@connected
def show(server: Server, budget: str) -> None:
    """Show a budget."""
    server.output.object(server.get(f"/v1/budgets/{budget}"), _FIELDS)


@app.command("raise")
@connected
def change(server: Server, budget: str, max_cost_usd: MaxCost = None, max_tokens: MaxTokens = None) -> None:
    """Set other limits; the sessions that rest because it was spent go on."""
    given: dict[str, Any] = {"max_cost_usd": max_cost_usd, "max_tokens": max_tokens}
    changes = {key: value for key, value in given.items() if value is not None}
    server.output.object(server.post(f"/v1/budgets/{budget}", changes), _FIELDS)


@app.command("archive")
@connected
def archive(server: Server, budget: str) -> None:
    """Let a budget bind nobody any more."""
    server.output.object(server.post(f"/v1/budgets/{budget}/archive"), _FIELDS)
