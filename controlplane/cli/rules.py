"""``bulkhead rules``."""

import re
import shlex
from typing import Annotated, Any

import typer

from controlplane.cli.definition import FromOption, body, json_argument, resolve
from controlplane.cli.failure import Failure
from controlplane.cli.server import Server, checked_id, connected

app = typer.Typer(help="Rules on the arguments of tool calls: allow, ask or deny.", no_args_is_help=True)

_COLUMNS = ("id", "scope", "position", "tool", "verdict", "arguments", "reason", "expires_at", "created_by")
_FIELDS = (*_COLUMNS[:-1], "expires_after_seconds", "on_expiry", "created_by", "updated_by", "updated_at")
_PASSED = ("rule_id", "because")

RuleId = Annotated[str, typer.Argument(metavar="ID", help="The rule's id.")]
Agent = Annotated[str | None, typer.Option("--agent", help="Of this agent: id or name.")]
Session = Annotated[str | None, typer.Option("--session", help="Of this session: id.")]

_JSON_BEGINS = re.compile(r"""\s*\{\s*["}]""")
"""Of an object; a command line may begin with a brace as well."""


@app.command("list")
@connected
def show_all(
    server: Server,
    *,
    agent: Agent = None,
    session: Session = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many to show at most.")] = 100,
) -> None:
    """List rules in the order in which they hold."""
    scope = _scope(server, agent, session) if agent or session else None
    server.output.table(server.listing("/v1/rules", limit=limit, scope=scope), _COLUMNS)


@app.command("create")
@connected
def create(
    server: Server,
    verdict: Annotated[str | None, typer.Argument(help="allow, ask or deny.")] = None,
    *,
    tool: Annotated[str | None, typer.Option("--tool", help="A tool's name, or a glob.")] = None,
    agent: Agent = None,
    session: Session = None,
    command: Annotated[
        list[str] | None,
        typer.Option(
            "--command",
            help="A command line as a pattern, such as 'git push **': a glob for each word, ** for any more. May be"
            " repeated: any of them.",
        ),
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option("--condition", metavar="JSON", help='Such as {"path": "$.file_path", "glob": "/workspace/*"}.'),
    ] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Told to the model and to whoever is asked.")] = None,
    position: Annotated[int | None, typer.Option("--position", help="The lowest comes first.")] = None,
    expires_after_seconds: Annotated[
        int | None, typer.Option("--expires-after-seconds", help="With ask: how long a call waits.")
    ] = None,
    on_expiry: Annotated[
        str | None, typer.Option("--on-expiry", help="With ask: allow or deny when that is over.")
    ] = None,
    source: FromOption = None,
) -> None:
    """Make a rule; it holds from the next call on."""
    fields = body(
        source,
        verdict=verdict,
        tool=tool,
        scope=_scope(server, agent, session) if agent or session else None,
        reason=reason,
        position=position,
        expires_after_seconds=expires_after_seconds,
        on_expiry=on_expiry,
    )
    conditions = [json_argument("--condition", each) for each in condition or []]
    if command:
        conditions.append({"command": [_pattern(each) for each in command]})
    if conditions:
        fields["arguments"] = [*fields.get("arguments", []), *conditions]
    server.output.object(server.post("/v1/rules", fields), _FIELDS)


@app.command("show")
@connected
def show(server: Server, rule: RuleId) -> None:
    """Show a rule."""
    server.output.object(server.get(f"/v1/rules/{checked_id('rule', rule)}"), _FIELDS)


@app.command("delete")
@connected
def delete(server: Server, rule: RuleId) -> None:
    """Delete a rule; it holds no more from the next call on."""
    server.output.object(server.delete(f"/v1/rules/{checked_id('rule', rule)}"), ("id", "type"))


@app.command("test")
@connected
def test(
    server: Server,
    tool: Annotated[str, typer.Argument(help="The tool's name.")],
    given: Annotated[str, typer.Argument(metavar="INPUT", help="The tool's input as JSON, or a command line.")],
    *,
    agent: Agent = None,
    session: Session = None,
) -> None:
    """Say what would be decided about a call, and by which rule. Nothing is run."""
    value = json_argument("INPUT", given) if _JSON_BEGINS.match(given) else {"command": given}
    place = {"session_id": session} if session else {}
    if agent:
        place["agent_id"] = resolve(server, "agents", agent)
    found = server.post("/v1/rules/evaluate", {"tool": tool, "input": value, **place})
    server.output.object(found, ("verdict", "decided_by", "rule.id", "reason", "policy_verdict"))
    if found["passed"] and not server.as_json:
        server.output.table(found["passed"], _PASSED)


def _scope(server: Server, agent: str | None, session: str | None) -> str:
    if agent and session:
        raise Failure("a rule is of an agent or of a session, not of both", code="bad_usage", field="--agent")
    return resolve(server, "agents", agent) if agent else checked_id("session", session or "")


def _pattern(text: str) -> dict[str, Any]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise Failure(f"--command: {error}", code="bad_usage", field="--command") from error
    if not words:
        raise Failure("--command names no program", code="bad_usage", field="--command")
    return {"program": words[0], "arguments": words[1:]}
