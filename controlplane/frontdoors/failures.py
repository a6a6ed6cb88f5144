"""What fails for a while, and what fails for ever."""

import httpx
import psycopg

MOST_FAILURES = 8
"""Of one thing that somebody did, that a session did, or that we say, in some two minutes; what fails as often fails
for ever, and is left so that what comes after it has its turn."""


class NotToldError(Exception):
    """What a session did could not be told: it is counted, and tried again."""


PASSES = (psycopg.OperationalError, psycopg.InterfaceError, httpx.TransportError)
"""What fails because Postgres or the API is away says nothing about what was to be done."""
