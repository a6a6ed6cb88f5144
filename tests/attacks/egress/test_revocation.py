"""Going on after permission was taken back, and going on while nobody can say whether there is any."""

import asyncio
import socket
from collections.abc import Callable

import pytest

from sandbox.egress.limits import REFUSALS_AT_ONCE
from tests.support.egress import Client, Received, Stage, TestHost, get, raw_answer

Change = Callable[[Stage], None]


def _no_credential(stage: Stage) -> None:
    stage.policies.change("sbx_a", credentials=[])


def _withdrawn(stage: Stage) -> None:
    granted = stage.policies.policies["sbx_a"].credentials[0]
    stage.policies.change("sbx_a", credentials=[granted.model_copy(update={"is_withdrawn": True})])
    stage.policies.secrets.clear()


def _no_network(stage: Stage) -> None:
    stage.policies.change("sbx_a", networking="none")


def _another_host(stage: Stage) -> None:
    stage.policies.change("sbx_a", allowed_hosts=["other.test"])


def _ended(stage: Stage) -> None:
    del stage.policies.policies["sbx_a"]


def _store_away(stage: Stage) -> None:
    stage.policies.broken = True


def _read_only(stage: Stage) -> None:
    granted = stage.policies.policies["sbx_a"].credentials[0]
    binding = granted.binding.model_copy(update={"methods": ["HEAD"]})
    stage.policies.change("sbx_a", credentials=[granted.model_copy(update={"binding": binding})])


def _bound_now(stage: Stage) -> None:
    token = stage.credential("LATE", ["files.test"])
    stage.policies.change("sbx_a", credentials=[token])


async def _endless(_: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: one\n\n")
    await reader.read()


async def _websocket(_: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\ndata: one\n\n"
    )
    await reader.read()


async def _open(stage: Stage, kind: str) -> tuple[Client, TestHost]:
    """Open a stream that would go on for ever, and read its beginning."""
    token = stage.credential("API_TOKEN", ["api.test"])
    await stage.sandbox(allowed_hosts=["api.test", "files.test"], credentials=[token])
    name = "files.test" if kind == "tunnel" else "api.test"
    host = await stage.host(name, behaviour=_websocket if kind == "websocket" else _endless)
    client = await stage.tunnel(name)
    more = ["Connection: Upgrade", "Upgrade: websocket"] if kind == "websocket" else []
    more += [] if kind == "tunnel" else [f"Authorization: Bearer {token.stub}"]
    if kind == "upload":
        await client.send(get("/", name, *more, "Content-Length: 1000000", method="POST") + b"abc")
        await host.wait_for(b"abc")
    else:
        await client.send(get("/", name, *more))
        assert b"data: one" in await _until(client, b"data: one")
    return client, host


async def _until(client: Client, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        seen += await asyncio.wait_for(client.reader.read(1000), 5)
    return seen


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("stream", _no_credential), ("stream", _withdrawn), ("stream", _no_network), ("stream", _another_host),
        ("stream", _ended), ("stream", _store_away), ("stream", _read_only), ("websocket", _no_credential),
        ("websocket", _withdrawn), ("websocket", _no_network), ("upload", _no_credential), ("upload", _withdrawn),
        ("upload", _no_network), ("tunnel", _no_network), ("tunnel", _another_host), ("tunnel", _bound_now),
        ("tunnel", _ended), ("tunnel", _store_away),
    ],
)  # fmt: skip
async def test_an_open_stream_is_cut(stage: Stage, kind: str, change: Change) -> None:
    client, host = await _open(stage, kind)
    before = len(host.raw)
    change(stage)
    async with asyncio.timeout(5):
        assert b"data: two" not in await client.rest()
    assert len(host.raw) == before
    entry = await stage.audit.wait()
    assert (entry.verdict, entry.reason) == ("cut", "revoked")
    assert entry.credential == (None if kind == "tunnel" else "API_TOKEN")


