"""``bulkhead approvals``."""

from typing import Annotated, Any

import typer

from controlplane.cli.definition import json_argument
from controlplane.cli.server import Server, checked_id, connected

app = typer.Typer(help="Tool calls that wait for a person.", no_args_is_help=True)

_COLUMNS = ("id", "session_id", "agent_name", "name", "input", "reason", "asked_at", "expires_at")
_FIELDS = ("id", "type", "tool_use_id", "result", "input", "remember", "deny_message")

CallId = Annotated[str, typer.Argument(metavar="ID", help="The tool use's id.")]


@app.command("list")
@connected
def show_all(
    server: Server, limit: Annotated[int, typer.Option("--limit", min=1, help="How many to show at most.")] = 100
) -> None:
    """List what waits, the oldest first."""
    server.output.table(server.listing("/v1/approvals", limit=limit), _COLUMNS)


@app.command("allow")
@connected
def allow(
    server: Server,
    call: CallId,
    *,
    changed: Annotated[
        str | None, typer.Option("--input", metavar="JSON", help="Run it with this input instead; the model is told.")
    ] = None,
    for_session: Annotated[
        bool, typer.Option("--for-session", help="Make a rule that allows calls with the same input in this session.")
    ] = False,
) -> None:
    """Let a call run."""
    decision: dict[str, Any] = {"result": "allow"}
    if changed is not None:
        decision["input"] = json_argument("--input", changed)
    if for_session:
        decision["remember"] = "session"
    _decide(server, call, decision)


@app.command("deny")
@connected
def deny(
    server: Server,
    call: CallId,
    message: Annotated[str | None, typer.Option("--message", "-m", help="Told to the model.")] = None,
) -> None:
    """Refuse a call; the agent goes on without it."""
    _decide(server, call, {"result": "deny", **({"deny_message": message} if message else {})})


def _decide(server: Server, call: str, decision: dict[str, Any]) -> None:
    call = checked_id("tool use", call)
    answer = server.post(f"/v1/approvals/{call}", decision)
    server.output.object(answer["data"][0], _FIELDS)
