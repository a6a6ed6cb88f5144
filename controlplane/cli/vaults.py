"""``bulkhead vaults`` and ``bulkhead vaults credentials``."""

import sys
from typing import Annotated, Any

import typer

from controlplane.cli.failure import Failure
from controlplane.cli.server import Server, connected

app = typer.Typer(help="Secrets that sessions may use and never see.", no_args_is_help=True)
credentials = typer.Typer(help="A secret, and the only hosts that it may go to.", no_args_is_help=True)
app.add_typer(credentials, name="credentials")

_FIELDS = ("id", "display_name", "metadata", "created_at", "archived_at")
_COLUMNS = ("id", "display_name", "created_at", "archived_at")
_CREDENTIAL_FIELDS = ("id", "vault_id", "display_name", "auth", "created_at", "updated_at", "archived_at")
_CREDENTIAL_COLUMNS = ("id", "auth.secret_name", "auth.networking.allowed_hosts", "updated_at", "archived_at")

_ARCHIVED = typer.Option("--archived", help="Archived ones too.")
_LIMIT = typer.Option("--limit", min=1, help="How many to show at most.")
_HOST = typer.Option("--host", help="A host that the secret may go to; may be repeated.")
_METHOD = typer.Option("--method", help="Only with this HTTP method; may be repeated.")
_PATH = typer.Option("--path", help="Only to this path and those below it; may be repeated.")
_BODY = typer.Option("--body", help="Replace the placeholder in request bodies too.")
_PARAMETER = typer.Option("--query-parameter", help="Replace the placeholder in this query parameter too.")


@app.command("create")
@connected
def create(server: Server, name: str) -> None:
    """Make a vault."""
    server.output.object(server.post("/v1/vaults", {"display_name": name}), _FIELDS)


@app.command("list")
@connected
def show_all(
    server: Server, limit: Annotated[int, _LIMIT] = 100, archived: Annotated[bool, _ARCHIVED] = False
) -> None:
    """List vaults, newest first."""
    found = server.listing("/v1/vaults", limit=limit, include_archived="true" if archived else None)
    server.output.table(found, _COLUMNS)


@app.command("show")
@connected
def show(server: Server, vault: str) -> None:
    """Show a vault."""
    server.output.object(server.get(f"/v1/vaults/{vault}"), _FIELDS)


@app.command("archive")
@connected
def archive(server: Server, vault: str) -> None:
    """Archive a vault: its secrets are gone for good."""
    server.output.object(server.post(f"/v1/vaults/{vault}/archive"), _FIELDS)


@app.command("delete")
@connected
def delete(server: Server, vault: str) -> None:
    """Delete a vault with everything in it."""
    server.output.object(server.delete(f"/v1/vaults/{vault}"), ("id", "type"))


@app.command("rewrap")
@connected
def rewrap(server: Server) -> None:
    """Put every vault's key under the newest master key; then the older ones can be taken away."""
    done = server.post("/v1/vaults/rewrap")
    server.output.object(done, ("master_key_id", "rewrapped", "unreadable"))
    if done["unreadable"]:
        raise Failure(
            f"{done['unreadable']} keys are under a master key that is not present",
            code="master_key_missing",
            next_step="put that master key back and run this again; keep the older ones until then",
        )


@credentials.command("create")
@connected
def create_credential(
    server: Server,
    vault: str,
    name: Annotated[str, typer.Argument(help="The environment variable that stands for the secret.")],
    *,
    host: Annotated[list[str], _HOST],
    method: Annotated[list[str] | None, _METHOD] = None,
    path: Annotated[list[str] | None, _PATH] = None,
    body: Annotated[bool, _BODY] = False,
    query_parameter: Annotated[str | None, _PARAMETER] = None,
) -> None:
    """Store a secret, which is read from stdin, or asked for on a terminal."""
    auth: dict[str, Any] = {
        "type": "environment_variable",
        "secret_name": name,
        "networking": {"type": "limited", "allowed_hosts": host},
        "injection_location": {"header": True, "body": body},
        "methods": method or None,
        "path_prefixes": path or None,
        "query_parameter": query_parameter,
        "secret_value": read_secret(),
    }
    server.output.object(server.post(f"/v1/vaults/{vault}/credentials", {"auth": auth}), _CREDENTIAL_FIELDS)


@credentials.command("rotate")
@connected
def rotate_credential(server: Server, vault: str, credential: str) -> None:
    """Put a new secret in place of the old one, read from stdin, or asked for on a terminal."""
    auth = {"type": "environment_variable", "secret_value": read_secret()}
    found = server.post(f"/v1/vaults/{vault}/credentials/{credential}", {"auth": auth})
    server.output.object(found, _CREDENTIAL_FIELDS)


@credentials.command("list")
@connected
def show_credentials(
    server: Server, vault: str, limit: Annotated[int, _LIMIT] = 100, archived: Annotated[bool, _ARCHIVED] = False
) -> None:
    """List a vault's credentials, newest first."""
    path = f"/v1/vaults/{vault}/credentials"
    found = server.listing(path, limit=limit, include_archived="true" if archived else None)
    server.output.table(found, _CREDENTIAL_COLUMNS)


@credentials.command("show")
@connected
def show_credential(server: Server, vault: str, credential: str) -> None:
    """Show a credential, without its secret."""
    server.output.object(server.get(f"/v1/vaults/{vault}/credentials/{credential}"), _CREDENTIAL_FIELDS)


@credentials.command("archive")
@connected
def archive_credential(server: Server, vault: str, credential: str) -> None:
    """Archive a credential: its secret is gone for good, its name is free."""
    found = server.post(f"/v1/vaults/{vault}/credentials/{credential}/archive")
    server.output.object(found, _CREDENTIAL_FIELDS)


@credentials.command("delete")
@connected
def delete_credential(server: Server, vault: str, credential: str) -> None:
    """Delete a credential."""
    server.output.object(server.delete(f"/v1/vaults/{vault}/credentials/{credential}"), ("id", "type"))


def read_secret() -> str:
    """Return the secret; never from an argument, which every user of the machine could read."""
    if sys.stdin.isatty():
        return typer.prompt("Secret", hide_input=True, err=True)
    text = sys.stdin.read().removesuffix("\n").removesuffix("\r")
    if not text:
        raise Failure(
            "stdin holds no secret", code="no_secret", next_step="pipe it in, or run the command on a terminal"
        )
    return text
