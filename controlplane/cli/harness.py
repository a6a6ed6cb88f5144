"""``bulkhead harness``."""

from typing import Annotated, get_args

import typer

from controlplane.cli.failure import Failure
from controlplane.cli.output import Output
from controlplane.cli.server import JsonOption

app = typer.Typer(help="The programs that run agents' loops, beside the builtin one.", no_args_is_help=True)


@app.command("list")
def list_harnesses(as_json: JsonOption = False) -> None:
    """Say which harnesses can run here, at which version, and where their programs are."""
    from controlplane.settings import Settings
    from harness_adapters.installation import PINS, installed

    programs = Settings().harness_programs
    rows = [{"name": "builtin", "version": "-", "installed": True, "folder": None}]
    for name, pin in PINS.items():
        folder = installed(name, programs)
        rows.append(
            {"name": name, "version": pin.version, "installed": folder is not None, "folder": str(folder or "-")}
        )
    Output(as_json=as_json).table(rows, ("name", "version", "installed", "folder"))


@app.command("install")
def install_harness(
    name: Annotated[str, typer.Argument(help="opencode, claude-agent-sdk or codex.")], as_json: JsonOption = False
) -> None:
    """Fetch a harness's program at the version that was tried, check it, and put it beside Bulkhead's own Python."""
    from controlplane.settings import Settings
    from harness_adapters.contract import HarnessName
    from harness_adapters.installation import PINS, InstallationError, install, installed

    known: HarnessName | None = next((each for each in get_args(HarnessName) if each == name and each in PINS), None)
    if known is None:
        raise Failure(
            f"{name!r} is no harness with a program of its own",
            code="unknown_harness",
            field="name",
            next_step=f"name one of {', '.join(PINS)}",
        )
    programs = Settings().harness_programs
    folder = installed(known, programs)
    if folder is None:
        pin = PINS[known]
        typer.echo(f"fetching {known} {pin.version} from {pin.registry} (60 to 170 MB) …", err=True)
        try:
            folder = install(known, programs)
        except InstallationError as error:
            raise Failure(str(error), code="harness_not_installed", next_step="see what the message names") from error
    output = Output(as_json=as_json)
    if as_json:
        output.json({"name": known, "version": PINS[known].version, "folder": str(folder)})
    else:
        output.line(
            f"{known} {PINS[known].version} is in {folder}; a running Bulkhead finds it when it is started again"
        )
