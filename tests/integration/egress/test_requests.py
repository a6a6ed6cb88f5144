"""What an honest program in a sandbox gets."""

import asyncio
import base64
import json
import ssl
from urllib.parse import parse_qs

import pytest

from tests.support.egress import CANARY, Received, Stage, answer, get, raw_answer


async def test_an_allowed_host_is_reached_through_an_opaque_tunnel(stage: Stage) -> None:
    host = await stage.host("files.test", behaviour=answer("content"))
    await stage.sandbox(allowed_hosts=["files.test"])
    client = await stage.tunnel("files.test")
    got = await client.ask(get("/a", "files.test"))
    assert (got.status, got.text) == (200, "content")
    assert [each.target for each in host.received] == ["/a"]
    client.close()
    entry = await stage.audit.wait()
    assert (entry.method, entry.host, entry.path, entry.verdict) == ("CONNECT", "files.test", None, "allowed")
    assert entry.bytes_up > 0
    assert entry.bytes_down > 0
    assert [each.ended for each in stage.audit.entries] == [False, True]


async def test_a_stub_becomes_the_secret_for_its_host(stage: Stage) -> None:
    host = await stage.host("api.test")
    token = stage.credential("API_TOKEN", ["api.test"])
    await stage.sandbox(allowed_hosts=["api.test"], credentials=[token])
    client = await stage.tunnel("api.test")
    for _ in range(3):
        got = await client.ask(get("/v1/x?a=b", "api.test", f"Authorization: Bearer {token.stub}"))
        assert (got.status, got.text) == (200, "hello")
    assert {each.header("authorization") for each in host.received} == {f"Bearer {CANARY}".encode().decode("latin-1")}
    assert host.connections == 1
    entry = await stage.audit.wait(3)
    assert (entry.method, entry.path, entry.credential, entry.status) == ("GET", "/v1/x", "API_TOKEN", 200)


async def test_basic_is_taken_apart_and_put_together_again(stage: Stage) -> None:
    host = await stage.host("git.test")
    token = stage.credential("GIT_TOKEN", ["git.test"])
    await stage.sandbox(allowed_hosts=["git.test"], credentials=[token])
    client = await stage.tunnel("git.test")
    pair = base64.b64encode(f"me:{token.stub}".encode()).decode()
    got = await client.ask(get("/repo", "git.test", f"Authorization: Basic {pair}"))
    assert got.status == 200
    sent = (host.received[0].header("authorization") or "").removeprefix("Basic ")
    assert base64.b64decode(sent).decode() == f"me:{CANARY}"


async def test_a_denied_host_is_answered_with_a_sentence(stage: Stage) -> None:
    await stage.sandbox(allowed_hosts=["api.test"])
    client = await stage.client()
    got = await client.ask("CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n", "CONNECT")
    assert got.status == 403
    assert "Host evil.test is not on this environment's list of allowed hosts." in got.text
    assert "Host evil.test is not on this environment's list" in got.reason
    assert (await stage.audit.wait()).reason == "host_not_allowed"
    assert stage.resolver.asked == []


async def test_one_connection_serves_many_requests_with_and_without_bodies(stage: Stage) -> None:
    host = await stage.host("api.test")
    token = stage.credential("API_TOKEN", ["api.test"])
    await stage.sandbox(allowed_hosts=["api.test"], credentials=[token])
    client = await stage.tunnel("api.test")
    headers = f"Authorization: Bearer {token.stub}"
    for number in range(40):
        body = b"x" * (number % 4 * 1000)
        got = await client.ask(get(f"/{number}", "api.test", headers, method="POST" if body else "GET", body=body))
        assert (got.status, got.text) == (200, "hello")
    assert [len(each.body) for each in host.received] == [number % 4 * 1000 for number in range(40)]
    assert host.connections == 1


