"""``bulkhead keys``."""

from typing import Annotated

import typer

from controlplane.cli.server import Server, connected

app = typer.Typer(help="API keys; the server keeps their hashes only.", no_args_is_help=True)

_COLUMNS = ("id", "name", "prefix", "may_decide", "created_at", "last_used_at", "revoked_at")


@app.command("create")
@connected
def create(
    server: Server,
    name: str,
    *,
    no_decisions: Annotated[
        bool, typer.Option("--no-decisions", help="It may not decide about tool calls, nor make rules.")
    ] = False,
) -> None:
    """Make a key and show it, this once."""
    made = server.post("/v1/api_keys", {"name": name, "may_decide": not no_decisions})
    server.output.object(made, ("id", "name", "may_decide", "key"))


@app.command("list")
@connected
def show_all(server: Server, limit: Annotated[int, typer.Option("--limit", min=1)] = 100) -> None:
    """List keys, revoked ones too."""
    server.output.table(server.listing("/v1/api_keys", limit=limit), _COLUMNS)


@app.command("revoke")
@connected
def revoke(server: Server, key: str) -> None:
    """Revoke a key for good."""
    server.output.object(server.post(f"/v1/api_keys/{key}/revoke"), _COLUMNS)
