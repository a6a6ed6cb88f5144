"""``bulkhead sandbox``."""

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controlplane.cli.failure import Failure
from controlplane.cli.output import Output
from controlplane.cli.server import JsonOption

if TYPE_CHECKING:
    from controlplane.sandboxes import Cleared
    from controlplane.settings import Settings

_CONNECTIONS = 4
_WAIT_SECONDS = 5.0
_KEEP_SECONDS, _END_SECONDS = 180.0, 100.0  # together less than `helm uninstall` waits

app = typer.Typer(help="What sandboxes are made of.", no_args_is_help=True)


@app.command("image")
def image(
    mirror: Annotated[
        str | None, typer.Option("--mirror", help="Debian mirror; this host's own if not given.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Build the default container image without a registry, and hand it to Docker."""
    from sandbox.contract import SandboxError
    from sandbox.docker import DEFAULT_IMAGE
    from sandbox.image import build_default_image

    try:
        asyncio.run(build_default_image(partial(typer.echo, err=as_json), mirror=mirror))
    except SandboxError as error:
        raise Failure(str(error), code=error.code, next_step="see what `bulkhead doctor` says of docker") from error
    if as_json:
        Output(as_json=True).json({"image": DEFAULT_IMAGE})


@app.command("runtime")
def runtime(
    into: Annotated[Path, typer.Option("--into", help="A folder that is not there yet; /.bulkhead in an image.")],
) -> None:
    """Put what every sandbox begins with into an image that is being made."""
    from sandbox.runtime import install

    try:
        install(into)
    except OSError as error:
        raise Failure(
            f"the runtime cannot be put into {into}: {error}",
            code="runtime_not_installed",
            field="--into",
            next_step="name a folder that is not there yet, in one that may be written",
        ) from error


@app.command("clear")
def clear() -> None:
    """Keep the files of all sandboxes of this installation and end them; its workers begin none meanwhile."""
    from controlplane.settings import Settings

    settings = Settings()
    if not settings.database_url:
        raise Failure(
            "`bulkhead sandbox clear` needs the installation's Postgres",
            code="missing_setting",
            field="BULKHEAD_DATABASE_URL",
            next_step="set it, or stop `bulkhead up`, which ends its sandboxes itself",
        )
    cleared = asyncio.run(_clear(settings))
    typer.echo(f"{cleared.kept} kept, {cleared.ended} more ended")
    # With `auto` a provider that does not answer is one that this host has not.
    if cleared.left and settings.sandbox != "auto":
        raise Failure(
            "sandboxes may be left: " + "; ".join(f"{name}: {reason}" for name, reason in cleared.left.items()),
            code="sandboxes_left",
            next_step="run it again once that is mended; until then leave what shuts them in as it is",
        )


async def _clear(settings: "Settings") -> "Cleared":
    from controlplane.sandboxes import Sandboxes
    from controlplane.store.pool import Database

    database = Database(settings.database_url, max_connections=_CONNECTIONS, wait_seconds=_WAIT_SECONDS)
    await database.open()
    sandboxes = Sandboxes(settings, database)
    try:
        return await sandboxes.clear(keep_seconds=_KEEP_SECONDS, end_seconds=_END_SECONDS)
    finally:
        await sandboxes.keeper.close()
        await database.close()
