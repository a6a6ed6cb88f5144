"""``bulkhead deployments``."""

from typing import Annotated, Any

import typer

from controlplane.cli.definition import FromOption, Reference, body, resolve
from controlplane.cli.failure import Failure
from controlplane.cli.server import Server, connected
from controlplane.cli.sessions import limit_of, said
from controlplane.cli.slack import front_door
from controlplane.cli.vaults import read_secret

app = typer.Typer(help="Agents that run by themselves: on time, or when told to.", no_args_is_help=True)

_COLUMNS = ("id", "name", "status", "schedule.expression", "schedule.timezone", "schedule.last_run_at", "archived_at")
_FIELDS = (
    "id", "name", "status", "paused_reason", "agent.id", "agent.version", "environment_id", "schedule.in_words",
    "schedule.upcoming_runs_at", "schedule.last_run_at", "session", "session_id", "budget", "budget_ids", "deadline",
    "pause_on_failure", "trigger", "reports_to", "created_at", "archived_at",
)  # fmt: skip
_RUN_COLUMNS = (
    "id", "trigger_context.source", "trigger_context.scheduled_at", "started_at", "lateness_seconds", "state",
    "outcome", "error.type", "detail", "cost_usd", "session_id",
)  # fmt: skip
_RUN_FIELDS = (*_RUN_COLUMNS, "error.message", "ended_at")


Limit = Annotated[int, typer.Option("--limit", min=1, help="How many to show at most.")]


@app.command("create")
@connected
def create(
    server: Server,
    *,
    name: Annotated[str | None, typer.Option("--name")] = None,
    agent: Annotated[str | None, typer.Option("--agent", help="Id or name.")] = None,
    environment: Annotated[str | None, typer.Option("--environment", help="Id or name.")] = None,
    message: Annotated[str | None, typer.Option("--message", "-m", help="What each run is told.")] = None,
    cron: Annotated[str | None, typer.Option("--cron", help="As '0 9 * * 1-5'.")] = None,
    timezone: Annotated[str | None, typer.Option("--timezone", help="As Europe/Berlin.")] = None,
    every: Annotated[str | None, typer.Option("--every", help="In place of --cron: 90m, 2h, 1d.")] = None,
    often: Annotated[
        bool, typer.Option("--more-than-once-a-minute", help="Must be said for an interval below a minute.")
    ] = False,
    exclude: Annotated[list[str] | None, typer.Option("--exclude", help="A date, YYYY-MM-DD; repeatable.")] = None,
    overlap: Annotated[str | None, typer.Option("--overlap", help="skip, buffer_one, cancel_other, allow.")] = None,
    dst: Annotated[str | None, typer.Option("--dst", help="skip, run_once or run_twice.")] = None,
    jitter: Annotated[str | None, typer.Option("--jitter", help="As 5m.")] = None,
    catchup: Annotated[
        str | None, typer.Option("--catchup-window", help="How late a run may be made up for.")
    ] = None,
    max_runs: Annotated[int | None, typer.Option("--max-runs", min=1)] = None,
    ends_at: Annotated[str | None, typer.Option("--ends-at", help="RFC 3339.")] = None,
    deadline: Annotated[str | None, typer.Option("--deadline", help="How long a run may take.")] = None,
    pause_on_failure: Annotated[
        int | None, typer.Option("--pause-on-failure", min=1, help="After how many failed runs in a row.")
    ] = None,
    budget_cents: Annotated[
        int | None, typer.Option("--budget-cents", min=1, help="What a run may cost, in US cents.")
    ] = None,
    budget: Annotated[
        list[str] | None, typer.Option("--budget", help="A budget of all its runs, by id or name; repeatable.")
    ] = None,
    vault: Annotated[list[str] | None, typer.Option("--vault", help="Whose secrets it may use; repeatable.")] = None,
    going_on: Annotated[bool, typer.Option("--continue", help="All runs in one session.")] = False,
    trigger: Annotated[
        str | None,
        typer.Option("--trigger", help="github, slack or standard_webhooks; the secret is read from stdin."),
    ] = None,
    template: Annotated[str | None, typer.Option("--template", help="What a payload becomes.")] = None,
    report_to: Annotated[
        str | None, typer.Option("--report-to", help="The Slack channel that is told what runs came to: C0123456789.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what was understood, and make nothing.")] = False,
    source: FromOption = None,
) -> None:
    """Make a deployment."""
    schedule = {
        "expression": cron, "interval": every, "timezone": timezone, "exclude_dates": exclude or None,
        "overlap": overlap, "dst": dst, "jitter": jitter, "catchup_window": catchup, "max_runs": max_runs,
        "ends_at": ends_at, "more_than_once_a_minute": often or None,
    }  # fmt: skip
    timed = {key: value for key, value in schedule.items() if value is not None}
    fields = body(
        source,
        name=name,
        agent=resolve(server, "agents", agent) if agent else None,
        environment_id=resolve(server, "environments", environment) if environment else None,
        initial_events=[said(message)] if message else None,
        schedule={"type": "cron", **timed} if timed else None,
        deadline=deadline,
        pause_on_failure=pause_on_failure,
        budget=limit_of(budget_cents) if budget_cents is not None else None,
        budget_ids=[resolve(server, "budgets", each) for each in budget or []] or None,
        vault_ids=vault or None,
        session="continue" if going_on else None,
        trigger=_trigger(trigger, template) if trigger else None,
        reports_to=_channel(server, report_to) if report_to else None,
        dry_run=dry_run or None,
    )
    made = server.post("/v1/deployments", fields)
    server.output.object(made, ("name", "schedule.in_words", "schedule.upcoming_runs_at") if dry_run else _FIELDS)


