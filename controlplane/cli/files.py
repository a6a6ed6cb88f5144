"""``bulkhead files``."""

import mimetypes
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from controlplane.cli.failure import Failure
from controlplane.cli.server import Server, check, connected

app = typer.Typer(help="Files that sessions mount, and files that they leave.", no_args_is_help=True)

_COLUMNS = ("id", "filename", "size_bytes", "mime_type", "created_at")


def send(server: Server, path: Path) -> dict[str, Any]:
    """Upload a file and return it as the server describes it."""
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    try:
        with path.open("rb") as file:
            return server.request(
                "POST",
                "/v1/files",
                files={"file": (path.name, file, kind)},
                headers={"Idempotency-Key": str(uuid.uuid4())},
            )
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror}", code="unreadable_file") from error


@app.command("upload")
@connected
def upload(server: Server, path: Path) -> None:
    """Upload a file."""
    server.output.object(send(server, path), _COLUMNS)


@app.command("list")
@connected
def show_all(
    server: Server,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many to show at most.")] = 100,
    session: Annotated[str | None, typer.Option("--session", help="Only files of this session.")] = None,
) -> None:
    """List files, newest first."""
    server.output.table(server.listing("/v1/files", limit=limit, scope_id=session), _COLUMNS)


@app.command("download")
@connected
def download(
    server: Server,
    file: str,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write it; - is stdout.")] = None,
) -> None:
    """Download a file, under its own name if none is given."""
    target = output or Path(Path(server.get(f"/v1/files/{file}")["filename"]).name)
    chunks = _content(server, file)
    if str(target) == "-":
        for chunk in chunks:
            sys.stdout.buffer.write(chunk)
        return
    size = _write(target, chunks)
    if server.as_json:
        server.output.json({"id": file, "path": str(target), "size_bytes": size})
    else:
        server.output.line(f"{target}: {size} bytes")


@app.command("delete")
@connected
def delete(server: Server, file: str) -> None:
    """Delete a file."""
    server.output.object(server.delete(f"/v1/files/{file}"), ("id", "type"))


def _content(server: Server, file: str) -> Iterator[bytes]:
    try:
        with server.client.stream("GET", f"/v1/files/{file}/content") as response:
            if not response.is_success:
                response.read()
            check(response)
            yield from response.iter_bytes()
    except httpx.TransportError as error:
        raise server.unreachable(error) from error


def _write(target: Path, chunks: Iterator[bytes]) -> int:
    unfinished = target.with_name(f".{target.name}.part")
    try:
        with unfinished.open("wb") as file:
            size = sum(file.write(chunk) for chunk in chunks)
        unfinished.replace(target)
    except OSError as error:
        raise Failure(f"{target} cannot be written: {error.strerror}", code="unwritable_file") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return size
