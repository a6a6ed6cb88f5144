"""``bulkhead slack``: the front door in Slack."""

import asyncio
import json
import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controlplane.cli.chat import some_environment
from controlplane.cli.definition import resolve
from controlplane.cli.failure import Failure
from controlplane.cli.server import DataDirOption, Server, UrlOption, connected

if TYPE_CHECKING:
    from controlplane.settings import Settings

app = typer.Typer(help="Talk with agents in Slack. Without a command: run the front door.", no_args_is_help=False)

_FIELDS = ("id", "name", "kind", "vault_id", "team", "app", "rules", "created_at")
_REFUSALS = ("last_at", "reason", "place", "person", "count")
_TOKENS = {
    "SLACK_BOT_TOKEN": "Bot User OAuth Token (xoxb-…)",
    "SLACK_APP_TOKEN": "App-Level Token for Socket Mode (xapp-…), empty for HTTP",
    "SLACK_SIGNING_SECRET": "Signing Secret",
}
_MARKS = {"ok": "[green]ok  [/green]", "note": "[yellow]note[/yellow]", "bad": "[red]bad [/red]"}
_PATH = "/v1/front_doors"

_ONLY_AGENT = typer.Option("--only-agent", help="Only these agents (id or name) answer there, or *; may be repeated.")
_ONLY_PERSON = typer.Option("--only-person", help="Only these Slack user ids may talk there, or *; may be repeated.")
_DECIDER = typer.Option("--decider", help="Only these Slack user ids may decide on calls, or *; may be repeated.")
_WHERE = typer.Argument(
    help="A channel's id, as C0123456789; `direct`: conversations of two; `elsewhere`: channels without a rule;"
    " `everywhere`: what holds where nothing else is said."
)
_ANY = "*"


@app.callback(invoke_without_command=True)
def run(context: typer.Context, url: UrlOption = None, data_dir: DataDirOption = None) -> None:  # pyright: ignore[reportArgumentType] - typer gives the default of the option
    """Run the front door until Ctrl-C; any number of them serve one Slack app together."""
    if context.invoked_subcommand is not None:
        return
    _require_extra()
    from controlplane import logs

    settings = _settings(data_dir)
    logs.configure("slack", settings.log_format)
    asyncio.run(_serve(settings, Server(url, settings.data_dir, as_json=False).url))


async def _serve(settings: "Settings", api_url: str) -> None:
    from controlplane.health import Health, migrated
    from controlplane.main import run_slack

    async with Health(settings) as health:
        await migrated(settings.database_url)
        await run_slack(settings, health, api_url=api_url)


@app.command("manifest")
def manifest(
    *,
    request_url: Annotated[
        str | None,
        typer.Option("--request-url", help="For HTTP: where Slack reaches /slack/events; Socket Mode without."),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="What the app is called in Slack.")] = "Bulkhead",
) -> None:
    """Print the app's manifest; paste it at api.slack.com/apps, Create New App, From a manifest."""
    from controlplane.frontdoors.slack.manifest import manifest as made

    sys.stdout.write(json.dumps(made(name, request_url=request_url), indent=2) + "\n")


@app.command("connect")
@connected
def connect(
    server: Server,
    *,
    agent: Annotated[str | None, typer.Option("--agent", help="Who answers by default (id or name).")] = None,
    environment: Annotated[str | None, typer.Option("--environment", help="Id or name; one is made if none.")] = None,
    session_url: Annotated[
        str | None, typer.Option("--session-url", help="Link to a session, with {session_id} in it.")
    ] = None,
    name: Annotated[str, typer.Option("--name")] = "slack",
) -> None:
    """Put the app's tokens into a vault and make the front door. Tokens are asked for, or taken from variables."""
    tokens = {variable: _token(variable, what) for variable, what in _TOKENS.items()}
    if not tokens["SLACK_BOT_TOKEN"] or not (tokens["SLACK_APP_TOKEN"] or tokens["SLACK_SIGNING_SECRET"]):
        raise Failure(
            "a bot token is needed, and an app-level token (Socket Mode) or a signing secret (HTTP)",
            code="missing_token",
            next_step="copy them from the app's page at api.slack.com/apps",
        )
    rules: dict[str, Any] = {
        "environment_id": resolve(server, "environments", environment) if environment else _environment(server),
        "agent_id": resolve(server, "agents", agent) if agent else None,
        "session_url": session_url,
    }
    vault = server.post("/v1/vaults", {"display_name": f"{name} front door"})
    try:
        for variable, token in tokens.items():
            if token:
                auth = {
                    "type": "environment_variable",
                    "secret_name": variable,
                    "secret_value": token,
                    "networking": {"type": "limited", "allowed_hosts": ["slack.com"]},
                }
                server.post(f"/v1/vaults/{vault['id']}/credentials", {"auth": auth})
        made = server.post(_PATH, {"name": name, "vault_id": vault["id"], "rules": rules})
    except Failure:
        server.delete(f"/v1/vaults/{vault['id']}")  # it has live tokens, and nobody would look for them there
        raise
    server.output.object(made, _FIELDS)