@pytest.mark.parametrize("kind", ["stream", "websocket", "upload", "tunnel"])
async def test_the_end_of_what_a_sandbox_had_open_is_recorded_when_it_is_let_go(stage: Stage, kind: str) -> None:
    """A sandbox that is stopped is often let go before anybody has looked whether it is still allowed anything."""
    await _open(stage, kind)
    await stage.proxy.detach("sbx_a")
    (entry,) = stage.audit.ended
    assert (entry.verdict, entry.reason) == ("failed", "connection_lost")


async def test_who_has_been_refused_often_is_still_cut_at_once(stage: Stage) -> None:
    client, _ = await _open(stage, "stream")
    knocking = [asyncio.create_task(_knock(stage)) for _ in range(REFUSALS_AT_ONCE + 60)]
    await stage.audit.wait(REFUSALS_AT_ONCE)
    _no_network(stage)
    async with asyncio.timeout(5):
        await client.rest()
    assert "cut" in {entry.verdict for entry in stage.audit.ended}
    assert not all(task.done() for task in knocking), "others still wait to be refused"
    for task in knocking:
        task.cancel()


async def _knock(stage: Stage) -> None:
    client = await stage.client()
    await client.ask("CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n", "CONNECT")


@pytest.mark.parametrize("change", [_no_credential, _no_network, _another_host, _ended, _store_away])
async def test_a_request_whose_body_is_waited_for_is_not_sent_any_more(stage: Stage, change: Change) -> None:
    token = stage.credential("API_TOKEN", ["api.test"], body=True)
    await stage.sandbox(allowed_hosts=["api.test"], credentials=[token])
    host = await stage.host("api.test")
    client = await stage.tunnel("api.test")
    body = b"token=" + token.stub.encode()
    request = get("/", "api.test", method="POST", body=body)
    await client.send(request[:-5])
    await asyncio.sleep(0.05)
    change(stage)
    got = await client.answer()
    assert (got.status, got.headers["x-bulkhead-reason"]) == (403, "revoked")
    await client.send(request[-5:])
    assert (await stage.audit.wait()).reason == "revoked"
    assert host.connections == 0


@pytest.mark.parametrize("goodbye", [True, False])
async def test_an_upstream_stream_ends_when_its_client_leaves(stage: Stage, goodbye: bool) -> None:
    client, _ = await _open(stage, "stream")
    if goodbye:
        client.writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
    else:
        client.close()
    entry = await stage.audit.wait()
    assert (entry.verdict, entry.reason, entry.credential) == ("failed", "client_left", "API_TOKEN")


