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
    from controlplane.settings import Settings

app = typer.Typer(help="What sandboxes are made of, and an end to all of them.", no_args_is_help=True)


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
    """Put what every sandbox that is a pod begins with into an image that is being made."""
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
def clear(as_json: JsonOption = False) -> None:
    """End every sandbox of this installation, with what is in it; the settings say which installation."""
    from controlplane.settings import Settings
    from sandbox.contract import SandboxError

    try:
        ended = asyncio.run(_clear(Settings()))
    except SandboxError as error:
        raise Failure(
            str(error), code=error.code, next_step="run it where the sandbox worker runs, with its settings"
        ) from error
    if as_json:
        Output(as_json=True).json({"ended": ended})
    else:
        typer.echo(f"sandboxes ended: {len(ended)}")


async def _clear(settings: "Settings") -> list[str]:
    from controlplane.sandboxes import providers

    ended: list[str] = []
    for provider in providers(settings).values():
        try:
            found = await provider.list_ids()
            await asyncio.gather(*(provider.destroy(sandbox_id) for sandbox_id in found))
            ended += found
        finally:
            await provider.close()
    return ended
