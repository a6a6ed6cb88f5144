"""Whether a delivery to a trigger comes from who knows its secret, as GitHub, Slack and Standard Webhooks sign.

GitHub signs the body alone (docs.github.com, "Validating webhook deliveries"); Slack a version, a time stamp and the
body (api.slack.com, "Verifying requests from Slack"); Standard Webhooks an id, a time stamp and the body
(standardwebhooks.com, specification 1.0).
"""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from controlplane.store.deployments import TriggerType

WINDOW = timedelta(minutes=5)
"""How far a delivery's time stamp may be from now, in both directions: what Slack and Standard Webhooks ask for."""

SHORTEST_SECRET = 16
_STANDARD_PREFIX = "whsec_"
_LONGEST_ID = 128


class SignatureError(Exception):
    """A delivery that nobody who knows the secret has signed just now; its text says what is wrong, not with what."""


@dataclass(frozen=True)
class Delivery:
    """A delivery that was signed. ``id``: the sender's own, the same when it sends again.

    ``digest``: of what was signed. Where the id is not among that (GitHub's is not), this is what keeps a delivery
    that somebody has overheard from coming again under another id.
    """

    id: str
    digest: bytes


def usable_secret(kind: TriggerType, secret: str) -> str | None:
    """Return why a secret cannot be used, if so."""
    if kind == "standard_webhooks":
        try:
            key = base64.b64decode(secret.removeprefix(_STANDARD_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            return "not base64, with or without 'whsec_' before it"
        return None if len(key) >= SHORTEST_SECRET else f"shorter than {SHORTEST_SECRET} bytes"
    return None if len(secret) >= SHORTEST_SECRET else f"shorter than {SHORTEST_SECRET} characters"


def verify(kind: TriggerType, secret: str, headers: Mapping[str, str], body: bytes, now: datetime) -> Delivery:
    """Return the delivery; raises `SignatureError`."""
    match kind:
        case "github":
            return _github(secret, headers, body)
        case "slack":
            return _slack(secret, headers, body, now)
        case "standard_webhooks":
            return _standard(secret, headers, body, now)


def _github(secret: str, headers: Mapping[str, str], body: bytes) -> Delivery:
    signature = _header(headers, "x-hub-signature-256")
    wanted = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    _check(signature, wanted)
    return Delivery(id=_id(_header(headers, "x-github-delivery")), digest=_digest(body))


def _slack(secret: str, headers: Mapping[str, str], body: bytes, now: datetime) -> Delivery:
    stamp = _stamp(_header(headers, "x-slack-request-timestamp"), now)
    signed = b"v0:" + stamp.encode() + b":" + body
    wanted = "v0=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    _check(_header(headers, "x-slack-signature"), wanted)
    digest = _digest(signed)
    return Delivery(id=_slack_event(body) or digest.hex(), digest=digest)


def _standard(secret: str, headers: Mapping[str, str], body: bytes, now: datetime) -> Delivery:
    delivery_id = _id(_header(headers, "webhook-id"))
    stamp = _stamp(_header(headers, "webhook-timestamp"), now)
    signed = f"{delivery_id}.{stamp}.".encode() + body
    key = base64.b64decode(secret.removeprefix(_STANDARD_PREFIX))
    wanted = "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
    given = _header(headers, "webhook-signature").split(" ")
    if not any(_equal(each, wanted) for each in given):
        raise SignatureError("the signature does not fit")
    return Delivery(id=delivery_id, digest=_digest(signed))


def _slack_event(body: bytes) -> str | None:
    """Return the id of Slack's event, which is signed: it stays the same when Slack sends the event again."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    event_id = found.get("event_id") if isinstance(found, dict) else None
    return _id(event_id) if isinstance(event_id, str) and event_id else None


def _header(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name)
    if not value:
        raise SignatureError(f"the header {name} is missing")
    return value


def _id(given: str) -> str:
    if len(given) > _LONGEST_ID or not given.isprintable() or not given.isascii():
        raise SignatureError("the delivery's id is too long, or not printable")
    return given


def _stamp(given: str, now: datetime) -> str:
    if not given.isascii() or not given.isdigit() or len(given) > 12:
        raise SignatureError("the time stamp is no number of seconds")
    if abs(now.timestamp() - int(given)) > WINDOW.total_seconds():
        raise SignatureError("the time stamp is too far from now")
    return given


def _check(given: str, wanted: str) -> None:
    if not _equal(given, wanted):
        raise SignatureError("the signature does not fit")


def _equal(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())


def _digest(signed: bytes) -> bytes:
    return hashlib.sha256(signed).digest()
