"""``bulkhead memory``: what agents keep beyond a session, to be seen and corrected."""

import difflib
import heapq
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Annotated, Any

import typer

from controlplane.cli import memory_lines
from controlplane.cli.failure import Failure
from controlplane.cli.memory_lines import EXTRAS, FIELDS
from controlplane.cli.server import Json, Server, connected

app = typer.Typer(help="What agents keep beyond a session.", no_args_is_help=True)

_STORE_FIELDS = ("id", "name", "description", "owner", "access", "memory_count", "memory_bytes", "created_at")
_STORE_COLUMNS = ("id", "name", "owner.type", "owner.id", "access", "memory_count", "created_at")
_COLUMNS = ("path", "memory_type", "version", "content_size_bytes", "untrusted", "updated_at")
_VERSION_COLUMNS = ("id", "version", "operation", "created_at", "created_by", "provenance.model", "untrusted")
_SETTINGS = ("memory_type", "json_schema", "size_limit", "protected", "supersedes")

Store = Annotated[str, typer.Argument(help="The store's id, or its name if no other has it.")]
MemoryPath = Annotated[str, typer.Argument(help="The memory's path, such as /people/ada.md.")]
Version = Annotated[str, typer.Argument(help="A number, the newest that has it, or the id of a version.")]
_LIMIT = typer.Option("--limit", min=1, help="How many to show at most.")
_FILE = typer.Argument(help="JSON lines; '-' or left out: the standard input or output.")


