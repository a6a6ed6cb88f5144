"""Stubs in requests: found wherever they are, swapped where the binding says, refused anywhere else."""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote

from sandbox.egress.contract import GrantedCredential
from sandbox.egress.heads import Headers
from sandbox.egress.rules import RefusedError

_STUB = re.compile(rb"bhstub_[0-9A-Za-z]{22,}")
_STUB_TEXT = re.compile(r"bhstub_[0-9A-Za-z]+")
_BEGUN = re.compile(rb"b(?:h(?:s(?:t(?:u(?:b(?:_[0-9A-Za-z]{0,21})?)?)?)?)?)?\Z")
_LONGEST_BEGUN = len("bhstub_") + 21
_CREDENTIAL_HEADER = re.compile(
    rb"(?:.*[-_])?(?:authorization|auth|(?:api|access|auth|private|secret)?-?_?(?:tokens?|keys?)|secrets?|password|"
    rb"credentials?|session|sessionid|signature|jwt|cookie2?)\Z",
    re.IGNORECASE,
)
_NO_CREDENTIAL = frozenset(
    {b"sec-websocket-key", b"idempotency-key", b"x-idempotency-key", b"x-amz-security-token-expires"}
)
_CREDENTIAL_PARAMETER = re.compile(
    rb"(?:access_?token|private_?token|auth_?token|oauth_?token|id_?token|token|auth|authorization|api_?key|"
    rb"access_?key|key|secret|client_secret|password|passwd|pwd|jwt|sig|signature|x-amz-signature|"
    rb"x-amz-security-token|x-goog-signature)\Z",
    re.IGNORECASE,
)
_WHOLE = re.compile(rb'(?:[A-Za-z][A-Za-z-]* +)?(?:[A-Za-z_]+=)?"?(bhstub_[0-9A-Za-z]{22,})"?\Z')
_BASIC_BEGINS = (b"b", b"B")
_NO_PASSWORD = frozenset({b"", b"x", b"x-oauth-basic"})


class Secret(NamedTuple):
    """A granted credential with its secret, for the length of one request."""

    credential: GrantedCredential
    value: bytes


def mentioned(headers: Headers, target: bytes) -> set[bytes]:
    """Return every stub in a request's head, also inside Basic."""
    parts = [target]
    for header in headers:
        parts += header
        if header[1][:1] in _BASIC_BEGINS and (basic := _basic(header[1])):
            parts.append(basic)
    return set(_STUB.findall(b"\n".join(parts)))


def mentioned_in(body: bytes) -> set[bytes]:
    """Return every stub in a whole body."""
    return set(_STUB.findall(body))


def swap_headers(headers: Headers, secrets: Mapping[bytes, Secret]) -> Headers:
    """Put secrets in place of stubs in headers for credentials; raises `RefusedError` for one that is not ours."""
    return [(name, _swap_header(name, value, secrets)) for name, value in headers]


def swap_target(target: bytes, secrets: Mapping[bytes, Secret]) -> bytes:
    """Put secrets in place of stubs in the query parameter that a binding names; raises `RefusedError` as above."""
    path, mark, query = target.partition(b"?")
    return path + mark + b"&".join(_swap_parameter(each, secrets) for each in query.split(b"&"))


def swap_body(body: bytes, content_type: bytes, secrets: Mapping[bytes, Secret]) -> bytes:
    """Put secrets in place of stubs in a whole body, escaped as its type wants it, where bindings allow the body."""

    def swapped(match: re.Match[bytes]) -> bytes:
        secret = secrets.get(match[0])
        return _escaped(secret.value, content_type) if secret and secret.credential.binding.body else match[0]

    return _STUB.sub(swapped, body)


def refuse_left(headers: Headers, target: bytes) -> None:
    """Raise `RefusedError` if any stub is left after the rewrite."""
    if mentioned(headers, target):
        raise misplaced()


