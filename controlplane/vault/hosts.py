"""Host names that a credential may be bound to, in the form that the egress proxy compares with."""

from functools import cache

from publicsuffixlist import PublicSuffixList

from sandbox.egress.destination import canonical_host

_NOT_IN_NAMES = {"/": "a path", ":": "a port or a scheme", "@": "a user name", "?": "a query", "#": "a fragment"}

_SHARED_DOMAINS = frozenset(["blogspot.de", "glitch.me", "nip.io", "railway.app", "sslip.io", "webhook.site"])
"""Domains in which anybody gets a name within a minute, and which are not in the list of public suffixes."""

_BY_SERVICE = frozenset(["amazonaws.com", "on.aws", "windows.net"])
"""Those where it is a name under a service's own, such as ``bucket.s3.amazonaws.com``: no wildcard at any depth."""


def bound_host(written: str) -> str:
    """Return a host in the proxy's canonical form, ``*.`` kept in front.

    Raises `ValueError` that says what is wrong with it.
    """
    for character, what in _NOT_IN_NAMES.items():
        if character in written:
            raise ValueError(f"a bare host name is wanted, and this has {what} in it ({character!r})")
    wildcard = written.startswith("*.")
    name = written[2:] if wildcard else written
    if "*" in name:
        raise ValueError("a wildcard stands once, in front, for one label: '*.example.com'")
    if name.endswith("."):
        raise ValueError("write the name without the trailing dot")
    name = canonical_host(name)
    if _is_address(name):
        raise ValueError("an address is no host name: a secret is bound to what a certificate names")
    labels = name.split(".")
    if len(labels) < 2:
        raise ValueError("a full name is wanted: what a name without a dot means depends on who resolves it")
    if wildcard and _is_public(labels):
        raise ValueError(f"anybody can get a name under {name!r}; bind the secret to exact names")
    return f"*.{name}" if wildcard else name


def _is_address(name: str) -> bool:
    return name.rpartition(".")[2].isdigit()


def _is_public(labels: list[str]) -> bool:
    name = ".".join(labels)
    if name in _SHARED_DOMAINS or ".".join(labels[-2:]) in _BY_SERVICE:
        return True
    return _public_suffixes().publicsuffix(name) == name


@cache
def _public_suffixes() -> PublicSuffixList:
    return PublicSuffixList(accept_unknown=False)
