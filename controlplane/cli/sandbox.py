"""``bulkhead sandbox``."""

import asyncio
from functools import partial
from typing import Annotated

import typer

from controlplane.cli.failure import Failure
from controlplane.cli.output import Output
from controlplane.cli.server import JsonOption

app = typer.Typer(help="What sandboxes are made of.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Make typer keep ``image`` a command of this group, though it is the only one."""


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