def misplaced() -> RefusedError:
    """What is said of a stub in a place where it is not swapped."""
    return RefusedError(
        "stub_misplaced",
        "A credential's placeholder stands where it is not replaced. Send it in the header that the host expects, "
        "such as Authorization, and nowhere else.",
    )


def masked(text: str) -> str:
    """Return a text for the audit, with stubs made unrecognisable."""
    return _STUB_TEXT.sub("bhstub_*", text)


class StubScanner:
    """Finds stubs in a body that passes by in chunks; what might become one is held back until it is clear."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """Return what may pass; raises `RefusedError` for a stub, wherever the chunks' borders are."""
        data = self._held + chunk
        if b"bhstub_" in data and _STUB.search(data):
            raise misplaced()
        begun = _BEGUN.search(data, max(0, len(data) - _LONGEST_BEGUN))
        if begun is None:
            self._held = b""
            return data
        self._held = begun[0]
        return data[: begun.start()]

    def finish(self) -> bytes:
        """Return what was held back to the end."""
        held, self._held = self._held, b""
        return held


def _swap_header(name: bytes, value: bytes, secrets: Mapping[bytes, Secret]) -> bytes:
    if not _is_for_credentials(name):
        return value
    if name.lower() == b"cookie" and _STUB.search(value):
        raise misplaced()
    basic = _basic(value)
    if basic is not None:
        return b"Basic " + base64.b64encode(_swap_basic(name, basic, secrets))
    whole = _WHOLE.match(value)
    if whole is None:
        raise _foreign(f"header {name.decode('ascii', 'replace')}")
    return _replaced(value, whole[1], secrets)


@lru_cache(maxsize=1024)
def _is_for_credentials(name: bytes) -> bool:
    return name.lower() not in _NO_CREDENTIAL and bool(_CREDENTIAL_HEADER.match(name))


def _swap_basic(name: bytes, pair: bytes, secrets: Mapping[bytes, Secret]) -> bytes:
    user, colon, password = pair.partition(b":")
    if _STUB.fullmatch(password):
        return user + colon + _replaced(password, password, secrets)
    if _STUB.fullmatch(user) and password in _NO_PASSWORD:
        return _replaced(user, user, secrets) + colon + password
    raise _foreign(f"header {name.decode('ascii', 'replace')}")


def _replaced(value: bytes, stub: bytes, secrets: Mapping[bytes, Secret]) -> bytes:
    secret = secrets.get(stub)
    return value.replace(stub, secret.value) if secret and secret.credential.binding.header else value


def _swap_parameter(pair: bytes, secrets: Mapping[bytes, Secret]) -> bytes:
    name, equals, value = pair.partition(b"=")
    secret = secrets.get(value)
    if secret and secret.credential.binding.query_parameter == name.decode("ascii", "replace"):
        return name + equals + quote(secret.value, safe="").encode()
    if value and _CREDENTIAL_PARAMETER.match(name) and not _STUB.search(value):
        raise _foreign(f"query parameter {name.decode('ascii', 'replace')}")
    return pair


def _foreign(place: str) -> RefusedError:
    return RefusedError(
        "foreign_credential",
        f"The {place} holds a credential that is not one of this session's. A host with a credential bound to it "
        "takes only the placeholder from the environment variable, alone or after a scheme such as Bearer.",
    )


def _escaped(secret: bytes, content_type: bytes) -> bytes:
    kind = content_type.partition(b";")[0].strip().lower()
    if kind == b"application/x-www-form-urlencoded":
        return quote(secret, safe="").encode()
    if kind == b"application/json" or kind.endswith(b"+json"):
        return json.dumps(secret.decode(errors="surrogateescape"))[1:-1].encode()
    return secret


def _basic(value: bytes) -> bytes | None:
    if value[:6].lower() != b"basic ":
        return None
    encoded = value[6:]
    try:
        return base64.b64decode(encoded.strip() + b"=" * (-len(encoded.strip()) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""
