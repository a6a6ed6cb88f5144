"""The one way to Temporal, for every process."""

import asyncio
from dataclasses import dataclass, field

import structlog
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import TLSConfig

from workflows.limits import CONNECT_RETRY_SECONDS

_STEPS = {
    "NotValidForName": "set BULKHEAD_TEMPORAL_SERVER_NAME to the name in Temporal's certificate",
    "InvalidCertificate": "set BULKHEAD_TEMPORAL_SERVER_CA_FILE to the authority that signed Temporal's certificate",
    "InvalidContentType": "Temporal does not speak TLS there: unset BULKHEAD_TEMPORAL_TLS, or name its TLS port",
    "Unauthenticated": "give a BULKHEAD_TEMPORAL_API_KEY that is valid",
    "PermissionDenied": "see that the API key or client certificate may use BULKHEAD_TEMPORAL_NAMESPACE",
}
"""What the SDK's text of a failure has in it → what to do."""
_AFTER_TLS = (
    "Temporal ended the connection: it may demand a client certificate (BULKHEAD_TEMPORAL_CLIENT_CERT_FILE and"
    " BULKHEAD_TEMPORAL_CLIENT_KEY_FILE), another one, or an API key (BULKHEAD_TEMPORAL_API_KEY)"
)
_WITHOUT_TLS = "Temporal ended the connection: it may demand TLS (BULKHEAD_TEMPORAL_TLS=on)"

_ANSWER_SECONDS = 30

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class TemporalServer:
    """Where Temporal is (``host:port``), and what is shown there; ``tls`` None: neither side shows anything."""

    address: str
    namespace: str = "default"
    tls: TLSConfig | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)


async def connect(server: TemporalServer, *, lazy: bool = True) -> Client:
    """Return a client that connects at its first call, or one that has; then raises `RuntimeError` if it cannot."""
    return await Client.connect(
        server.address,
        namespace=server.namespace,
        tls=server.tls or False,
        api_key=server.api_key,
        data_converter=pydantic_data_converter,
        lazy=lazy,
    )


async def connect_patiently(server: TemporalServer) -> Client:
    """Connect to Temporal, waiting until it answers: a worker takes no client that has not connected."""
    while True:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await connect(server, lazy=False)
        except TimeoutError:
            _log.warning("waiting_for_temporal", address=server.address, cause=f"silent for {_ANSWER_SECONDS} s")
        except RuntimeError as error:
            _log.warning(
                "waiting_for_temporal", address=server.address, cause=str(error), next_step=what_to_do(server, error)
            )
        await asyncio.sleep(CONNECT_RETRY_SECONDS)


def what_to_do(server: TemporalServer, error: RuntimeError) -> str:
    """Return what helps most likely against a failed connection; the SDK gives the cause as text alone."""
    cause = str(error)
    for sign, step in _STEPS.items():
        if sign in cause:
            return step
    if "after connection" in cause:
        return _AFTER_TLS if server.tls else _WITHOUT_TLS
    return f"see that a Temporal frontend listens at {server.address}, and that nothing in between refuses it"
