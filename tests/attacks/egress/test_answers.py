"""A bound host that gives the secret back, or tries to be more than a host."""

import asyncio
import base64
import gzip
import html
import json
from collections.abc import Callable
from urllib.parse import quote

import pytest

from tests.support.egress import CANARY, Behaviour, Received, Stage, TestHost, answer, get, raw_answer

_SECRET = CANARY.encode()


@pytest.fixture
async def stub(stage: Stage) -> str:
    """The stub of a credential that is bound to api.test and bad.test."""
    token = stage.credential("API_TOKEN", ["api.test", "bad.test"])
    await stage.sandbox(allowed_hosts=["api.test", "bad.test", "plain.test"], credentials=[token])
    return token.stub


async def _ask(stage: Stage, stub: str, behaviour: Behaviour, *headers: str) -> tuple[TestHost, bytes]:
    host = await stage.host("api.test", behaviour=behaviour)
    client = await stage.tunnel("api.test")
    await client.send(get("/", "api.test", f"Authorization: Bearer {stub}", "Connection: close", *headers))
    got = await client.rest()
    assert host.received[0].header("authorization") == f"Bearer {CANARY}".encode().decode("latin-1")
    return host, got


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(_SECRET, id="raw"),
        pytest.param(base64.b64encode(_SECRET), id="base64"),
        pytest.param(base64.b64encode(b"u:" + _SECRET), id="base64-after-two"),
        pytest.param(base64.b64encode(b"me:" + _SECRET + b":x"), id="base64-after-three"),
        pytest.param(base64.b64encode(b"user:" + _SECRET), id="base64-after-five"),
        pytest.param(base64.urlsafe_b64encode(_SECRET), id="base64-for-urls"),
        pytest.param(_SECRET.hex().encode(), id="hex"),
        pytest.param(_SECRET.hex().upper().encode(), id="hex-in-capitals"),
        pytest.param(quote(_SECRET, safe="").encode(), id="url"),
        pytest.param(quote(_SECRET).encode(), id="url-with-slash"),
        pytest.param(json.dumps(CANARY)[1:-1].encode(), id="json"),
        pytest.param(json.dumps(CANARY, ensure_ascii=False)[1:-1].encode(), id="json-in-unicode"),
        pytest.param(json.dumps(CANARY).replace("/", "\\/")[1:-1].encode(), id="json-with-escaped-slash"),
        pytest.param(html.escape(CANARY).encode(), id="html"),
    ],
)
@pytest.mark.parametrize("place", ["body", "header", "reason", "chunks", "bytes"])
async def test_an_echo_is_masked(stage: Stage, stub: str, form: bytes, place: str) -> None:
    sse = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    half = len(form) // 2
    behaviours = {
        "body": raw_answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n<%b>" % (len(form) + 2, form)),
        "header": raw_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Echo: <%b>\r\n\r\n" % form),
        "reason": raw_answer(b"HTTP/1.1 400 no %b\r\nContent-Length: 0\r\n\r\n" % form),
        "chunks": raw_answer(sse, _chunk(b"data: <" + form[:half]), _chunk(form[half:] + b">\n\n"), _chunk(b"")),
        "bytes": raw_answer(sse, *[_chunk(bytes([each])) for each in b"<" + form + b">"], _chunk(b"")),
    }
    _, got = await _ask(stage, stub, behaviours[place])
    assert form not in got
    assert b"****" in got
    assert form[1:-1] not in got
    entry = await stage.audit.wait()
    assert (entry.verdict, entry.credential) == ("allowed", "API_TOKEN")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_an_event_is_not_held_back_by_the_search(stage: Stage, stub: str) -> None:
    going = asyncio.Event()

    async def behave(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: one\n\n")
        await going.wait()
        writer.write(b"data: two\n\n")
        writer.close()

    await stage.host("api.test", behaviour=behave)
    client = await stage.tunnel("api.test")
    await client.send(get("/", "api.test", f"Authorization: Bearer {stub}"))
    seen = b""
    while b"data: one\n\n" not in seen:
        seen += await asyncio.wait_for(client.reader.read(1000), 5)
    going.set()
    while b"data: two\n\n" not in seen:
        seen += await asyncio.wait_for(client.reader.read(1000), 5)
    assert (await stage.audit.wait()).status == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "identity, gzip"])
async def test_an_encoded_answer_is_not_passed_on(stage: Stage, stub: str, encoding: str) -> None:
    body = gzip.compress(_SECRET * 10)
    host, got = await _ask(
        stage, stub, answer(body, headers=[("Content-Encoding", encoding)]), f"Accept-Encoding: {encoding}"
    )
    assert host.received[0].header("accept-encoding") == "identity"
    assert got.startswith(b"HTTP/1.1 502 ")
    assert body not in got
    entry = await stage.audit.wait()
    assert (entry.verdict, entry.reason) == ("failed", "encoded_answer")


async def test_an_echo_cannot_be_asked_for_in_parts(stage: Stage, stub: str) -> None:
    host, _ = await _ask(stage, stub, answer("x"), "Range: bytes=0-3", "If-Range: a")
    assert (host.received[0].header("range"), host.received[0].header("if-range")) == (None, None)
    assert (await stage.audit.wait()).verdict == "allowed"