@app.command("create")
@connected
def create(
    server: Server,
    name: str,
    *,
    description: Annotated[str, typer.Option("--description", help="What agents are told of it.")] = "",
    owner: Annotated[
        str | None, typer.Option("--owner", help="agent:ID, user:ID or session:ID; shared if not given.")
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Agents may only read it.")] = False,
) -> None:
    """Make a memory store."""
    body: Json = {"name": name, "description": description, "access": "read_only" if read_only else "read_write"}
    if owner is not None:
        kind, _, owner_id = owner.partition(":")
        body["owner"] = {"type": kind, "id": owner_id}
    server.output.object(server.post("/v1/memory_stores", body), _STORE_FIELDS)


@app.command("list")
@connected
def show_all(
    server: Server,
    store: Annotated[str | None, typer.Argument(help="A store; without, the stores are listed.")] = None,
    *,
    below: Annotated[str | None, typer.Option("--below", help="Only paths below this one.")] = None,
    limit: Annotated[int, _LIMIT] = 1000,
) -> None:
    """List the memory stores, or the memories of one."""
    if store is None:
        server.output.table(server.listing("/v1/memory_stores", limit=limit), _STORE_COLUMNS)
        return
    prefix = below if below is None or below.endswith("/") else below + "/"
    found = server.listing(f"{_url(server, store)}/memories", limit=limit, path_prefix=prefix)
    server.output.table(found, _COLUMNS)


@app.command("show")
@connected
def show(server: Server, store: Store, path: MemoryPath) -> None:
    """Show what a path holds."""
    memory = _memory(server, _url(server, store), path)
    if server.as_json:
        server.output.json(memory)
        return
    server.output.object(memory, ("path", "version", "memory_type", "untrusted", "updated_at"))
    server.output.line("\n" + memory["content"])


@app.command("edit")
@connected
def edit(
    server: Server,
    store: Store,
    path: MemoryPath,
    *,
    content: Annotated[str | None, typer.Option("--content", help="Instead of an editor; '-': from stdin.")] = None,
    memory_type: Annotated[str | None, typer.Option("--type", help="Makes it a block of this type.")] = None,
) -> None:
    """Change what a path holds, or make it, in $EDITOR. Somebody else's change in between is not written over."""
    url = _url(server, store)
    before = _look_up(server, url, path)
    wanted = _written(before["content"] if before else "") if content is None else _given(content)
    settings = {"memory_type": memory_type} if memory_type else {}
    if before is None:
        saved = server.post(f"{url}/memories?view=full", {"path": path, "content": wanted, **settings})
    else:
        body = {"content": wanted, "version": before["version"], **settings}
        saved = server.post(f"{url}/memories/{before['id']}?view=full", body)
    server.output.object(saved, ("path", "version", "memory_type", "redacted"))


@app.command("search")
@connected
def search(
    server: Server,
    store: Store,
    query: str,
    *,
    limit: Annotated[int, _LIMIT] = 10,
    kind: Annotated[list[str] | None, typer.Option("--type", help="Only this type; may be repeated.")] = None,
    below: Annotated[str | None, typer.Option("--below", help="Only paths that begin so.")] = None,
    as_of: Annotated[str | None, typer.Option("--as-of", help="What was kept at this time (RFC 3339).")] = None,
) -> None:
    """Find memories by meaning and by words."""
    body = {"query": query, "limit": limit, "types": kind, "path_prefix": below, "as_of": as_of}
    found = server.post(
        f"{_url(server, store)}/search", {name: value for name, value in body.items() if value is not None}
    )
    server.output.table(found["data"], ("score", "memory.path", "memory.content", "reason"))


@app.command("history")
@connected
def history(server: Server, store: Store, path: MemoryPath, limit: Annotated[int, _LIMIT] = 100) -> None:
    """List the versions of what a path holds or held, newest first, with who wrote each."""
    server.output.table(_versions(server, _url(server, store), path, limit=limit), _VERSION_COLUMNS)


@app.command("diff")
@connected
def diff(
    server: Server,
    store: Store,
    path: MemoryPath,
    old: Annotated[str | None, typer.Argument(help="A version; the one before the newest if not given.")] = None,
    new: Annotated[str | None, typer.Argument(help="A version; the newest if not given.")] = None,
) -> None:
    """Show what changed from one version to another."""
    url = _url(server, store)
    newest = _version(server, url, path, new)
    older = _version(server, url, path, old if old is not None else str(max(1, newest["version"] - 1)))
    if server.as_json:
        server.output.json({"old": older, "new": newest})
        return
    lines = difflib.unified_diff(
        (older["content"] or "").splitlines(),
        (newest["content"] or "").splitlines(),
        f"{path} version {older['version']}",
        f"{path} version {newest['version']}",
        lineterm="",
    )
    for line in lines:
        server.output.line(line)


@app.command("restore")
@connected
def restore(server: Server, store: Store, path: MemoryPath, version: Version) -> None:
    """Let a path hold again what it held in an earlier version, as a new version."""
    url = _url(server, store)
    wanted = _version(server, url, path, version)
    if wanted["content"] is None:
        raise Failure(
            f"version {version} of {path} has no content: it was redacted, or it is the deletion",
            code="nothing_to_restore",
            next_step=f"`bulkhead memory history` lists the versions of {path}",
        )
    before = _look_up(server, url, path)
    # Who restores it does not vouch for it.
    origin = {"untrusted": wanted["untrusted"]}
    if before is None:
        made = {"path": path, "content": wanted["content"], **{name: wanted[name] for name in _SETTINGS}, **origin}
        saved = server.post(f"{url}/memories?view=full", made)
    else:
        body = {"content": wanted["content"], "version": before["version"], **origin}
        saved = server.post(f"{url}/memories/{before['id']}?view=full", body)
    server.output.object(saved, ("path", "version", "memory_type", "untrusted"))


@app.command("export")
@connected
def export(server: Server, store: Store, file: Annotated[Path | None, _FILE] = None) -> None:
    """Write everything that a store holds as JSON lines, which `import` reads."""
    found = server.listing(f"{_url(server, store)}/memories", limit=sys.maxsize, view="full")
    with _opened(file) as output:
        for memory in found:
            line = {**memory, "type": memory["memory_type"]}
            kept = {name: line[name] for name in FIELDS}
            kept |= {name: line[name] for name in EXTRAS if line[name]}
            output.write(json.dumps(kept, ensure_ascii=False) + "\n")


@app.command("import")
@connected
def load(server: Server, store: Store, file: Annotated[Path | None, _FILE] = None) -> None:
    """Keep what JSON lines {path, content, type, created_at, supersedes} say. Repeated, nothing changes."""
    url = _url(server, store)
    totals: dict[str, int] = dict.fromkeys(("created", "updated", "unchanged", "redacted"), 0)
    for batch in memory_lines.batches(memory_lines.read(file)):
        done = server.post(f"{url}/import", {"memories": batch})
        for name in totals:
            totals[name] += done[name]
    server.output.object(totals, tuple(totals))


def _url(server: Server, store: str) -> str:
    """Return where a store is; its name will do if it is the only one of that name."""
    if store.startswith("memstore_"):
        return f"/v1/memory_stores/{store}"
    found = [each for each in server.listing("/v1/memory_stores", limit=10_000) if each["name"] == store]
    if len(found) != 1:
        raise Failure(
            f"{len(found) or 'no'} memory stores are named {store!r}",
            code="memory_store_not_found",
            field="store",
            next_step="`bulkhead memory list` shows the stores; give the id",
        )
    return f"/v1/memory_stores/{found[0]['id']}"


def _look_up(server: Server, url: str, path: str) -> Json | None:
    found = server.get(f"{url}/memories", path=path, view="full")["data"]
    return found[0] if found else None


def _memory(server: Server, url: str, path: str) -> Json:
    found = _look_up(server, url, path)
    if found is None:
        raise Failure(
            f"no memory is at {path}",
            code="memory_not_found",
            field="path",
            next_step="`bulkhead memory list` shows what there is, `bulkhead memory history` what there was",
        )
    return found


def _versions(server: Server, url: str, path: str, *, limit: int) -> Iterator[Json]:
    """Yield the versions of what a path holds, wherever it was then, and of what was there before; newest first."""
    memory = _look_up(server, url, path)
    by: list[dict[str, Any]] = [{"path": path}, *([{"memory_id": memory["id"]}] if memory else [])]
    listings = [server.listing(f"{url}/memory_versions", limit=limit, **each) for each in by]
    merged = heapq.merge(*listings, key=lambda version: version["created_at"], reverse=True)
    # What both list stands side by side.
    return islice((next(same) for _, same in groupby(merged, key=lambda version: version["id"])), limit)


def _version(server: Server, url: str, path: str, wanted: str | None) -> Json:
    for version in _versions(server, url, path, limit=sys.maxsize):
        if wanted in (None, str(version["version"]), version["id"]):
            return server.get(f"{url}/memory_versions/{version['id']}")
    raise Failure(
        f"{path} has no version {wanted or 'at all'}",
        code="memory_version_not_found",
        next_step="`bulkhead memory history` lists the versions",
    )


def _given(content: str) -> str:
    return sys.stdin.read() if content == "-" else content


def _written(before: str) -> str:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if editor is None:
        raise Failure("neither EDITOR nor VISUAL is set", code="no_editor", next_step="set one, or give --content")
    with tempfile.NamedTemporaryFile("w+", suffix=".md", encoding="utf-8") as file:
        file.write(before)
        file.flush()
        try:
            subprocess.run([*editor.split(), file.name], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Failure(
                f"the editor {editor!r} failed, so nothing is saved: {error}",
                code="editor_failed",
                next_step="set EDITOR to one that works, or give --content",
            ) from error
        return Path(file.name).read_text(encoding="utf-8")


def _opened(file: Path | None) -> Any:
    if file is None or str(file) == "-":
        return open(sys.stdout.fileno(), "w", encoding="utf-8", closefd=False)
    return file.open("w", encoding="utf-8")
