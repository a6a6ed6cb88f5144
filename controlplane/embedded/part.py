"""One part of the control plane as a process of its own: ``python -m controlplane.embedded.part NAME``."""

import asyncio
import os
import sys
from typing import Literal, NoReturn, get_args

import structlog

from controlplane import logs
from controlplane.errors import BulkheadError
from controlplane.settings import Settings

PartName = Literal["gateway", "egress", "memory", "sandboxes", "brain", "api"]
PART_NAMES: tuple[PartName, ...] = get_args(PartName)

_log = structlog.get_logger(__name__)


def run_part(name: PartName, settings: Settings) -> int:
    """Run a part until a signal ends it, and return the exit status."""
    logs.configure(name, settings.log_format)
    try:
        asyncio.run(_run(name, settings))
    except KeyboardInterrupt:
        return 130
    return 0


async def _run(name: PartName, settings: Settings) -> None:
    from controlplane import main
    from controlplane.health import Health, migrated

    run = {
        "gateway": main.run_gateway,
        "egress": main.run_egress,
        "memory": main.run_memory,
        "sandboxes": main.run_sandboxes,
        "brain": main.run_brain,
        "api": main.run_api,
    }
    try:
        async with Health(settings) as health:
            await migrated(settings.database_url)
            await run[name](settings, health)
    except BulkheadError as error:
        _log.error(
            "part_failed", message=error.message, code=error.code, field=error.field, next_step=error.next_step
        )
        _end()
    except Exception:  # noqa: BLE001 - logged whole, and the process ends
        _log.exception("part_crashed")
        _end()


def _end() -> NoReturn:
    """End at once: what is open in the background (a pool that was not closed) could keep the process for ever."""
    sys.stderr.flush()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(run_part(next(name for name in PART_NAMES if name == sys.argv[1]), Settings()))