@app.command("check")
@connected
def check(
    server: Server,
    *,
    request_url: Annotated[
        str | None,
        typer.Option("--request-url", help="For HTTP: ask there instead of on this machine, as Slack would."),
    ] = None,
) -> None:
    """Verify tokens, scopes and reachability, and say what is wrong."""
    _require_extra()
    from controlplane.main import check_slack

    findings = asyncio.run(check_slack(_settings(server.data_dir), request_url=request_url))
    if server.as_json:
        server.output.json([finding.model_dump() for finding in findings])
    else:
        for finding in findings:
            server.output.console.print(_MARKS[finding.state], end=" ")
            server.output.line(f"{finding.name}: {finding.detail}")
            if finding.next_step:
                server.output.line(f"     next: {finding.next_step}")
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(1)


@app.command("show")
@connected
def show(server: Server) -> None:
    """Show the front door and what holds there."""
    server.output.object(front_door(server), _FIELDS)


@app.command("place")
@connected
def place(
    server: Server,
    where: Annotated[str, _WHERE],
    *,
    agent: Annotated[str | None, typer.Option("--agent", help="Who answers there (id or name).")] = None,
    only_agent: Annotated[list[str] | None, _ONLY_AGENT] = None,
    only_person: Annotated[list[str] | None, _ONLY_PERSON] = None,
    decider: Annotated[list[str] | None, _DECIDER] = None,
) -> None:
    """Say what holds in a place, in whole: without options, nothing of its own. Everywhere who answers stays."""
    door = front_door(server)
    limits = {
        "agent_ids": [_agent_or_any(server, each) for each in only_agent] if only_agent else None,
        "people": only_person or None,
        "deciders": decider or None,
    }
    rules: dict[str, Any] = door["rules"]
    answers = {"agent_id": resolve(server, "agents", agent)} if agent else {}
    of_its_own = {name: value for name, value in (limits | answers).items() if value is not None}
    match where:
        case "everywhere":
            rules |= limits | answers
        case "direct" | "elsewhere":
            rules[where] = of_its_own or None
        case _:
            others = {name: each for name, each in rules["places"].items() if name != where}
            rules["places"] = others | ({where: of_its_own} if of_its_own else {})
    server.output.object(server.post(f"{_PATH}/{door['id']}", {"rules": rules}), _FIELDS)


@app.command("refusals")
@connected
def refusals(server: Server, limit: Annotated[int, typer.Option("--limit", min=1, max=100)] = 100) -> None:
    """List what was refused: bad signatures, other teams, people who may not."""
    server.output.table(server.get(f"{_PATH}/{front_door(server)['id']}/refusals", limit=limit)["data"], _REFUSALS)


@app.command("disconnect")
@connected
def disconnect(server: Server) -> None:
    """Delete the front door and its vault; the sessions stay."""
    door = front_door(server)
    deleted = server.delete(f"{_PATH}/{door['id']}")
    server.delete(f"/v1/vaults/{door['vault_id']}")
    server.output.object(deleted, ("id", "type"))


def front_door(server: Server) -> dict[str, Any]:
    """Return the Slack front door that BULKHEAD_SLACK_FRONT_DOOR names by its name or id, or the only one."""
    from controlplane.settings import Settings

    name = Settings().slack_front_door
    doors = [each for each in server.get(_PATH)["data"] if each["kind"] == "slack"]
    found = [each for each in doors if not name or name in (each["id"], each["name"])]
    if not found:
        named = f" named {name!r}" if name else ""
        raise Failure(
            f"there is no Slack front door{named}",
            code="front_door_not_found",
            next_step="run `bulkhead slack connect`",
        )
    if len(found) > 1:
        raise Failure(
            f"there are {len(found)} Slack front doors: {', '.join(each['name'] for each in found[:10])}",
            code="several_front_doors",
            field="BULKHEAD_SLACK_FRONT_DOOR",
            next_step="set it to the name of the one that is meant",
        )
    return found[0]


def _agent_or_any(server: Server, name: str) -> str:
    return name if name == _ANY else resolve(server, "agents", name)


def _environment(server: Server) -> str:
    found = list(server.listing("/v1/environments", limit=2))
    return found[0]["id"] if len(found) == 1 else some_environment(server)


def _token(variable: str, what: str) -> str:
    given = os.environ.get(variable)
    if given is not None or not sys.stdin.isatty():
        return (given or "").strip()
    return typer.prompt(what, default="", hide_input=True, show_default=False).strip()


def _require_extra() -> None:
    if find_spec("slack_bolt") is None:
        raise Failure(
            "the Slack front door's packages are not installed",
            code="missing_extra",
            next_step="install them: pip install 'bulkhead[slack]'",
        )


def _settings(data_dir: Any) -> "Settings":
    from controlplane.embedded.postgres import EmbeddedPostgres
    from controlplane.settings import Settings

    settings = Settings() if data_dir is None else Settings(data_dir=data_dir)
    if settings.database_url:
        return settings
    if not (settings.data_dir / "run" / "pid").exists():
        raise Failure(
            "no Postgres: BULKHEAD_DATABASE_URL is not set, and no `bulkhead up` runs on this data directory",
            code="missing_setting",
            field="BULKHEAD_DATABASE_URL",
            next_step="set it, or start `bulkhead up`, or name its directory with --data-dir",
        )
    url = EmbeddedPostgres((settings.data_dir / "postgres").resolve()).url()
    return settings.model_copy(update={"database_url": url})
