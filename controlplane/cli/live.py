"""``bulkhead live``."""

from typing import Annotated, Any

import typer

from controlplane.cli.definition import resolve
from controlplane.cli.failure import Failure
from controlplane.cli.server import Server, connected

app = typer.Typer(help="What is alive: turns, commands, sandboxes, egress streams.", no_args_is_help=True)

_COLUMNS = ("kind", "id", "session_id", "host", "what", "since")

Kinds = Annotated[list[str] | None, typer.Option("--kind", help="turn, command, sandbox or stream; repeatable.")]
SessionOption = Annotated[str | None, typer.Option("--session", help="Only of this session.")]
AgentOption = Annotated[str | None, typer.Option("--agent", help="Only of this agent's sessions (id or name).")]
EnvironmentOption = Annotated[
    str | None, typer.Option("--environment", help="Only in this environment (id or name).")
]


def _narrowed(server: Server, session: str | None, agent: str | None, environment: str | None) -> dict[str, Any]:
    fields = {
        "session_id": session,
        "agent_id": resolve(server, "agents", agent) if agent else None,
        "environment_id": resolve(server, "environments", environment) if environment else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


@app.command("list")
@connected
def show_all(
    server: Server,
    kind: Kinds = None,
    session: SessionOption = None,
    agent: AgentOption = None,
    environment: EnvironmentOption = None,
) -> None:
    """List what is alive, the longest alive first."""
    found = server.get("/v1/live", kinds=kind, **_narrowed(server, session, agent, environment))
    server.output.table(found["data"], _COLUMNS)


@app.command("stop")
@connected
def stop(
    server: Server,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All that is alive in the workspace.")] = False,
    kind: Kinds = None,
    session: SessionOption = None,
    agent: AgentOption = None,
    environment: EnvironmentOption = None,
    wait_seconds: Annotated[float, typer.Option("--wait-seconds", min=0, max=30, help="For the proof.")] = 5.0,
) -> None:
    """Stop what is alive, and say what is proven to have ended."""
    narrowed = _narrowed(server, session, agent, environment)
    if not narrowed and not everything:
        raise Failure(
            "nothing says what to stop",
            code="bad_usage",
            next_step="name a session, an agent or an environment, or --all",
        )
    wanted = {**narrowed, "wait_seconds": wait_seconds, **({"kinds": kind} if kind else {})}
    answer = server.post("/v1/live/stop", wanted)
    if server.as_json:
        server.output.json(answer)
        return
    server.output.table(answer["data"], ("kind", "id", "session_id", "what", "ended_after_ms"))
    server.output.line(f"{answer['proven']} ended for certain, {answer['unproven']} not proven.")
