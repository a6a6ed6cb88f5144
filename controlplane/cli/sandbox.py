"""``bulkhead sandbox``."""

import asyncio
from typing import Annotated

import typer

from controlplane.cli.failure import Failure

app = typer.Typer(help="What sandboxes are made of.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Make typer keep ``image`` a command of this group, though it is the only one."""


@app.command("image")
def image(
    mirror: Annotated[
        str | None, typer.Option("--mirror", help="Debian mirror; this host's own if not given.")
    ] = None,
) -> None:
    """Build the default container image without a registry, and hand it to Docker."""
    from sandbox.contract import SandboxError
    from sandbox.image import build_default_image

    try:
        asyncio.run(build_default_image(typer.echo, mirror=mirror))
    except SandboxError as error:
        raise Failure(str(error), code=error.code, next_step="see what `bulkhead doctor` says of docker") from error
