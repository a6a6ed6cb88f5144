"""``bulkhead sessions``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from controlplane.cli import chat, files
from controlplane.cli.definition import FromOption, body, resolve
from controlplane.cli.server import Server, SessionId, connected
from controlplane.cli.stream import Screen, follow

app = typer.Typer(help="Durable conversations with an agent.", no_args_is_help=True)

_COLUMNS = ("id", "title", "status", "agent.name", "last_seq", "created_at", "archived_at")
_FAILED_COLUMNS = ("id", "title", "agent.name", "failure.status", "failure.cause", "failure.message", "failure.at")
_CALL_COLUMNS = ("id", "name", "state", "verdict", "decision", "decided_by", "intended_at", "ended_at")
_REQUEST_COLUMNS = (
    "id", "model", "fallback_for", "provider", "state", "status", "usage.input_tokens", "usage.output_tokens",
    "cost_usd", "first_byte_ms", "started_at", "ended_at",
)  # fmt: skip
_FIELDS = (
    "id", "title", "status", "stop_reason", "failure", "agent.id", "agent.name", "agent.model.id", "environment_id",
    "resources", "last_seq", "usage", "created_at", "archived_at",
)  # fmt: skip

ModelOption = Annotated[str | None, typer.Option("--model", help="The model to go on with.")]
BudgetCents = Annotated[
    int | None, typer.Option("--budget-cents", min=1, help="What it may cost in all, in US cents.")
]
Message = Annotated[str | None, typer.Option("--message", "-m", help="The first message.")]


def mount(server: Server, argument: str) -> dict[str, Any]:
    """Return the resource for ``PATH`` or ``PATH:MOUNT_PATH``: the file is uploaded."""
    path, _, place = argument.partition(":")
    resource = {"type": "file", "file_id": files.send(server, Path(path))["id"]}
    return resource | {"mount_path": place or f"/workspace/{Path(path).name}"}


def limit_of(cents: int) -> dict[str, Any]:
    """Return a budget of so many US cents."""
    return {"type": "limit", "max_list_cost": {"amount": str(cents), "currency": "USD"}}


def said(text: str) -> dict[str, Any]:
    """Return a user's message as an event."""
    return {"type": "user.message", "content": [{"type": "text", "text": text}]}


@app.command("tool-calls")
@connected
def tool_calls(
    server: Server,
    session: SessionId,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many to show at most.")] = 100,
) -> None:
    """List what a session's agent wanted done, and what came of it."""
    found = server.listing(f"/v1/sessions/{session}/tool_calls", limit=limit)
    server.output.table(found, _CALL_COLUMNS)


@app.command("requests")
@connected
def requests(
    server: Server,
    session: SessionId,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many to show at most.")] = 100,
) -> None:
    """List what a session asked of models, and what it cost."""
    found = server.listing(f"/v1/sessions/{session}/model_requests", limit=limit)
    server.output.table(found, _REQUEST_COLUMNS)


@app.command("create")
@connected
def create(
    server: Server,
    *,
    agent: Annotated[str | None, typer.Option("--agent", help="Id or name.")] = None,
    environment: Annotated[str | None, typer.Option("--environment", help="Id or name.")] = None,
    title: Annotated[str | None, typer.Option("--title")] = None,
    message: Message = None,
    file: Annotated[list[str] | None, typer.Option("--file", help="PATH[:MOUNT_PATH] to put in the sandbox.")] = None,
    budget_cents: BudgetCents = None,
    budget: Annotated[list[str] | None, typer.Option("--budget", help="A budget it shares; repeatable.")] = None,
    vault: Annotated[list[str] | None, typer.Option("--vault", help="Whose secrets it may use; repeatable.")] = None,
    source: FromOption = None,
) -> None:
    """Open a session."""
    fields = body(
        source,
        agent=resolve(server, "agents", agent) if agent else None,
        environment_id=resolve(server, "environments", environment) if environment else None,
        title=title,
        resources=[mount(server, each) for each in file] if file else None,
        vault_ids=vault or None,
        budget=limit_of(budget_cents) if budget_cents is not None else None,
        budget_ids=budget or None,
        initial_events=[said(message)] if message else None,
    )
    server.output.object(server.post("/v1/sessions", fields), _FIELDS)


@app.command("list")
@connected
def show_all(
    server: Server,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many to show at most.")] = 100,
    agent: Annotated[str | None, typer.Option("--agent", help="Only sessions of this agent.")] = None,
    archived: Annotated[bool, typer.Option("--archived", help="Archived ones too.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Only those whose last turn failed.")] = False,
) -> None:
    """List sessions, newest first."""
    agent_id = resolve(server, "agents", agent) if agent else None
    archived_too = "true" if archived else None
    failed_only = "true" if failed else None
    found = server.listing(
        "/v1/sessions", limit=limit, agent_id=agent_id, include_archived=archived_too, failed=failed_only
    )
    server.output.table(found, _FAILED_COLUMNS if failed else _COLUMNS)


