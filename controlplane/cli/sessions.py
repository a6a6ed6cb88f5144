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
_CALL_COLUMNS = ("id", "name", "state", "verdict", "decision", "decided_by", "intended_at", "ended_at")
_FIELDS = (
    "id", "title", "status", "stop_reason", "agent.id", "agent.name", "agent.model.id", "environment_id", "resources",
    "last_seq", "usage", "created_at", "archived_at",
)  # fmt: skip

Message = Annotated[str | None, typer.Option("--message", "-m", help="The first message.")]


def mount(server: Server, argument: str) -> dict[str, Any]:
    """Return the resource for ``PATH`` or ``PATH:MOUNT_PATH``: the file is uploaded."""
    path, _, place = argument.partition(":")
    resource = {"type": "file", "file_id": files.send(server, Path(path))["id"]}
    return resource | {"mount_path": place or f"/workspace/{Path(path).name}"}


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
) -> None:
    """List sessions, newest first."""
    agent_id = resolve(server, "agents", agent) if agent else None
    archived_too = "true" if archived else None
    found = server.listing("/v1/sessions", limit=limit, agent_id=agent_id, include_archived=archived_too)
    server.output.table(found, _COLUMNS)


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


@app.command("resume")
@connected
def resume(
    server: Server,
    session: SessionId,
    following: Annotated[
        bool, typer.Option("--follow", "-f", help="Show the stream until the session is idle.")
    ] = False,
) -> None:
    """Try the turn again that failed; to go on talking, use `bulkhead chat --session`."""
    before = server.get(f"/v1/sessions/{session}")["last_seq"]
    resumed = server.post(f"/v1/sessions/{session}/resume")
    if following:
        chat.until_idle(server, session, after=before)
    else:
        server.output.object(resumed, _FIELDS)


@app.command("archive")
@connected
def archive(server: Server, session: SessionId) -> None:
    """Archive a session: it can be read, and nothing can be sent to it."""
    server.output.object(server.post(f"/v1/sessions/{session}/archive"), _FIELDS)
