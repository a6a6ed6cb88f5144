"""``bulkhead migrate``."""

import asyncio
import time
from typing import TYPE_CHECKING

import typer

from controlplane.cli.failure import Failure

if TYPE_CHECKING:
    from controlplane.settings import Settings

_WAIT_SECONDS = 120.0  # a database that starts together with everything else
_LOOK_SECONDS = 0.5


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("migrate")(migrate)


def migrate() -> None:
    """Bring the database up to date, and make BULKHEAD_API_KEY, if it is set, the first API key."""
    from controlplane.settings import Settings

    settings = Settings()
    if not settings.database_url:
        raise Failure(
            "`bulkhead migrate` needs a Postgres",
            code="missing_setting",
            field="BULKHEAD_DATABASE_URL",
            next_step="set it to the database that is to be brought up to date",
        )
    for name in _migrate_patiently(settings.database_url):
        typer.echo(name)
    if settings.api_key is not None:
        asyncio.run(_provision(settings, settings.api_key.get_secret_value()))


def _migrate_patiently(url: str) -> list[str]:
    import psycopg

    from controlplane.store.migrate import migrate as apply

    until = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            return apply(url)
        except psycopg.OperationalError as error:
            if time.monotonic() > until:
                raise Failure(
                    f"the database does not answer: {str(error).strip()}",
                    code="database_unavailable",
                    field="BULKHEAD_DATABASE_URL",
                    next_step="check the URL, and that its server runs",
                ) from error
        time.sleep(_LOOK_SECONDS)


async def _provision(settings: "Settings", key: str) -> None:
    from controlplane.embedded.api_key import provision
    from controlplane.errors import ConflictError
    from controlplane.store.pool import Database

    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = Database(settings.database_url, max_connections=1)
    await database.open()
    try:
        await provision(database, settings.data_dir / "api-key", key)
    except ConflictError as error:  # as somebody wanted it; what else there is goes on with other keys
        typer.echo(f"no first key: {error.message}; {error.next_step}", err=True)
    finally:
        await database.close()
