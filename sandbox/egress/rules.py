"""What a sandbox may do: a pure decision with a stable reason and a sentence for the model."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from sandbox.egress.contract import Binding, GrantedCredential, SandboxPolicy, Verdict
from sandbox.egress.destination import DEFAULT_PORTS, Destination, DestinationError, canonical_host

Mode = Literal["intercept", "tunnel", "plain"]
"""Decrypted because a credential is bound to the host; passed on unread; or ``http://`` without encryption."""


class RefusedError(Exception):
    """What goes no further: the reason code, the sentence for the model, the status of the answer."""

    verdict: Verdict = "denied"

    def __init__(self, reason: str, message: str, *, status: int = 403, credential: str | None = None):
        super().__init__(reason)
        self.reason = reason
        self.message = message
        self.status = status
        self.credential = credential


class CutError(RefusedError):
    """Allowed and begun, and ended by the proxy."""

    verdict = "cut"


class FailedError(RefusedError):
    """Allowed, but it did not come about: the upstream is away, or not who it should be."""

    verdict = "failed"

    def __init__(self, reason: str, message: str, *, status: int = 502):
        super().__init__(reason, message, status=status)


@dataclass(frozen=True)
class Ruling:
    """A destination that is allowed: how it is handled, and the credentials that are bound to it."""

    mode: Mode
    bound: tuple[GrantedCredential, ...] = ()


def judge_destination(policy: SandboxPolicy, destination: Destination) -> Ruling:
    """Decide about a host and port; raises `RefusedError`."""
    host = destination.host
    if policy.networking == "none":
        raise RefusedError("networking_off", f"This session has no network access, so host {host} cannot be reached.")
    if policy.networking == "limited" and not is_listed(host, policy.allowed_hosts):
        raise RefusedError(
            "host_not_allowed",
            f"Host {host} is not on this environment's list of allowed hosts. "
            "Go on without it, or ask for it to be added to the environment.",
        )
    bound = tuple(each for each in policy.credentials if _is_bound(each.binding, host))
    if bound and destination.scheme == "http":
        raise RefusedError(
            "plain_http_to_bound_host",
            f"A credential is bound to host {host}, so it can be reached only with https://.",
        )
    if destination.port != DEFAULT_PORTS[destination.scheme]:
        raise RefusedError(
            "port_not_allowed",
            f"Port {destination.port} of host {host} cannot be reached: only https on 443 and http on 80 can.",
        )
    if bound:
        return Ruling("intercept", bound)
    return Ruling("tunnel" if destination.scheme == "https" else "plain")


def check_method(method: str) -> None:
    """Refuse methods that echo a request back or leave HTTP; raises `RefusedError`."""
    if method.upper() in {"TRACE", "TRACK", "CONNECT"}:
        raise RefusedError("method_not_allowed", f"The method {method} is not passed on.", status=405)


def check_use(credential: GrantedCredential, destination: Destination, *, method: str, target: str) -> None:
    """Decide whether a credential may be used for a request; raises `RefusedError`."""
    binding, name = credential.binding, credential.name
    if credential.is_withdrawn:
        raise credential_revoked(credential)
    if not _is_bound(binding, destination.host):
        raise RefusedError(
            "credential_not_bound",
            f"The credential {name} is not bound to host {destination.host}, so it cannot be sent there.",
            credential=name,
        )
    if binding.methods is not None and method not in {each.upper() for each in binding.methods}:
        raise RefusedError(
            "method_not_bound", f"The credential {name} may not be used with the method {method}.", credential=name
        )
    if binding.path_prefixes is not None and not _path_matches(target, binding.path_prefixes):
        raise RefusedError("path_not_bound", f"The credential {name} may not be used for this path.", credential=name)


def credential_revoked(credential: GrantedCredential) -> RefusedError:
    """What is said of a credential that was archived, deleted or taken from the session."""
    return RefusedError(
        "credential_revoked",
        f"The credential {credential.name} may not be used any more.",
        credential=credential.name,
    )


def check_path(target: str, bound: Iterable[GrantedCredential]) -> None:
    """Refuse a path that a server might read in another way than a path rule does; raises `RefusedError`."""
    path = target.partition("?")[0]
    ruled = any(each.binding.path_prefixes is not None for each in bound)
    if ruled and (_AMBIGUOUS.search(path) or any(part.split(";")[0] in {".", ".."} for part in path.split("/"))):
        raise RefusedError(
            "ambiguous_path",
            "The path holds dot segments, encoded dots or slashes, which path rules cannot judge; write it plainly.",
            status=400,
        )


_AMBIGUOUS = re.compile(r"%(?:25)*(?:2e|2f|5c|00)|\\", re.IGNORECASE)


def _path_matches(target: str, prefixes: Iterable[str]) -> bool:
    path = target.partition("?")[0]
    return any(path == each or path.startswith(each if each.endswith("/") else each + "/") for each in prefixes)


def is_listed(host: str, patterns: Iterable[str]) -> bool:
    """Say whether a host is one that the patterns of a limited network name."""
    return any(_matches(host, pattern, "any_depth") for pattern in patterns)


def _is_bound(binding: Binding, host: str) -> bool:
    return any(_matches(host, pattern, "one_label") for pattern in binding.hosts)


def _matches(host: str, pattern: str, wildcard: Literal["any_depth", "one_label"]) -> bool:
    name, wild = _canonical_pattern(pattern)
    if not wild:
        return bool(name) and host == name
    if not name or not host.endswith("." + name):
        return False
    return wildcard == "any_depth" or "." not in host[: -len(name) - 1]


@lru_cache(maxsize=4096)
def _canonical_pattern(pattern: str) -> tuple[str, bool]:
    wild = pattern.startswith("*.")
    try:
        name = canonical_host(pattern.removeprefix("*."))
    except DestinationError:
        return "", wild
    # ``*.com`` or a wildcard before an address is a mistake of whoever wrote it, and matches nothing.
    return ("" if wild and ("." not in name or _is_number(name)) else name), wild


def _is_number(name: str) -> bool:
    return ":" in name or name.rpartition(".")[2].isdigit()
