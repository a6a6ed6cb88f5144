"""``bulkhead agents``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from controlplane.cli.definition import FromOption, Reference, body, resolve, text_of
from controlplane.cli.server import Server, connected

app = typer.Typer(
    help="What runs in sessions: a model, a system prompt, tools. Versions never change.", no_args_is_help=True
)

_COLUMNS = ("id", "name", "model.id", "version", "created_at", "archived_at", "frozen_at")
_FIELDS = (
    "id",
    "name",
    "model.id",
    "harness",
    "version",
    "description",
    "system",
    "created_at",
    "archived_at",
    "frozen_at",
)

Limit = Annotated[int, typer.Option("--limit", min=1, help="How many to show at most.")]


@app.command("create")
@connected
def create(
    server: Server,
    *,
    name: Annotated[str | None, typer.Option("--name")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="For example claude-opus-4-5 or scripted/demo.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="The system prompt.")] = None,
    system_file: Annotated[Path | None, typer.Option("--system-file", help="The system prompt as a file.")] = None,
    toolset: Annotated[bool, typer.Option("--toolset", help="Add bash, read, write, edit, glob and grep.")] = False,
    source: FromOption = None,
) -> None:
    """Make an agent."""
    tools: list[dict[str, Any]] | None = [{"type": "agent_toolset_20260401"}] if toolset else None
    prompt = text_of("--system", system, system_file)
    made = server.post("/v1/agents", body(source, name=name, model=model, system=prompt, tools=tools))
    server.output.object(made, _FIELDS)


@app.command("list")
@connected
def show_all(
    server: Server,
    limit: Limit = 100,
    archived: Annotated[bool, typer.Option("--archived", help="Archived ones too.")] = False,
) -> None:
    """List agents, newest first."""
    found = server.listing("/v1/agents", limit=limit, include_archived="true" if archived else None)
    server.output.table(found, _COLUMNS)


@app.command("show")
@connected
def show(
    server: Server,
    agent: Reference,
    version: Annotated[int | None, typer.Option("--version", help="An earlier version.")] = None,
) -> None:
    """Show an agent."""
    server.output.object(server.get(f"/v1/agents/{resolve(server, 'agents', agent)}", version=version), _FIELDS)


@app.command("archive")
@connected
def archive(server: Server, agent: Reference) -> None:
    """Archive an agent: its sessions go on, new ones cannot be made."""
    server.output.object(server.post(f"/v1/agents/{resolve(server, 'agents', agent)}/archive"), _FIELDS)


@app.command("freeze")
@connected
def freeze(server: Server, agent: Reference) -> None:
    """Let no session of an agent do anything until it is thawed; `bulkhead live stop` ends what runs."""
    server.output.object(server.post(f"/v1/agents/{resolve(server, 'agents', agent)}/freeze"), _FIELDS)


@app.command("thaw")
@connected
def thaw(server: Server, agent: Reference) -> None:
    """Let a frozen agent's sessions go on."""
    server.output.object(server.post(f"/v1/agents/{resolve(server, 'agents', agent)}/thaw"), _FIELDS)