@pytest.mark.parametrize("kind", ["swap", "plain", "tunnel", "websocket"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [(_no_network, "revoked"), (_another_host, "revoked"), (_ended, "revoked"), (_store_away, "undecided")],
)
async def test_what_is_taken_back_while_it_is_recorded_is_not_sent(
    stage: Stage, kind: str, change: Change, reason: str
) -> None:
    token = stage.credential("API_TOKEN", ["api.test"])
    await stage.sandbox(allowed_hosts=["api.test", "files.test"], credentials=[token])
    name = "api.test" if kind in {"swap", "websocket"} else "files.test"
    host = await stage.host(name, tls=kind != "plain")
    client = await stage.tunnel(name) if name == "api.test" else await stage.client()
    stage.audit.then = lambda: change(stage) if len(stage.audit.entries) == 1 else None
    upgrade = ["Connection: Upgrade", "Upgrade: websocket"] if kind == "websocket" else []
    request = {
        "tunnel": "CONNECT files.test:443 HTTP/1.0\r\n\r\n",
        "plain": get("http://files.test/", name),
    }.get(kind, get("/", name, f"Authorization: Bearer {token.stub}", *upgrade))
    got = await client.ask(request, "CONNECT" if kind == "tunnel" else "GET")
    assert (got.status in {403, 503}, got.headers["x-bulkhead-reason"]) == (True, reason)
    last = await stage.audit.wait()
    first = stage.audit.entries[0]
    assert (first.verdict, first.ended, first.exchange_id) == ("allowed", False, last.exchange_id)
    assert (last.verdict, last.reason, last.bytes_up) == ("cut", reason, 0)
    assert host.connections == 0


async def test_a_credential_that_is_taken_back_while_it_is_recorded_is_not_sent(stage: Stage) -> None:
    token = stage.credential("API_TOKEN", ["api.test"])
    await stage.sandbox(allowed_hosts=["api.test"], credentials=[token])
    host = await stage.host("api.test")
    client = await stage.tunnel("api.test")
    request = get("/", "api.test", f"Authorization: Bearer {token.stub}")
    assert (await client.ask(request)).status == 200
    stage.audit.then = lambda: _no_credential(stage) if len(stage.audit.entries) == 3 else None
    got = await client.ask(request)
    assert (got.status, got.headers["x-bulkhead-reason"]) == (403, "revoked")
    assert ((await stage.audit.wait(2)).verdict, len(host.received)) == ("cut", 1)


async def test_a_change_that_takes_nothing_back_cuts_nothing(stage: Stage) -> None:
    client, _ = await _open(stage, "stream")
    stage.policies.change("sbx_a", allowed_hosts=["api.test", "new.test"])
    await asyncio.sleep(0.6)
    assert stage.audit.ended == []
    assert not client.reader.at_eof()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_no_credential, "stub_not_valid"),
        (_withdrawn, "credential_revoked"),
        (_no_network, "networking_off"),
        (_another_host, "host_not_allowed"),
        (_ended, "sandbox_unknown"),
        (_store_away, "policy_unavailable"),
        (_read_only, "method_not_bound"),
    ],
)
async def test_the_next_request_on_an_open_connection_is_refused(stage: Stage, change: Change, reason: str) -> None:
    token = stage.credential("API_TOKEN", ["api.test"])
    await stage.sandbox(allowed_hosts=["api.test"], credentials=[token])
    host = await stage.host("api.test")
    client = await stage.tunnel("api.test")
    request = get("/", "api.test", f"Authorization: Bearer {token.stub}")
    assert (await client.ask(request)).status == 200
    change(stage)
    got = await client.ask(request)
    assert (got.status in {403, 503}, got.headers["x-bulkhead-reason"]) == (True, reason)
    assert (await stage.audit.wait(2)).reason == reason
    assert len(host.received) == 1


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ("Authorization: Bearer {stub}", "credential_revoked"),
        ("X-Trace: {stub}", "credential_revoked"),
        ("Authorization: Bearer the-agents-own", "foreign_credential"),
        ("Accept: */*", None),
    ],
)
async def test_a_host_whose_credential_was_withdrawn_gets_no_stub_through_a_new_tunnel(
    stage: Stage, sent: str, reason: str | None
) -> None:
    token = stage.credential("API_TOKEN", ["api.test"])
    await stage.sandbox(allowed_hosts=["api.test"], credentials=[token])
    host = await stage.host("api.test")
    _withdrawn(stage)
    client = await stage.tunnel("api.test")
    got = await client.ask(get("/", "api.test", sent.format(stub=token.stub)))
    entry = await stage.audit.wait()
    assert (got.headers.get("x-bulkhead-reason"), entry.path) == (reason, "/")
    assert entry.verdict == ("denied" if reason else "allowed")
    assert token.stub.encode() not in host.raw
    assert len(host.received) == (0 if reason else 1)


async def test_a_secret_that_is_gone_while_it_is_asked_for_is_refused(stage: Stage) -> None:
    token = stage.credential("API_TOKEN", ["api.test"])
    await stage.sandbox(allowed_hosts=["api.test"], credentials=[token])
    host = await stage.host("api.test")
    client = await stage.tunnel("api.test")
    del stage.policies.secrets["vcrd_API_TOKEN"]
    got = await client.ask(get("/", "api.test", f"Authorization: Bearer {token.stub}"))
    assert (got.status, got.headers["x-bulkhead-reason"]) == (403, "credential_revoked")
    assert (await stage.audit.wait()).credential == "API_TOKEN"
    assert host.connections == 0


