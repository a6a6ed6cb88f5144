"""The root of the commands, and the one place where an error becomes a paragraph and an exit status."""

import contextlib
import os
import sys
import traceback
from pathlib import Path

import typer

from controlplane.cli import (
    agents,
    approvals,
    budgets,
    chat,
    demo,
    deployments,
    doctor,
    egress,
    environments,
    files,
    harness,
    keys,
    live,
    memory,
    migrate,
    prices,
    rules,
    sandbox,
    serve,
    sessions,
    slack,
    vaults,
)
from controlplane.cli.failure import Failure, as_json, explain
from controlplane.errors import BulkheadError

app = typer.Typer(
    name="bulkhead",
    help="A self-hosted agent control plane: durable sessions, a brain that has no hands, hands that hold no keys.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(agents.app, name="agents")
app.add_typer(environments.app, name="environments")
sessions.app.add_typer(egress.app, name="egress")
app.add_typer(sessions.app, name="sessions")
app.add_typer(deployments.app, name="deployments")
app.add_typer(live.app, name="live")
app.add_typer(approvals.app, name="approvals")
app.add_typer(budgets.app, name="budgets")
app.add_typer(prices.app, name="prices")
app.add_typer(rules.app, name="rules")
app.add_typer(files.app, name="files")
app.add_typer(vaults.app, name="vaults")
app.add_typer(memory.app, name="memory")
app.add_typer(keys.app, name="keys")
app.add_typer(slack.app, name="slack")
app.add_typer(sandbox.app, name="sandbox")
app.add_typer(harness.app, name="harness")
chat.register(app)
demo.register(app)
doctor.register(app)
migrate.register(app)
serve.register(app)


def main() -> None:
    """Run the command that the arguments name."""
    try:
        app()
    except Failure as failure:
        _give_up(failure)
    except BulkheadError as error:
        _give_up(Failure(error.message, code=error.code, field=error.field, next_step=error.next_step))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        with contextlib.suppress(OSError):  # what reads our output has gone; nor can the interpreter flush it at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - the last resort: a paragraph for the user, and where to look for us
        _give_up(_unforeseen(error))


def _unforeseen(error: Exception) -> Failure:
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return Failure(
        f"an error that was not foreseen: {type(error).__name__} at {where}: {error}",
        code="internal_error",
        next_step="please report it, with the command",
    )


def _give_up(failure: Failure) -> None:
    # The arguments themselves are asked, for the failure may be that they could not be read.
    wants_json = "--json" in sys.argv[1:]
    sys.stderr.write((as_json(failure) if wants_json else explain(failure, colours=sys.stderr.isatty())) + "\n")
    sys.exit(1)
