"""Request bodies from the command line: options, and a JSON file for everything that has no option."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from controlplane.cli.failure import Failure
from controlplane.cli.server import Server, checked_id

FromOption = Annotated[
    Path | None, typer.Option("--from", help="JSON file with the request's fields; options override it.")
]
Reference = Annotated[str, typer.Argument(help="Id or name.")]

_PREFIXES = {"agents": "agent_", "environments": "env_", "deployments": "depl_", "budgets": "bdgt_"}


def body(source: Path | None, **options: Any) -> dict[str, Any]:
    """Return the file's fields, overridden by the options that were given."""
    fields = _read(source) if source else {}
    return fields | {name: value for name, value in options.items() if value is not None}


def text_of(option: str, text: str | None, file: Path | None) -> str | None:
    """Return a text given directly or as a file."""
    if text is not None and file is not None:
        raise Failure(f"{option} and {option}-file exclude each other", code="bad_usage", field=option)
    return text if file is None else read_text(file)


def json_argument(option: str, text: str) -> dict[str, Any]:
    """Return the JSON object that an option holds; raises `Failure` that names it."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Failure(f"{option} is not JSON: {error}", code="bad_usage", field=option) from error
    if not isinstance(value, dict):
        raise Failure(f"{option} is not a JSON object", code="bad_usage", field=option)
    return value


def read_text(path: Path) -> str:
    """Return a file's text; raises `Failure` that names it."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{path} cannot be read: {error}", code="unreadable_file") from error


def resolve(server: Server, kind: str, reference: str) -> str:
    """Return the id of the agent, environment, deployment or budget that ``reference`` names by id or by name."""
    if checked_id(kind.removesuffix("s"), reference).startswith(_PREFIXES[kind]):
        return reference
    named = [each["id"] for each in server.listing(f"/v1/{kind}", limit=1000) if each["name"] == reference]
    if len(named) == 1:
        return named[0]
    noun = kind.removesuffix("s")
    problem = f"{len(named)} {kind} are" if named else f"no {noun} is"
    raise Failure(
        f"{problem} named {reference!r}",
        code=f"{noun}_ambiguous" if named else f"{noun}_not_found",
        next_step=f"give the id; `bulkhead {kind} list` shows it",
    )


def _read(source: Path) -> dict[str, Any]:
    try:
        fields = json.loads(read_text(source))
    except ValueError as error:
        raise Failure(f"{source} is not JSON: {error}", code="bad_file", field="--from") from error
    if not isinstance(fields, dict):
        raise Failure(f"{source} does not hold a JSON object", code="bad_file", field="--from")
    return fields