async def test_what_was_kept_from_an_earlier_request_is_masked_too(stage: Stage, stub: str) -> None:
    await stage.host("api.test", behaviour=answer(b"kept: " + _SECRET))
    client = await stage.tunnel("api.test")
    got = await client.ask(get("/", "api.test"))
    assert got.text.startswith("kept: ***")
    assert _SECRET not in got.body
    assert (await stage.audit.wait()).credential is None


async def test_a_bound_host_gives_no_cookies(stage: Stage, stub: str) -> None:
    _, got = await _ask(stage, stub, answer("x", headers=[("Set-Cookie", "session=1"), ("X-Other", "2")]))
    assert b"Set-Cookie" not in got
    assert b"X-Other: 2" in got
    assert (await stage.audit.wait()).verdict == "allowed"


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", id="two-lengths"),
        pytest.param(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nraw", id="unasked-switch"),
        pytest.param(b"nonsense\r\n\r\n", id="not-http"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 200_000, id="endless-head"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1 200 OK\r\n", id="half-a-head"),
    ],
)
async def test_a_broken_answer_is_a_502(stage: Stage, stub: str, sent: bytes) -> None:
    _, got = await _ask(stage, stub, raw_answer(sent))
    assert got.startswith(b"HTTP/1.1 502 Host api.test ended the connection without a valid answer")
    entry = await stage.audit.wait()
    assert (entry.verdict, entry.reason, entry.credential) == ("failed", "upstream_lost", "API_TOKEN")


async def test_an_answer_that_is_cut_short_is_seen_to_be(stage: Stage, stub: str) -> None:
    await stage.host("api.test", behaviour=raw_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nxyz"))
    client = await stage.tunnel("api.test")
    got = await client.ask(get("/", "api.test", f"Authorization: Bearer {stub}"))
    assert (got.body, got.complete) == (b"xyz", False)
    assert (await stage.audit.wait()).verdict == "failed"


@pytest.mark.parametrize("apart", [True, False])
async def test_an_answer_that_waits_before_it_is_asked_for_is_given_to_nobody(
    stage: Stage, stub: str, apart: bool
) -> None:
    poison = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"

    async def behave(request: Received, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        one = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none"
        # Apart: two TLS records in one packet, of which a reader takes one at a time.
        for part in (one, poison) if apart else (one + poison,):
            writer.write(part)

    host = await stage.host("api.test", behaviour=behave)
    client = await stage.tunnel("api.test")
    for _ in range(3):
        assert (await client.ask(get("/", "api.test"))).text == "one"
    await stage.audit.wait(3)
    assert host.connections == 3


async def test_an_answer_nobody_asked_for_is_given_to_nobody(stage: Stage, stub: str) -> None:
    twice = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none"
    host = await stage.host(
        "api.test", behaviour=raw_answer(twice + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
    )
    client = await stage.tunnel("api.test")
    assert (await client.ask(get("/1", "api.test"))).text == "one"
    host.behaviour = answer("two")
    assert (await client.ask(get("/2", "api.test"))).text == "two"
    await stage.audit.wait(2)
    assert host.connections == 2


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda stage: stage.root.server_context("other.test"), "upstream_certificate", id="other-name"),
        pytest.param(lambda stage: stage.root.server_context("bad.test", expired=True), "upstream_certificate",
                     id="expired"),
        pytest.param(lambda stage: type(stage.root)(stage.folder / "rogue").server_context("bad.test"),
                     "upstream_certificate", id="another-root"),
        pytest.param(lambda stage: None, "upstream_tls", id="no-tls"),
    ],
)  # fmt: skip
async def test_an_upstream_that_is_not_who_it_should_be_gets_nothing(
    stage: Stage, stub: str, make: Callable[[Stage], object], reason: str
) -> None:
    (stage.folder / "rogue").mkdir()
    context = make(stage)
    host = await stage.host("bad.test", context=context, tls=context is not None)  # type: ignore[arg-type]
    client = await stage.tunnel("bad.test")
    got = await client.ask(get("/", "bad.test", f"Authorization: Bearer {stub}"))
    assert (got.status, got.headers["x-bulkhead-reason"]) == (502, reason)
    assert "bad.test" in got.text
    entry = await stage.audit.wait()
    assert (entry.verdict, entry.reason) == ("failed", reason)
    assert host.received == []
    assert _SECRET not in host.raw


async def test_a_websocket_that_gives_the_secret_back_is_masked(stage: Stage, stub: str) -> None:
    frame = b"\x81" + bytes([len(_SECRET)]) + _SECRET

    async def behave(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n" + frame[:9]
        )
        await asyncio.sleep(0)
        writer.write(frame[9:] + await reader.readexactly(4))
        writer.close()

    host = await stage.host("api.test", behaviour=behave)
    client = await stage.tunnel("api.test")
    await client.send(
        get("/ws", "api.test", f"Authorization: Bearer {stub}", "Connection: Upgrade", "Upgrade: websocket",
            "Sec-WebSocket-Key: abc", "Sec-WebSocket-Extensions: permessage-deflate")
    )  # fmt: skip
    await client.send(b"ping")
    got = await client.rest()
    assert got.startswith(b"HTTP/1.1 101 ")
    assert got.endswith(b"\x81" + bytes([len(_SECRET)]) + b"*" * len(_SECRET) + b"ping")
    assert host.received[0].header("sec-websocket-extensions") is None
    entry = await stage.audit.wait()
    assert (entry.status, entry.verdict) == (101, "allowed")
