"""Signatures of deliveries, against the examples that their makers publish."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta

import pytest

from controlplane.deployments.signatures import SignatureError, usable_secret, verify

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
STAMP = str(int(NOW.timestamp()))


def test_githubs_own_example():
    # docs.github.com, "Testing the webhook payload validation"
    digest = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    headers = {"x-hub-signature-256": f"sha256={digest}", "x-github-delivery": "d-1"}
    assert verify("github", "It's a Secret to Everybody", headers, b"Hello, World!", NOW).id == "d-1"
    with pytest.raises(SignatureError):
        verify("github", "It's a Secret to Everybody", headers, b"Hello, World?", NOW)


def test_slacks_own_example():
    # api.slack.com, "Verifying requests from Slack"
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
        b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
        b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
        b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )
    headers = {
        "x-slack-request-timestamp": "1531420618",
        "x-slack-signature": "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
    }
    then = datetime.fromtimestamp(1531420618, UTC)
    secret = "8f742231b10e8888abcd99yyyzzz85a5"
    assert verify("slack", secret, headers, body, then).id
    for late in (timedelta(minutes=6), -timedelta(minutes=6)):
        with pytest.raises(SignatureError, match="too far"):
            verify("slack", secret, headers, body, then + late)


def test_slacks_event_keeps_its_id_when_it_is_sent_again():
    body = b'{"event_id": "Ev123"}'
    ids = set()
    for stamp in (STAMP, str(int(STAMP) + 60)):
        digest = hmac.new(b"s" * 32, b"v0:" + stamp.encode() + b":" + body, hashlib.sha256).hexdigest()
        headers = {"x-slack-request-timestamp": stamp, "x-slack-signature": f"v0={digest}"}
        ids.add(verify("slack", "s" * 32, headers, body, NOW).id)
    assert ids == {"Ev123"}


def standard(secret: str, *, message_id: str = "msg_1", stamp: str = STAMP) -> dict[str, str]:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = base64.b64encode(hmac.digest(key, f"{message_id}.{stamp}.".encode() + b"{}", "sha256")).decode()
    return {"webhook-id": message_id, "webhook-timestamp": stamp, "webhook-signature": f"v1,bm9uZQ== v1,{digest}"}


def test_the_example_of_standard_webhooks():
    # github.com/standard-webhooks, the reference libraries' test
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    body = b'{"test": 2432232314}'
    then = datetime.fromtimestamp(1614265330, UTC)
    assert verify("standard_webhooks", secret, headers, body, then).id == "msg_p5jXN8AQM9LWM0D4loKWxJek"


def test_any_of_several_signatures_counts_and_the_id_is_signed():
    secret = "whsec_" + base64.b64encode(b"k" * 32).decode()
    assert verify("standard_webhooks", secret, standard(secret), b"{}", NOW).id == "msg_1"
    with pytest.raises(SignatureError):
        verify("standard_webhooks", secret, {**standard(secret), "webhook-id": "msg_2"}, b"{}", NOW)


@pytest.mark.parametrize("kind", ["github", "slack", "standard_webhooks"])
def test_without_a_signature_nothing_holds(kind: str):
    headers = {
        "x-github-delivery": "1",
        "x-slack-request-timestamp": STAMP,
        "webhook-id": "1",
        "webhook-timestamp": STAMP,
    }
    with pytest.raises(SignatureError, match="missing"):
        verify(kind, "s" * 32, headers, b"{}", NOW)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("stamp", ["", "now", "-5", "9" * 30, "1e9", "١٢٣"])
def test_a_time_stamp_is_a_number(stamp: str):
    with pytest.raises(SignatureError):
        verify("slack", "s" * 32, {"x-slack-request-timestamp": stamp, "x-slack-signature": "v0=x"}, b"", NOW)


def test_secrets_that_could_be_guessed_are_refused():
    assert usable_secret("github", "short") is not None
    assert usable_secret("standard_webhooks", "not base64 at all!") is not None
    assert usable_secret("standard_webhooks", base64.b64encode(b"short").decode()) is not None
    assert usable_secret("github", "s" * 16) is None
