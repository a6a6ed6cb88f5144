"""``bulkhead up``, and each part by itself."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from controlplane.cli.failure import Failure

if TYPE_CHECKING:
    from controlplane.embedded.part import PartName
    from controlplane.settings import Settings

Host = Annotated[str | None, typer.Option("--host", help="Address to listen on; 127.0.0.1 if not given.")]
Port = Annotated[int | None, typer.Option("--port", min=0, max=65535, help="8400 if not given; 0: any free one.")]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", readable=False, help="Where everything is kept; .bulkhead if not given.")
]
Sandbox = Annotated[
    Literal["auto", "docker", "namespace", "kubernetes"] | None,
    typer.Option("--sandbox", help="What isolates the sandboxes."),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("up")(up)
    app.command("api")(api)
    app.command("gateway")(gateway)
    app.command("brain")(brain)
    app.command("sandboxes")(sandboxes)
    app.command("egress")(egress)
    app.command("memory-worker")(memory_worker)


def up(data_dir: DataDir = None, host: Host = None, port: Port = None, sandbox: Sandbox = None) -> None:
    """Run the whole control plane on this machine, until Ctrl-C."""
    from controlplane import logs
    from controlplane.embedded.up import Up

    settings = _settings(data_dir=data_dir, host=host, port=port, sandbox=sandbox)
    logs.configure("up", settings.log_format)
    asyncio.run(Up(settings, _announce).run())


def api(host: Host = None, port: Port = None) -> None:
    """Run the REST API."""
    _run("api", host=host, port=port)


def gateway() -> None:
    """Run the model gateway, the only part that sees provider keys."""
    _run("gateway")


def brain() -> None:
    """Run a brain worker."""
    _run("brain")


def sandboxes(sandbox: Sandbox = None) -> None:
    """Run the sandbox worker of this host."""
    _run("sandboxes", sandbox=sandbox)


def egress() -> None:
    """Run the proxy that is the only way out of this host's sandboxes."""
    _run("egress")


def memory_worker() -> None:
    """Run the part that takes secrets out of memories, embeds them, and runs the memory tools."""
    _run("memory")


def _run(name: "PartName", **options: Any) -> None:
    from controlplane.embedded.part import run_part

    settings = _settings(**options)
    if not settings.database_url:
        raise Failure(
            f"`bulkhead {name}` needs a Postgres",
            code="missing_setting",
            field="BULKHEAD_DATABASE_URL",
            next_step="set it, or run everything on this machine with `bulkhead up`",
        )
    sys.exit(run_part(name, settings))


def _settings(**options: Any) -> "Settings":
    from controlplane.settings import Settings

    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValueError as error:
        raise Failure(f"a setting is wrong: {error}", code="bad_configuration") from error


def _announce(url: str, key_file: Path) -> None:
    sys.stdout.write(f"\nBulkhead is ready: {url} (reference: {url}/docs)\nAPI key: {key_file}\n\n")
    sys.stdout.flush()