@pytest.mark.parametrize("connect", [True, False])
async def test_without_a_policy_nothing_passes(stage: Stage, connect: bool) -> None:
    host = await stage.host("open.test", tls=False)
    await stage.sandbox(allowed_hosts=["open.test"])
    stage.policies.broken = True
    client = await stage.client()
    request = "CONNECT open.test:443 HTTP/1.0\r\n\r\n" if connect else get("http://open.test/", "open.test")
    got = await client.ask(request, "CONNECT" if connect else "GET")
    assert (got.status, got.headers["x-bulkhead-reason"]) == (503, "policy_unavailable")
    assert (stage.resolver.asked, host.connections) == ([], 0)
    assert stage.audit.entries == [], "whose decision is it, when nobody knows the sandbox?"


async def test_without_the_secret_neither_it_nor_the_stub_is_sent(stage: Stage) -> None:
    token = stage.credential("API_TOKEN", ["api.test"])
    await stage.sandbox(allowed_hosts=["api.test"], credentials=[token])
    host = await stage.host("api.test")
    client = await stage.tunnel("api.test")
    stage.policies.secrets_broken = True
    got = await client.ask(get("/", "api.test", f"Authorization: Bearer {token.stub}"))
    assert (got.status, got.headers["x-bulkhead-reason"]) == (503, "secret_unavailable")
    assert (await stage.audit.wait()).verdict == "denied"
    assert host.connections == 0


@pytest.mark.parametrize("kind", ["tunnel", "swap", "plain"])
async def test_without_the_audit_nothing_passes(stage: Stage, kind: str) -> None:
    token = stage.credential("API_TOKEN", ["api.test"])
    await stage.sandbox(allowed_hosts=["api.test", "open.test"], credentials=[token])
    secure, plain = await stage.host("api.test"), await stage.host("open.test", tls=False)
    client = await stage.tunnel("api.test") if kind == "swap" else await stage.client()
    stage.audit.broken = True
    request = {
        "tunnel": "CONNECT open.test:443 HTTP/1.0\r\n\r\n",
        "swap": get("/", "api.test", f"Authorization: Bearer {token.stub}"),
        "plain": get("http://open.test/", "open.test"),
    }[kind]
    got = await client.ask(request, "CONNECT" if kind == "tunnel" else "GET")
    assert (got.status, got.headers["x-bulkhead-reason"]) == (503, "audit_unavailable")
    assert (secure.connections, plain.connections, stage.audit.entries) == (0, 0, [])


async def test_a_refusal_that_cannot_be_recorded_is_still_a_refusal(stage: Stage) -> None:
    await stage.sandbox()
    stage.audit.broken = True
    client = await stage.client()
    got = await client.ask("CONNECT evil.test:443 HTTP/1.0\r\n\r\n", "CONNECT")
    assert got.status == 403


async def test_an_upstream_that_is_away_is_a_502_with_a_sentence(stage: Stage) -> None:
    await stage.sandbox(allowed_hosts=["gone.test", "unknown.test"])
    host = await stage.host("gone.test", behaviour=raw_answer())
    await host.__aexit__()
    client = await stage.client()
    got = await client.ask("CONNECT gone.test:443 HTTP/1.0\r\n\r\n", "CONNECT")
    assert (got.status, got.text) == (502, "Host gone.test does not accept a connection on its port.\n")
    assert (await stage.audit.wait()).reason == "upstream_unreachable"
    client = await stage.client()
    got = await client.ask("CONNECT unknown.test:443 HTTP/1.0\r\n\r\n", "CONNECT")
    assert (got.status, got.text) == (502, "Host unknown.test has no address.\n")
    assert (await stage.audit.wait(2)).reason == "name_not_found"
