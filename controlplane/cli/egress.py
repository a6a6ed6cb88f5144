"""``bulkhead sessions egress``."""

import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from controlplane.cli.failure import Failure
from controlplane.cli.server import Server, SessionId, connected

app = typer.Typer(help="What a session's sandboxes sent out, and the switch that stops it.", no_args_is_help=True)

_COLUMNS = ("seq", "created_at", "verdict", "reason", "method", "host", "port", "path", "credential", "status")
_EVERYTHING = 2**31 - 1
_FIRST = bytes(32)
_HASHED = (
    "session_id", "seq", "id", "exchange_id", "ended", "workspace_id", "sandbox_id", "turn_id", "tool_use_id",
    "credential", "method", "host", "port", "path", "verdict", "reason", "message", "status", "bytes_up",
    "bytes_down", "duration_us",
)  # fmt: skip


@app.command("list")
@connected
def show_all(
    server: Server,
    session: SessionId,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many to show at most.")] = 100,
    verdict: Annotated[
        list[str] | None, typer.Option("--verdict", help="allowed, denied, failed or cut; may be repeated.")
    ] = None,
) -> None:
    """List decisions in order."""
    found = server.listing(f"/v1/sessions/{session}/egress", limit=limit, verdicts=verdict or None)
    server.output.table(found, _COLUMNS)


@app.command("verify")
@connected
def verify(server: Server, session: SessionId) -> None:
    """Check that no decision was changed, removed or put in; the last hash, noted elsewhere, proves the end too."""
    count, last = verified(server.listing(f"/v1/sessions/{session}/egress", limit=_EVERYTHING))
    server.output.object(
        {"session_id": session, "decisions": count, "last_hash": last}, ("session_id", "decisions", "last_hash")
    )


@app.command("revoke")
@connected
def revoke(server: Server, session: SessionId) -> None:
    """Cut a session's sandboxes off from everything, at once."""
    server.output.object(server.post(f"/v1/sessions/{session}/egress/revoke"), ("session_id", "revoked_at"))


@app.command("restore")
@connected
def restore(server: Server, session: SessionId) -> None:
    """Give a session's sandboxes back what their environment and vaults allow."""
    server.output.object(server.post(f"/v1/sessions/{session}/egress/restore"), ("session_id", "revoked_at"))


def verified(decisions: Iterable[dict[str, Any]]) -> tuple[int, str]:
    """Return how many decisions there are and the last one's hash; raises `Failure` at the first that is wrong."""
    count, previous = 0, _FIRST
    for count, each in enumerate(decisions, 1):
        digest = hashlib.sha256(previous + _canonical(each)).digest()
        if (each["seq"], each["previous_hash"], each["hash"]) != (count, previous.hex(), digest.hex()):
            raise Failure(
                f"decision {each['seq']} does not follow from those before it: the record was tampered with",
                code="egress_record_broken",
                next_step="compare with a backup; what comes before this decision is intact",
            )
        previous = digest
    return count, previous.hex()


def _canonical(decision: dict[str, Any]) -> bytes:
    moment = datetime.fromisoformat(decision["created_at"]).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return json.dumps([*(decision[name] for name in _HASHED), moment], ensure_ascii=False).encode()