async def test_pipelined_requests_are_answered_in_order(stage: Stage) -> None:
    async def echo(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer(request.target)(request, reader, writer)

    await stage.host("open.test", behaviour=echo, tls=False)
    await stage.sandbox(allowed_hosts=["open.test"])
    client = await stage.client()
    await client.send(b"".join(get(f"http://open.test/{number}", "open.test") for number in range(10)))
    assert [(await client.answer()).text for _ in range(10)] == [f"/{number}" for number in range(10)]


@pytest.mark.parametrize("kind", ["form", "json", "large"])
async def test_a_body_carries_the_secret_where_the_binding_says(stage: Stage, kind: str) -> None:
    host = await stage.host("api.test")
    token = stage.credential("API_TOKEN", ["api.test"], body=True, header=False)
    await stage.sandbox(allowed_hosts=["api.test"], credentials=[token])
    client = await stage.tunnel("api.test")
    body, content_type = {
        "form": (f"grant=x&token={token.stub}".encode(), "application/x-www-form-urlencoded"),
        "json": (f'{{"token": "{token.stub}"}}'.encode(), "application/json"),
        "large": (b"y" * 3_000_000, "application/octet-stream"),
    }[kind]
    request = get(
        "/login", "api.test", f"Content-Type: {content_type}", "Expect: 100-continue", method="POST", body=body
    )
    got = await client.ask(request)
    assert got.status == 200
    sent = host.received[0].body
    assert sent == body if kind == "large" else token.stub.encode() not in sent
    if kind == "json":
        assert json.loads(sent) == {"token": CANARY}
    if kind == "form":
        assert parse_qs(sent.decode())["token"] == [CANARY]


async def test_a_query_parameter_carries_the_secret_where_the_binding_says(stage: Stage) -> None:
    host = await stage.host("api.test")
    token = stage.credential("API_TOKEN", ["api.test"], query_parameter="key", header=False)
    await stage.sandbox(allowed_hosts=["api.test"], credentials=[token])
    client = await stage.tunnel("api.test")
    assert (await client.ask(get(f"/x?a=1&key={token.stub}", "api.test"))).status == 200
    assert parse_qs(host.received[0].target.partition("?")[2]) == {"a": ["1"], "key": [CANARY]}
    entry = await stage.audit.wait()
    assert (entry.path, entry.credential) == ("/x", "API_TOKEN")


async def test_answers_of_every_framing_are_passed_on(stage: Stage) -> None:
    host = await stage.host("api.test")
    await stage.sandbox(allowed_hosts=["api.test"], credentials=[stage.credential("API_TOKEN", ["api.test"])])
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\n"
    for sent, body in (
        (chunked, b"abcde"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold", b"old"),
    ):
        host.behaviour = raw_answer(sent)
        client = await stage.tunnel("api.test")
        assert (await client.ask(get("/", "api.test"))).body == body
        host.behaviour = answer("again")
        assert (await client.ask(get("/", "api.test"))).text == "again"
    host.behaviour = raw_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")
    assert (await client.ask(get("/", "api.test", method="HEAD"), "HEAD")).headers["content-length"] == "99"


async def test_an_old_client_is_answered_until_the_end(stage: Stage) -> None:
    await stage.host("open.test", behaviour=raw_answer(b"HTTP/1.1 200 OK\r\n\r\nwithout a length"), tls=False)
    await stage.sandbox(allowed_hosts=["open.test"])
    client = await stage.client()
    await client.send(b"GET http://open.test/ HTTP/1.0\r\n\r\n")
    assert (await client.rest()).endswith(b"\r\n\r\nwithout a length")


async def test_a_kept_connection_that_has_ended_is_replaced(stage: Stage) -> None:
    host = await stage.host("api.test", behaviour=answer("one"))
    await stage.sandbox(allowed_hosts=["api.test"], credentials=[stage.credential("API_TOKEN", ["api.test"])])
    client = await stage.tunnel("api.test")
    assert (await client.ask(get("/", "api.test"))).text == "one"
    host.drop()
    assert (await client.ask(get("/", "api.test"))).text == "one"
    assert host.connections == 2


@pytest.mark.parametrize("name", ["api.test", "open.test"])
@pytest.mark.parametrize("pieces", [1, 2, 40])
async def test_a_hello_in_any_pieces_opens_the_tunnel(stage: Stage, name: str, pieces: int) -> None:
    await stage.host("api.test", "open.test")
    await stage.sandbox(
        allowed_hosts=["api.test", "open.test"], credentials=[stage.credential("API_TOKEN", ["api.test"])]
    )
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context(cafile=str(await stage.session_ca())).wrap_bio(
        incoming, outgoing, server_hostname=name
    )
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = f"CONNECT {name}:443 HTTP/1.0\r\n\r\n".encode() + outgoing.read()
    client = await stage.client()
    size = len(hello) // pieces + 1
    for start in range(0, len(hello), size):
        await client.send(hello[start : start + size])
        await asyncio.sleep(0.001 if pieces > 1 else 0)
    data = await client.reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in data
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            incoming.write(await asyncio.wait_for(client.reader.read(65536), 5))
        else:
            break
    assert tls.getpeercert()
