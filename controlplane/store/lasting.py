"""Connections that a process keeps for as long as it lives, for a lock or to hear of things."""

import contextlib
from typing import LiteralString

from psycopg import AsyncConnection, ProgrammingError
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

from controlplane.errors import InvalidRequestError

_IDLE_SECONDS = 5
_PROBE_SECONDS = 2
_PROBES = 3

GONE_SECONDS = _IDLE_SECONDS + _PROBE_SECONDS * _PROBES
"""After as long a silence each side takes the other for dead. Left to itself the kernel waits two hours, and so long
Postgres would hold the lock of a machine that lost its power."""

_OURS = {
    "keepalives": 1,
    "keepalives_idle": _IDLE_SECONDS,
    "keepalives_interval": _PROBE_SECONDS,
    "keepalives_count": _PROBES,
    "tcp_user_timeout": GONE_SECONDS * 1000,
}
HEED: LiteralString = (
    "SELECT set_config('tcp_keepalives_idle', %(idle)s, false),"
    " set_config('tcp_keepalives_interval', %(probe)s, false), set_config('tcp_keepalives_count', %(probes)s, false),"
    " set_config('tcp_user_timeout', %(gone)s, false)"
)
TIMES = {
    "idle": f"{_IDLE_SECONDS}s",
    "probe": f"{_PROBE_SECONDS}s",
    "probes": str(_PROBES),
    "gone": f"{GONE_SECONDS}s",
}
"""With `TIMES`, has the server look after a connection as we do. It is said there: poolers refuse to pass options on.

https://www.postgresql.org/docs/current/runtime-config-connection.html#GUC-TCP-KEEPALIVES-IDLE, and libpq's own.
"""


def lasting(url: str) -> str:
    """Return how to connect so that this side notices within `GONE_SECONDS` that the other one is gone.

    Raises `InvalidRequestError`, which repeats nothing of a URL that cannot be read: libpq would take a part of its
    password for the host, and say so in every log.
    """
    address = url.partition("://")[2].partition("?")[0]
    made = ""
    if address.count("@") < 2 and "@" not in address.partition("/")[2]:
        with contextlib.suppress(ProgrammingError):
            made = make_conninfo(url, **_OURS)
    if not made:
        raise InvalidRequestError(
            "BULKHEAD_DATABASE_URL cannot be read",
            code="bad_database_url",
            field="BULKHEAD_DATABASE_URL",
            next_step="write postgresql://USER:PASSWORD@HOST/NAME; percent-encode what is special in the password:"
            " @ is %40, / is %2F, % is %25",
        )
    return made


async def connect(url: str) -> AsyncConnection[TupleRow]:
    """Return a connection of which both sides notice within `GONE_SECONDS` that the other one is gone."""
    connection = await AsyncConnection.connect(lasting(url), autocommit=True)
    await connection.execute(HEED, TIMES)
    return connection
