"""A connection that hears Postgres's notifications, again and again."""

import asyncio
from collections.abc import Callable, Sequence

import psycopg
import structlog
from psycopg import sql

from controlplane.store import lasting

RECONNECT_SECONDS = 0.5
"""Postgres is back within seconds of a restart; half a second is not felt and does not burden it."""

_log = structlog.stdlib.get_logger(__name__)


async def listen(
    url: str, channels: Sequence[str], heard: Callable[[str, str], None], *, connected: Callable[[], None]
) -> None:
    """Call ``heard`` with channel and payload of each notification until cancelled.

    What is notified while there is no connection is lost: ``connected`` is called whenever there is one again. So it
    is after a notification that ``heard`` has failed at.
    """
    while True:
        try:
            async with await lasting.connect(url) as connection:
                for channel in channels:
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                connected()
                async for notification in connection.notifies():
                    heard(notification.channel, notification.payload)
        except psycopg.Error as error:
            _log.warning("listen_connection_lost", error=type(error).__name__)
        except Exception:  # noqa: BLE001 - who listens no more waits for ever
            _log.warning("listen_failed", exc_info=True)
        await asyncio.sleep(RECONNECT_SECONDS)
