"""Connections that a process keeps for as long as it lives, for a lock or to hear of things."""

from psycopg.conninfo import conninfo_to_dict, make_conninfo

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
_SERVERS = (
    f"-c tcp_keepalives_idle={_IDLE_SECONDS} -c tcp_keepalives_interval={_PROBE_SECONDS}"
    f" -c tcp_keepalives_count={_PROBES} -c tcp_user_timeout={GONE_SECONDS * 1000}"
)


def lasting(url: str) -> str:
    """Return how to connect so that both sides notice within `GONE_SECONDS` that the other one is gone.

    https://www.postgresql.org/docs/current/runtime-config-connection.html#GUC-TCP-KEEPALIVES-IDLE, and libpq's own.
    """
    options = conninfo_to_dict(url).get("options")
    return make_conninfo(url, **_OURS, options=f"{options} {_SERVERS}" if options else _SERVERS)