@app.command("list")
@connected
def show_all(
    server: Server,
    limit: Limit = 100,
    archived: Annotated[bool, typer.Option("--archived", help="Archived ones too.")] = False,
) -> None:
    """List deployments, newest first."""
    found = server.listing("/v1/deployments", limit=limit, include_archived="true" if archived else None)
    server.output.table(found, _COLUMNS)


@app.command("show")
@connected
def show(server: Server, deployment: Reference) -> None:
    """Show a deployment."""
    server.output.object(server.get(_path(server, deployment)), _FIELDS)


@app.command("next")
@connected
def upcoming(server: Server, deployment: Reference) -> None:
    """Say in words when a deployment fires, and the next five times."""
    found = server.get(_path(server, deployment))
    server.output.object(found, ("status", "schedule.in_words", "schedule.upcoming_runs_at"))


@app.command("pause")
@connected
def pause(server: Server, deployment: Reference) -> None:
    """Keep a deployment from running by itself."""
    server.output.object(server.post(f"{_path(server, deployment)}/pause"), _FIELDS)


@app.command("unpause")
@connected
def unpause(server: Server, deployment: Reference) -> None:
    """Let a deployment run by itself again, from now on."""
    server.output.object(server.post(f"{_path(server, deployment)}/unpause"), _FIELDS)


@app.command("archive")
@connected
def archive(server: Server, deployment: Reference) -> None:
    """End a deployment for good."""
    server.output.object(server.post(f"{_path(server, deployment)}/archive"), _FIELDS)


@app.command("run")
@connected
def run(server: Server, deployment: Reference) -> None:
    """Run a deployment now."""
    server.output.object(server.post(f"{_path(server, deployment)}/run"), _RUN_FIELDS)


@app.command("backfill")
@connected
def backfill(
    server: Server,
    deployment: Reference,
    start: Annotated[str, typer.Option("--from", help="RFC 3339, as 2026-05-01T00:00:00Z.")],
    end: Annotated[str, typer.Option("--to", help="RFC 3339; not in the future.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the times, and run nothing.")] = False,
) -> None:
    """Run a deployment for the times of a past range that it has no run of."""
    wanted: dict[str, Any] = {"start_at": start, "end_at": end, "dry_run": dry_run}
    found = server.post(f"{_path(server, deployment)}/backfill", wanted)
    if dry_run and not server.as_json:
        server.output.table([{"time": time} for time in found["times"]], ("time",))
        return
    server.output.table(found["runs"], _RUN_COLUMNS)


@app.command("runs")
@connected
def runs(
    server: Server,
    deployment: Annotated[str | None, typer.Argument(help="Of this deployment alone, by id or name.")] = None,
    limit: Limit = 20,
    failed: Annotated[bool, typer.Option("--errors", help="Only those that did not begin.")] = False,
) -> None:
    """List runs, newest first."""
    deployment_id = resolve(server, "deployments", deployment) if deployment is not None else None
    found = server.listing(
        "/v1/deployment_runs", limit=limit, deployment_id=deployment_id, has_error="true" if failed else None
    )
    server.output.table(found, _RUN_COLUMNS)


def _path(server: Server, deployment: str) -> str:
    return f"/v1/deployments/{resolve(server, 'deployments', deployment)}"


def _channel(server: Server, channel: str) -> dict[str, Any]:
    return {"front_door_id": front_door(server)["id"], "place": channel}


def _trigger(kind: str, template: str | None) -> dict[str, Any]:
    if template is None:
        raise Failure("--trigger needs --template", code="bad_usage", field="--template")
    return {"type": kind, "secret": read_secret(), "template": template}
