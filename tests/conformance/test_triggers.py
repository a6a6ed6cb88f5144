"""Deliveries from outside: who may start a run, once."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from .conftest import Api
from .deploying import Deployer

KEY = b"k" * 32
SECRETS = {
    "github": KEY.decode(),
    "slack": KEY.decode(),
    "standard_webhooks": "whsec_" + base64.b64encode(KEY).decode(),
}
FORM = {"content-type": "application/x-www-form-urlencoded"}
TEMPLATE = "Somebody says: {{ payload.text }}"

Signer = Callable[..., dict[str, str]]


def github(body: bytes, delivery: str = "d-1", **_: Any) -> dict[str, str]:
    digest = hmac.new(KEY, body, hashlib.sha256).hexdigest()
    return {"x-hub-signature-256": f"sha256={digest}", "x-github-delivery": delivery, "x-github-event": "issues"}


def slack(body: bytes, delivery: str = "", age: int = 0) -> dict[str, str]:
    stamp = str(int(time.time()) - age)
    digest = hmac.new(KEY, b"v0:" + stamp.encode() + b":" + body, hashlib.sha256).hexdigest()
    return {"x-slack-signature": f"v0={digest}", "x-slack-request-timestamp": stamp}


def standard(body: bytes, delivery: str = "d-1", age: int = 0) -> dict[str, str]:
    stamp = str(int(time.time()) - age)
    digest = hmac.digest(KEY, f"{delivery}.{stamp}.".encode() + body, "sha256")
    signature = "v1," + base64.b64encode(digest).decode()
    return {"webhook-id": delivery, "webhook-timestamp": stamp, "webhook-signature": signature}


SIGNERS: dict[str, Signer] = {"github": github, "slack": slack, "standard_webhooks": standard}
KINDS = [*SIGNERS]


class Sender:
    """Somebody outside, who has a secret and no API key."""

    def __init__(self, deployer: Deployer, deployment: dict[str, Any], kind: str):
        self.deployer = deployer
        self.deployment = deployment
        self.sign = SIGNERS[kind]

    async def send(self, payload: Any, *, delivery: str = "d-1", **more: Any) -> httpx.Response:
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        headers = {**self.sign(body, delivery, **more.pop("signing", {})), **more.pop("headers", {})}
        async with httpx.AsyncClient(base_url=self.deployer.api.url) as http:
            path = f"/v1/deployments/{self.deployment['id']}/trigger"
            return await http.post(path, content=body, headers={"content-type": "application/json", **headers})


@pytest.fixture
def deployer(api: Api, http: httpx.AsyncClient) -> Deployer:
    return Deployer(api, http)


@pytest.fixture(params=KINDS)
async def sender(deployer: Deployer, request: pytest.FixtureRequest) -> Sender:
    trigger = {"type": request.param, "secret": SECRETS[request.param], "template": TEMPLATE}
    return Sender(deployer, await deployer.made(trigger=trigger, schedule=None), request.param)


@pytest.fixture
async def hub(deployer: Deployer) -> Sender:
    trigger = {"type": "github", "secret": SECRETS["github"], "template": TEMPLATE}
    return Sender(deployer, await deployer.made(trigger=trigger, schedule=None), "github")


async def test_a_delivery_starts_a_run_that_says_what_it_brought(sender: Sender):
    answer = await sender.send({"text": "it broke", "event_id": "Ev1"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["duplicate"] is False
    [run] = await sender.deployer.runs(sender.deployment)
    assert run["id"] == answer.json()["run_id"]
    assert (run["trigger_context"]["type"], run["trigger_context"]["source"]) == ("manual", "trigger")
    events = (await sender.deployer.http.get(f"/v1/sessions/{run['session_id']}/events")).json()["data"]
    assert [block["text"] for block in events[0]["content"]] == ["hello", "Somebody says: it broke"]


async def test_a_delivery_that_comes_again_starts_nothing_again(sender: Sender):
    payload = {"text": "once", "event_id": "Ev1"}
    first = await sender.send(payload)
    again = await sender.send(payload, signing={"age": 30})
    assert again.json() == {**first.json(), "duplicate": True}
    assert len(await sender.deployer.runs(sender.deployment)) == 1


async def test_a_body_of_githubs_that_was_overheard_is_not_another_under_another_id(hub: Sender):
    first = await hub.send({"text": "x"}, delivery="d-1")
    again = await hub.send({"text": "x"}, delivery="d-2")
    assert again.json() == {**first.json(), "duplicate": True}
    assert (await hub.send({"text": "y"}, delivery="d-3")).json()["duplicate"] is False


@pytest.mark.parametrize("age", [400, -400])
@pytest.mark.parametrize("kind", ["slack", "standard_webhooks"])
async def test_what_was_signed_too_long_ago_is_refused(deployer: Deployer, kind: str, age: int):
    trigger = {"type": kind, "secret": SECRETS[kind], "template": TEMPLATE}
    sender = Sender(deployer, await deployer.made(trigger=trigger, schedule=None), kind)
    answer = await sender.send({"text": "x"}, signing={"age": age})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "bad_signature")
    assert await deployer.runs(sender.deployment) == []


async def test_whoever_has_no_secret_is_told_the_same_whatever_is_there(sender: Sender):
    other = await sender.deployer.made(schedule=None)
    refusals: set[str] = set()
    for deployment in (sender.deployment, other, {"id": "depl_nothing"}):
        sender.deployment = deployment
        headers = {name: "v0=x" for name in sender.sign(b"") if "signature" in name}
        answer = await sender.send({"text": "x"}, headers=headers)
        assert answer.status_code == 401
        refusals.add(json.dumps(answer.json()["error"]))
    assert len(refusals) == 1


async def test_an_api_key_is_no_signature(hub: Sender):
    answer = await hub.deployer.http.post(f"/v1/deployments/{hub.deployment['id']}/trigger", json={"text": "x"})
    assert answer.status_code == 401


async def test_bad_bodies_are_refused_after_the_signature(hub: Sender):
    assert (await hub.send(b"not json")).status_code == 400
    assert (await hub.send(b'{"a": "\\u0000"}')).status_code == 400
    assert (await hub.send(b"[" * 5000 + b"]" * 5000)).status_code == 400
    xml = await hub.send(b"<a/>", headers={"content-type": "text/xml"})
    assert (xml.status_code, xml.json()["error"]["field"]) == (400, "Content-Type")
    forms = [b"payload=x", b"text=x", b"payload={}&payload={}", b"payload=%ff", b"payload=%00", b"x", b"a=&" * 1001]
    for number, body in enumerate(forms):
        refused = await hub.send(body, headers=FORM, delivery=f"form-{number}")
        assert refused.status_code == 400, body
    assert (await hub.send(b"x" * (1024 * 1024 + 1))).status_code == 413
    assert await hub.deployer.runs(hub.deployment) == []


async def test_a_form_is_a_payload_too(sender: Sender):
    """As GitHub sends it unless told otherwise, and Slack from a slash command; what is signed is the raw body."""
    is_github = "x-hub-signature-256" in sender.sign(b"")
    said = {"payload": json.dumps({"text": "it & broke"})} if is_github else {"text": "it & broke"}
    answer = await sender.send(urlencode(said).encode(), headers=FORM)
    assert answer.status_code == 200, answer.text
    [run] = await sender.deployer.runs(sender.deployment)
    events = (await sender.deployer.http.get(f"/v1/sessions/{run['session_id']}/events")).json()["data"]
    assert events[0]["content"][1]["text"] == "Somebody says: it & broke"


async def test_what_senders_ask_when_they_are_set_up_starts_nothing(hub: Sender):
    pong = await hub.send({"zen": "x"}, headers={"x-github-event": "ping"})
    assert (pong.status_code, pong.json()["run_id"]) == (200, None)
    trigger = {"type": "slack", "secret": SECRETS["slack"], "template": TEMPLATE}
    bot = Sender(hub.deployer, await hub.deployer.made(trigger=trigger, schedule=None), "slack")
    answer = await bot.send({"type": "url_verification", "challenge": "3eZb"})
    assert answer.json() == {"challenge": "3eZb"}
    assert await hub.deployer.runs(hub.deployment) == await hub.deployer.runs(bot.deployment) == []


async def test_deliveries_run_one_after_the_other_and_none_is_lost(hub: Sender):
    for number in range(3):
        await hub.send({"text": str(number)}, delivery=f"d-{number}")
    runs = await hub.deployer.runs(hub.deployment)
    assert [run["state"] for run in runs] == ["running", "waiting", "waiting"]


async def test_a_paused_deployment_takes_no_delivery_and_loses_none(hub: Sender):
    path = f"/v1/deployments/{hub.deployment['id']}"
    await hub.deployer.post(f"{path}/pause")
    assert (await hub.send({"text": "x"})).status_code == 409
    await hub.deployer.post(f"{path}/unpause")
    assert (await hub.send({"text": "x"})).json()["duplicate"] is False
    await hub.deployer.post(f"{path}/archive")
    assert (await hub.send({"text": "z"}, delivery="d-9")).status_code == 401, "its secret is gone"


async def test_a_revoked_key_fails_the_run_of_a_delivery(hub: Sender):
    await hub.deployer.execute("UPDATE deployments SET created_by = 'key_gone' WHERE id = %s", hub.deployment["id"])
    assert (await hub.send({"text": "x"})).status_code == 200
    [run] = await hub.deployer.runs(hub.deployment)
    assert run["error"]["code"] == "key_revoked"
    assert (await hub.deployer.get(hub.deployment))["status"] == "paused"


async def test_a_payload_without_what_the_template_names_says_so(deployer: Deployer):
    trigger = {"type": "github", "secret": SECRETS["github"], "template": "{{ payload.nothing }}"}
    sender = Sender(deployer, await deployer.made(trigger=trigger, schedule=None), "github")
    assert (await sender.send({"text": "x"})).status_code == 200
    [run] = await deployer.runs(sender.deployment)
    events = (await deployer.http.get(f"/v1/sessions/{run['session_id']}/events")).json()["data"]
    assert "has nothing of what" in events[0]["content"][1]["text"]
