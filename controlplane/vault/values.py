"""What a credential may consist of: the name and value of its secret, and where in a request it may go."""

import re

SHORTEST_SECRET = 8
LONGEST_SECRET_BYTES = 64 * 1024

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_METHOD = re.compile(r"[A-Z]{1,32}")
_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@/-]*")
_PARAMETER = re.compile(r"[A-Za-z0-9._~-]{1,128}")

_NEVER_METHODS = ("CONNECT", "TRACE")
"""The first makes tunnels, the second sends the request back, secret and all."""

_RESERVED = re.compile(
    r"(BULKHEAD|DYLD|LC|LD|NPM_CONFIG)_.*"
    r"|(ALL|FTP|HTTP|HTTPS|NO)_PROXY|NODE_USE_ENV_PROXY"
    r"|APT_CONFIG|CARGO_HTTP_CAINFO|CURL_CA_BUNDLE|GIT_SSL_CAINFO|NODE_EXTRA_CA_CERTS|PIP_CERT|REQUESTS_CA_BUNDLE|SSL_CERT_DIR|SSL_CERT_FILE"
    r"|BASH_ENV|ENV|HOME|HOSTNAME|IFS|LANG|LOGNAME|OLDPWD|PATH|PWD|SHELL|SHLVL|TERM|TMPDIR|TZ|USER"
    r"|NODE_OPTIONS|PERL5LIB|PYTHONHOME|PYTHONPATH|PYTHONSTARTUP|RUBYOPT"
)
"""They steer the sandbox itself, its way out, or the programs in it."""


def check_name(name: str) -> str:
    """Return an environment variable's name that a credential may take; raises `ValueError`."""
    if not _NAME.fullmatch(name):
        raise ValueError("letters, digits and underscores, no digit first, at most 128: as a shell names a variable")
    if _RESERVED.fullmatch(name.upper()):
        raise ValueError(f"{name!r} is reserved for the sandbox; choose another name")
    return name


def check_secret(secret: str) -> None:
    """Refuse a secret that cannot stand in a request, or is too short to be told from other text."""
    if any(ord(character) < 32 or 127 <= ord(character) < 160 for character in secret):
        raise ValueError("it has a line break or another control character in it")
    if secret != secret.strip():
        raise ValueError("it starts or ends with a space, which no header can carry")
    if len(secret.encode()) > LONGEST_SECRET_BYTES:
        raise ValueError(f"it is longer than {LONGEST_SECRET_BYTES} bytes")
    if len(secret) < SHORTEST_SECRET:
        raise ValueError(
            f"it is shorter than {SHORTEST_SECRET} characters: taking every occurrence of it out of the answers"
            " that a sandbox gets would leave little of them"
        )


def canonical_method(method: str) -> str:
    """Return an HTTP method in capitals; raises `ValueError`."""
    upper = method.upper()
    if not _METHOD.fullmatch(upper):
        raise ValueError("an HTTP method is wanted, such as GET")
    if upper in _NEVER_METHODS:
        raise ValueError(f"{upper} never carries a secret")
    return upper


def check_path_prefix(prefix: str) -> str:
    """Return a path prefix that means one thing to every server; raises `ValueError`."""
    if not _PATH.fullmatch(prefix):
        raise ValueError("a path prefix starts with '/' and has no query, no escape and no space in it")
    segments = prefix.split("/")[1:]
    if "." in segments or ".." in segments or "" in segments[:-1]:
        raise ValueError("a path prefix has no empty segment, no '.' and no '..' in it")
    return prefix


def check_parameter(name: str) -> str:
    """Return a query parameter's name; raises `ValueError`."""
    if not _PARAMETER.fullmatch(name):
        raise ValueError("a query parameter's name has letters, digits and . _ ~ - in it, at most 128")
    return name
