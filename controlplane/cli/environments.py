"""``bulkhead environments``."""

from typing import Annotated, Any

import typer

from controlplane.cli.definition import FromOption, Reference, body, resolve
from controlplane.cli.server import Server, connected

app = typer.Typer(help="What a session's sandbox is: image, limits, provider.", no_args_is_help=True)

_COLUMNS = ("id", "name", "config.provider", "config.image", "created_at", "archived_at")
_FIELDS = ("id", "name", "description", "config", "created_at", "archived_at")


@app.command("create")
@connected
def create(
    server: Server,
    *,
    name: Annotated[str | None, typer.Option("--name")] = None,
    provider: Annotated[str | None, typer.Option("--provider", help="auto, docker, namespace or kubernetes.")] = None,
    image: Annotated[str | None, typer.Option("--image", help="Container image (docker, kubernetes).")] = None,
    cpus: Annotated[float | None, typer.Option("--cpus", help="Cores.")] = None,
    memory_mb: Annotated[int | None, typer.Option("--memory-mb", help="MiB.")] = None,
    workspace_mb: Annotated[int | None, typer.Option("--workspace-mb", help="Disk: MiB in /workspace.")] = None,
    pids: Annotated[int | None, typer.Option("--pids", help="Processes and threads.")] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", help="A host that its sandboxes reach, and then no other; repeatable."),
    ] = None,
    lifetime_seconds: Annotated[
        int | None, typer.Option("--lifetime-seconds", help="How long it outlives its last command at most.")
    ] = None,
    source: FromOption = None,
) -> None:
    """Make an environment."""
    fields = body(source, name=name)
    given: dict[str, Any] = {
        "provider": provider,
        "image": image,
        "cpus": cpus,
        "memory_mb": memory_mb,
        "workspace_mb": workspace_mb,
        "pids": pids,
        "lifetime_seconds": lifetime_seconds,
        "networking": {"type": "limited", "allowed_hosts": allow_host} if allow_host else None,
    }
    chosen = {field: value for field, value in given.items() if value is not None}
    if chosen:
        fields["config"] = {"type": "cloud", **fields.get("config", {}), **chosen}
    server.output.object(server.post("/v1/environments", fields), _FIELDS)


@app.command("list")
@connected
def show_all(
    server: Server,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many to show at most.")] = 100,
    archived: Annotated[bool, typer.Option("--archived", help="Archived ones too.")] = False,
) -> None:
    """List environments, newest first."""
    found = server.listing("/v1/environments", limit=limit, include_archived="true" if archived else None)
    server.output.table(found, _COLUMNS)


@app.command("show")
@connected
def show(server: Server, environment: Reference) -> None:
    """Show an environment."""
    server.output.object(server.get(f"/v1/environments/{resolve(server, 'environments', environment)}"), _FIELDS)


@app.command("archive")
@connected
def archive(server: Server, environment: Reference) -> None:
    """Archive an environment: its sessions go on, new ones cannot be made."""
    server.output.object(
        server.post(f"/v1/environments/{resolve(server, 'environments', environment)}/archive"), _FIELDS
    )
