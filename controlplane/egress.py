"""The egress proxy of this host as the settings describe it, and where it is found."""

import os
import ssl
from pathlib import Path
from typing import Literal

from controlplane.errors import InvalidRequestError
from controlplane.settings import Settings
from sandbox.egress import AddressRules, EgressSettings, parse_address, parse_cidrs, parse_hosts

_LONGEST_PATH = 107
"""Of a Unix socket, in bytes (unix(7))."""


def egress_settings(settings: Settings) -> EgressSettings:
    """Return the proxy's settings; raises `InvalidRequestError` that names the variable."""
    try:
        hosts = parse_hosts(settings.egress_hosts)
    except ValueError as error:
        raise _bad("HOSTS", error, "write name=address:port, several separated by commas") from error
    try:
        cidrs = parse_cidrs(settings.egress_allow_cidrs)
    except ValueError as error:
        raise _bad("ALLOW_CIDRS", error, "write ranges such as 10.1.0.0/16, separated by commas") from error
    if settings.egress_ca_file is not None:
        try:
            ssl.create_default_context(cafile=str(settings.egress_ca_file))
        except OSError as error:
            reason = f"{settings.egress_ca_file}: {error.strerror or error}"
            raise _bad("CA_FILE", reason, "name a file of certificates in PEM format") from error
    return EgressSettings(ca_file=settings.egress_ca_file, addresses=AddressRules(allow_cidrs=cidrs, hosts=hosts))


def gate_address(
    settings: Settings, name: Literal["egress_gate_listen", "kubernetes_gate", "kubernetes_gate_listen"]
) -> tuple[str, int] | None:
    """Return the address in a setting, None if it is not set; raises `InvalidRequestError` that names it."""
    text: str = getattr(settings, name)
    if not text:
        return None
    try:
        return parse_address(text)
    except ValueError as error:
        raise InvalidRequestError(
            f"BULKHEAD_{name.upper()}: {error}",
            code="bad_configuration",
            field=f"BULKHEAD_{name.upper()}",
            next_step="write host:port, or [address]:port for IPv6",
        ) from error


def ears_path(settings: Settings) -> Path:
    """Return where the proxy takes ears; too long a path is reached through a descriptor that this process keeps."""
    path = settings.egress_socket.absolute()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        return path
    return Path(f"/proc/self/fd/{os.open(path.parent, os.O_PATH | os.O_DIRECTORY)}") / path.name


def _bad(name: str, reason: object, next_step: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"BULKHEAD_EGRESS_{name}: {reason}",
        code="bad_configuration",
        field=f"BULKHEAD_EGRESS_{name}",
        next_step=next_step,
    )
