"""What lets ordinary programs use a sandbox's way out without set-up: variables for each command, and a few files."""

import ssl
from collections.abc import Mapping
from pathlib import Path

import certifi

from sandbox.storage import OUTFIT
from sandbox.supervisor.ear import ADDRESS

_PROXY = "http://{}:{}".format(*ADDRESS)
_BUNDLE = f"{OUTFIT}/roots.pem"
_OWN_ROOTS = f"{OUTFIT}/own-roots.pem"
_APT = f"{OUTFIT}/apt.conf"
_FETCH = f"{OUTFIT}/fetch.cjs"
_DIRECT = "localhost,127.0.0.1,::1"
_PROXIED = {
    name: _PROXY
    for upper in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    for name in (upper, upper.lower())
}  # fmt: skip
_TRUSTING = dict.fromkeys(
    (
        "SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT", "NPM_CONFIG_CAFILE",
        "CARGO_HTTP_CAINFO",
    ),
    _BUNDLE,
)  # fmt: skip
_VARIABLES = {
    **_PROXIED,
    **_TRUSTING,
    "NO_PROXY": _DIRECT,
    "no_proxy": _DIRECT,
    "APT_CONFIG": _APT,
    "NODE_EXTRA_CA_CERTS": _OWN_ROOTS,
    "NODE_USE_ENV_PROXY": "1",
    # Node before 22.21 does not know the variable above; its fetch is taught the same by this file.
    "NODE_OPTIONS": f"--require={_FETCH}",
}
_APT_SETTINGS = f"""\
Acquire::http::Proxy "{_PROXY}";
Acquire::https::Proxy "{_PROXY}";
Acquire::https::CaInfo "{_BUNDLE}";
"""


def variables(stubs: Mapping[str, str]) -> dict[str, str]:
    """Return what a command finds in its environment: the way out, and each credential's stub under its name."""
    return {**stubs, **_VARIABLES}


def common_files() -> dict[str, bytes]:
    """Return path → content of what is the same in every sandbox, and may be there before it has a session."""
    return {_APT: _APT_SETTINGS.encode(), _FETCH: Path(__file__).with_name("fetch.cjs").read_bytes()}


def own_files(authority: str, *, ca_file: Path | None) -> dict[str, bytes]:
    """Return path → content of what has to be in a session's sandbox before its first command.

    ``authority`` is the certificate (PEM) of the session's own authority, ``ca_file`` further roots. Programs take
    their roots from one file, so that the public ones are in it too.
    """
    own = authority.encode() + (b"\n" + ca_file.read_bytes() if ca_file else b"")
    return {_BUNDLE: _public_roots() + b"\n" + own, _OWN_ROOTS: own}


def _public_roots() -> bytes:
    """This machine's roots, which its administrator looks after; where it has none, those that certifi carries."""
    found = ssl.get_default_verify_paths().cafile
    return Path(found or certifi.where()).read_bytes()
