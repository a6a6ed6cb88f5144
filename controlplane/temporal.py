"""Temporal, as the settings describe it."""

import ssl
from datetime import timedelta
from pathlib import Path

from pydantic import SecretStr
from temporalio.client import Client
from temporalio.service import RPCError, TLSConfig

from controlplane.errors import InvalidRequestError
from controlplane.health import LOOK_SECONDS, Health
from controlplane.settings import Settings
from workflows.connection import TemporalServer, connect_patiently

_NEEDING_TLS = (
    "temporal_api_key",
    "temporal_client_cert_file",
    "temporal_client_key_file",
    "temporal_server_ca_file",
    "temporal_server_name",
)


async def connected(settings: Settings, health: Health) -> Client:
    """Wait until Temporal answers; the part counts as ready only while it does."""
    client = await connect_patiently(temporal_server(settings))

    async def look() -> str | None:
        try:
            healthy = await client.service_client.check_health(timeout=timedelta(seconds=LOOK_SECONDS))
        except RPCError as error:
            return f"does not answer: {str(error).strip()}"
        return None if healthy else "is not serving"

    health.watch("temporal", look)
    return client


def temporal_server(settings: Settings) -> TemporalServer:
    """Return where Temporal is and what is shown there; raises `InvalidRequestError` that names the variable."""
    if not settings.temporal_tls:
        for name in _NEEDING_TLS:
            if getattr(settings, name):
                raise _bad(name, "of no use without TLS", "set BULKHEAD_TEMPORAL_TLS=on, or unset it")
        return TemporalServer(settings.temporal_address, settings.temporal_namespace)
    tls = TLSConfig(
        server_root_ca_cert=_authorities(settings.temporal_server_ca_file),
        domain=settings.temporal_server_name or None,
    )
    tls.client_cert, tls.client_private_key = _client_certificate(
        settings.temporal_client_cert_file, settings.temporal_client_key_file
    )
    return TemporalServer(
        settings.temporal_address, settings.temporal_namespace, tls, _api_key(settings.temporal_api_key)
    )


def _api_key(key: SecretStr | None) -> str | None:
    said = key.get_secret_value().strip() if key else ""
    if not all("!" <= each <= "~" for each in said):
        raise _bad("temporal_api_key", "has characters that no API key has", "copy the key again")
    return said or None


def _authorities(path: Path | None) -> bytes | None:
    if path is None:
        return None
    content = _read("temporal_server_ca_file", path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.decode())
    except (ssl.SSLError, ValueError) as error:
        raise _bad("temporal_server_ca_file", f"{path}: {error}", "name a file of certificates in PEM") from error
    return content


def _client_certificate(certificate: Path | None, key: Path | None) -> tuple[bytes | None, bytes | None]:
    if certificate is None or key is None:
        for name, path, other in (
            ("temporal_client_cert_file", certificate, "KEY"),
            ("temporal_client_key_file", key, "CERT"),
        ):
            if path is not None:
                raise _bad(name, "given alone", f"set BULKHEAD_TEMPORAL_CLIENT_{other}_FILE as well")
        return None, None
    content = _read("temporal_client_cert_file", certificate), _read("temporal_client_key_file", key)
    try:
        # Without a password the ssl module would ask the terminal for one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise _bad(
            "temporal_client_cert_file",
            f"{certificate} and {key} are no pair of a certificate and its unencrypted key: {error}",
            "name a certificate in PEM, and the key that belongs to it",
        ) from error
    return content


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _bad(name, f"{path}: {error.strerror}", "name a file that this process may read") from error


def _bad(name: str, problem: str, next_step: str) -> InvalidRequestError:
    variable = f"BULKHEAD_{name.upper()}"
    return InvalidRequestError(
        f"{variable}: {problem}", code="bad_configuration", field=variable, next_step=next_step
    )