@app.command("show")
@connected
def show(server: Server, session: SessionId) -> None:
    """Show a session."""
    server.output.object(server.get(f"/v1/sessions/{session}"), _FIELDS)


@app.command("events")
@connected
def events(
    server: Server,
    session: SessionId,
    following: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    after: Annotated[int, typer.Option("--after", min=0, help="Only events with a higher seq.")] = 0,
) -> None:
    """Show what happened in a session; with --json one event a line."""
    last = server.get(f"/v1/sessions/{session}")["last_seq"]
    if not following and last <= after:
        return
    screen = Screen(server.output.console)
    for frame in follow(server, session, after=after):
        if not server.as_json:
            screen.show(frame)
        elif frame.seq is not None:
            server.output.json_line({"seq": frame.seq, **frame.data})
        if not following and frame.seq is not None and frame.seq >= last:
            return


@app.command("send")
@connected
def send(
    server: Server,
    session: SessionId,
    message: str,
    following: Annotated[
        bool, typer.Option("--follow", "-f", help="Show the stream until the session is idle.")
    ] = False,
) -> None:
    """Send a message to a session."""
    after = server.get(f"/v1/sessions/{session}")["last_seq"]
    sent = server.post(f"/v1/sessions/{session}/events", {"events": [said(message)]})
    if not following:
        server.output.table(sent["data"], ("id", "type", "processed_at"))
        return
    chat.until_idle(server, session, after=after, message_id=sent["data"][0]["id"])


@app.command("explain")
@connected
def explain(server: Server, session: SessionId) -> None:
    """Say in five lines why a session stands where it stands."""
    server.output.object(
        server.get(f"/v1/sessions/{session}/explanation"), ("stands", "because", "does", "waits", "next_step")
    )


@app.command("resume")
@connected
def resume(
    server: Server,
    session: SessionId,
    following: Annotated[
        bool, typer.Option("--follow", "-f", help="Show the stream until the session is idle.")
    ] = False,
    model: ModelOption = None,
    budget_cents: BudgetCents = None,
) -> None:
    """Try the turn again that failed; to go on talking, use `bulkhead chat --session`."""
    before = server.get(f"/v1/sessions/{session}")["last_seq"]
    settings: dict[str, Any] = {"model": model} if model else {}
    if budget_cents is not None:
        settings["budget"] = limit_of(budget_cents)
    resumed = server.post(f"/v1/sessions/{session}/resume", settings)
    if following:
        chat.until_idle(server, session, after=before)
    else:
        server.output.object(resumed, _FIELDS)


@app.command("resume-failed")
@connected
def resume_failed(
    server: Server,
    *,
    agent: Annotated[str | None, typer.Option("--agent", help="Only sessions of this agent.")] = None,
    cause: Annotated[list[str] | None, typer.Option("--cause", help="Only this cause; repeatable.")] = None,
    terminal: Annotated[
        bool, typer.Option("--terminal", help="Those too that another try alone cannot help.")
    ] = False,
    since: Annotated[str | None, typer.Option("--since", help="Failed at this time (RFC 3339) or later.")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Failed before this time.")] = None,
    rate: Annotated[float, typer.Option("--rate", min=0.01, max=100, help="How many a second.")] = 2.0,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many at most.")] = 1000,
    model: ModelOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show which.")] = False,
) -> None:
    """Try the failed turns of many sessions again, as after an outage of the provider."""
    wanted = {
        "agent_id": resolve(server, "agents", agent) if agent else None,
        "causes": cause or None,
        "statuses": ["exhausted", "terminal"] if terminal else None,
        "failed_after": since,
        "failed_before": until,
        "model": model,
    }
    given = {name: value for name, value in wanted.items() if value is not None}
    bounds = {"rate_per_second": rate, "limit": limit, "dry_run": dry_run}
    answer = server.post("/v1/sessions/resume", given | bounds)
    if server.as_json:
        server.output.json(answer)
        return
    server.output.table(answer["data"], ("session_id", "resume_at"))
    if answer["has_more"]:
        server.output.line(f"More than {limit} match: run the command again for the others.")


@app.command("interrupt")
@connected
def interrupt(server: Server, session: SessionId) -> None:
    """Stop the running turn; where none runs, call off a planned resumption."""
    sent = server.post(f"/v1/sessions/{session}/events", {"events": [{"type": "user.interrupt"}]})
    server.output.table(sent["data"], ("id", "type", "processed_at"))


@app.command("delete")
@connected
def delete(server: Server, session: SessionId) -> None:
    """Delete a session with everything that belongs to it, for good."""
    server.output.object(server.delete(f"/v1/sessions/{session}"), ("id", "type"))


@app.command("archive")
@connected
def archive(server: Server, session: SessionId) -> None:
    """Archive a session: it can be read, and nothing can be sent to it."""
    server.output.object(server.post(f"/v1/sessions/{session}/archive"), _FIELDS)
