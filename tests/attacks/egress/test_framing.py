"""Requests that two readers would read differently."""

import pytest

from tests.support.egress import Stage, get, raw_answer

_HOST = b"Host: api.test\r\n"
_GET = b"GET / HTTP/1.1\r\n" + _HOST
_POST = b"POST / HTTP/1.1\r\n" + _HOST


@pytest.fixture
async def stub(stage: Stage) -> str:
    """The stub of a credential that is bound to one path of api.test."""
    token = stage.credential("API_TOKEN", ["api.test"], path_prefixes=["/repos/acme"], methods=["GET", "POST"])
    await stage.sandbox(allowed_hosts=["api.test", "open.test"], credentials=[token])
    return token.stub


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        pytest.param(_POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                     400, id="length-and-chunked"),
        pytest.param(_POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 501,
                     id="two-encodings"),
        pytest.param(_POST + b"Transfer-Encoding: xchunked\r\n\r\n", 501, id="odd-encoding"),
        pytest.param(_POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n",
                     501, id="two-encoding-headers"),
        pytest.param(b"POST / HTTP/1.0\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400,
                     id="chunked-in-1.0"),
        pytest.param(_POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd", 400,
                     id="two-lengths"),
        pytest.param(_POST + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd", 400,
                     id="the-same-length-twice"),
        pytest.param(_POST + b"Content-Length: +4\r\n\r\nabcd", 400, id="signed-length"),
        pytest.param(_POST + b"Content-Length: 4, 5\r\n\r\nabcd", 400, id="length-list"),
        pytest.param(_POST + b"Content-Length: 0x4\r\n\r\nabcd", 400, id="hex-length"),
        pytest.param(_POST + b"Content-Length : 4\r\n\r\nabcd", 400, id="space-before-colon"),
        pytest.param(_GET + _HOST + b"\r\n", 400, id="two-hosts"),
        pytest.param(_GET + b"Host: evil.test\r\n\r\n", 400, id="two-different-hosts"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, id="no-host"),
        pytest.param(b"GET / HTTP/1.1\nHost: api.test\n\n", 400, id="bare-line-feeds"),
        pytest.param(_GET + b"A: b\nX: y\r\n\r\n", 400, id="one-bare-line-feed"),
        pytest.param(_GET + b"A: b\rX: y\r\n\r\n", 400, id="bare-carriage-return"),
        pytest.param(_GET + b"A: b\r\n c\r\n\r\n", 400, id="folded-header"),
        pytest.param(_GET + b"A: b\r\n\tc\r\n\r\n", 400, id="folded-header-by-tab"),
        pytest.param(b"GET / HTTP/1.1\r\n Host: evil.test\r\n" + _HOST + b"\r\n", 400, id="space-before-header"),
        pytest.param(_GET + b"A: b\x00c\r\n\r\n", 400, id="nul-in-header"),
        pytest.param(_GET + b"A: b\x0bc\r\n\r\n", 400, id="control-in-header"),
        pytest.param(_GET + b"A b: c\r\n\r\n", 400, id="space-in-name"),
        pytest.param(_GET + b": c\r\n\r\n", 400, id="empty-name"),
        pytest.param(b"GET  / HTTP/1.1\r\n" + _HOST + b"\r\n", 400, id="two-spaces"),
        pytest.param(b"GET /a b HTTP/1.1\r\n" + _HOST + b"\r\n", 400, id="space-in-target"),
        pytest.param(b"GET / HTTP/2.0\r\n" + _HOST + b"\r\n", 505, id="another-version"),
        pytest.param(b"GET /\r\n" + _HOST + b"\r\n", 400, id="no-version"),
        pytest.param(b"\r\nGET / HTTP/1.1\r\n" + _HOST + b"\r\n", 400, id="leading-empty-line"),
        pytest.param(_GET + b"A: " + b"x" * 70_000 + b"\r\n\r\n", 431, id="large-header"),
        pytest.param(_GET + b"A: b\r\n" * 300 + b"\r\n", 431, id="many-headers"),
        pytest.param(b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n" + _HOST + b"\r\n", 431, id="long-target"),
        pytest.param(b"TRACE / HTTP/1.1\r\n" + _HOST + b"\r\n", 405, id="trace"),
        pytest.param(b"trace / HTTP/1.1\r\n" + _HOST + b"\r\n", 405, id="trace-in-lower-case"),
        pytest.param(b"TRACK / HTTP/1.1\r\n" + _HOST + b"\r\n", 405, id="track"),
    ],
)  # fmt: skip
async def test_an_unclear_request_goes_no_further(stage: Stage, stub: str, request_bytes: bytes, status: int) -> None:
    host = await stage.host("api.test")
    client = await stage.tunnel("api.test")
    got = await client.ask(request_bytes)
    assert got.status == status
    assert got.body
    assert (await stage.audit.wait()).verdict == "denied"
    assert host.received == []
    assert await client.rest() == b"", "the connection goes on after an unclear request"


@pytest.mark.parametrize("names", [("api.test",), ("open.test",)])
async def test_the_same_holds_for_plain_requests(stage: Stage, stub: str, names: tuple[str]) -> None:
    host = await stage.host(*names, tls=False)
    client = await stage.client()
    got = await client.ask(
        f"POST http://{names[0]}/ HTTP/1.1\r\nHost: {names[0]}\r\n"
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert got.status == 400
    assert (await stage.audit.wait()).reason == "malformed_request"
    assert host.connections == 0


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"5\r\nabcdeXX0\r\n\r\n", id="bad-terminator"),
        pytest.param(b"5\nabcde\r\n0\r\n\r\n", id="bare-line-feed-in-chunk-header"),
        pytest.param(b"-5\r\nabcde\r\n0\r\n\r\n", id="negative"),
        pytest.param(b"0x5\r\nabcde\r\n0\r\n\r\n", id="prefixed"),
        pytest.param(b"f" * 21 + b"\r\n", id="too-many-digits"),
        pytest.param(b"g\r\n", id="not-a-number"),
        pytest.param(b"5 \r\nabcde\r\n0\r\n\r\n", id="padded"),
        pytest.param(b"5;a\x00b\r\nabcde\r\n0\r\n\r\n", id="control-in-extension"),
        pytest.param(b"5\r\nabcde\r\n0\r\nA: b\n\r\n\r\n", id="bare-line-feed-in-trailer"),
        pytest.param(b"5\r\nabcde\r\n0\r\nA: " + b"b" * 10_000 + b"\r\n\r\n", id="endless-trailer"),
        pytest.param(b"5;" + b"a" * 300_000 + b"\r\nabcde\r\n0\r\n\r\n", id="endless-extension"),
    ],
)
async def test_a_broken_chunk_ends_the_request(stage: Stage, stub: str, body: bytes) -> None:
    host = await stage.host("api.test")
    client = await stage.tunnel("api.test")
    head = b"POST /x HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    got = await client.ask(head + body)
    assert got.status in {400, 413, 431}
    entry = await stage.audit.wait()
    assert entry.verdict == "denied"
    assert entry.reason in {"malformed_request", "head_too_large"}
    assert host.received == [], "the upstream took the request for complete"


async def test_a_length_that_is_called_the_hops_own_is_said_anew(stage: Stage, stub: str) -> None:
    host = await stage.host("api.test")
    client = await stage.tunnel("api.test")
    smuggled = get("/smuggled", "evil.test")
    request = get("/first", "api.test", "Connection: Content-Length", method="POST", body=smuggled)
    assert (await client.ask(request)).status == 200
    assert [(each.target, each.body) for each in host.received] == [("/first", smuggled)]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="both"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", id="two-lengths"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: y\r\n Content-Length: 3\r\n\r\nabc", id="folded-header"),
        pytest.param(b"HTTP/1.1 200 OK\nContent-Length: 3\n\nabc", id="bare-line-feeds"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc", id="odd-encoding"),
    ],
)
async def test_an_unclear_answer_is_not_passed_on(stage: Stage, stub: str, answer: bytes) -> None:
    await stage.host("api.test", behaviour=raw_answer(answer))
    client = await stage.tunnel("api.test")
    got = await client.ask(get("/", "api.test"))
    assert (got.status, got.headers["x-bulkhead-reason"]) == (502, "upstream_lost")
    assert (await stage.audit.wait()).reason == "upstream_lost"


async def test_an_unclear_request_after_a_clear_one_is_answered_too(stage: Stage, stub: str) -> None:
    host = await stage.host("api.test")
    client = await stage.tunnel("api.test")
    assert (await client.ask(get("/", "api.test"))).status == 200
    assert (await client.ask(b"GET / HTTP/1.1\nHost: api.test\n\n")).status == 400
    assert (await stage.audit.wait(2)).reason == "malformed_request"
    assert len(host.received) == 1


async def test_what_follows_a_request_is_a_request_of_its_own(stage: Stage, stub: str) -> None:
    host = await stage.host("api.test")
    client = await stage.tunnel("api.test")
    smuggled = get("/smuggled", "evil.test", f"Authorization: Bearer {stub}")
    await client.send(get("/first", "api.test", method="POST", body=b"abc") + smuggled)
    assert (await client.answer()).status == 200
    assert (await client.answer()).status == 403
    assert (await stage.audit.wait(2)).reason == "host_mismatch"
    assert [each.target for each in host.received] == ["/first"]


async def test_trailers_and_connection_headers_stay_behind(stage: Stage, stub: str) -> None:
    host = await stage.host("api.test")
    client = await stage.tunnel("api.test")
    head = "POST /x HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\nConnection: X-Secret-Hop, Host\r\n"
    head += "X-Secret-Hop: 1\r\nProxy-Authorization: Basic abc\r\nTE: trailers\r\nTrailer: Authorization\r\n"
    head += "Upgrade: h2c\r\nHTTP2-Settings: AAA\r\n\r\n"
    got = await client.ask(head + f"3\r\nabc\r\n0\r\nAuthorization: Bearer {stub}\r\n\r\n")
    assert got.status == 200
    assert sorted(name for name, _ in host.received[0].headers) == ["accept-encoding", "host", "transfer-encoding"]
    assert host.received[0].body == b"abc"
    assert stub.encode() not in host.raw
    assert (await stage.audit.wait()).verdict == "allowed"


@pytest.mark.parametrize(
    "path",
    [
        "/repos/acme/../evil", "/repos/acme/..", "/repos/acme/./../evil", "/repos/acme/%2e%2e/evil",
        "/repos/acme/%2E./evil", "/repos/acme/..%2fevil", "/repos/acme%2f..%2fevil", "/repos/acme/%252e%252e/evil",
        "/repos/acme/..;/evil", "/repos/acme/..%5cevil", "/repos/acme/..\\evil", "/repos/acme/a%00",
    ],
)  # fmt: skip
async def test_a_path_that_may_lead_out_of_its_prefix_is_refused(stage: Stage, stub: str, path: str) -> None:
    host = await stage.host("api.test")
    client = await stage.tunnel("api.test")
    got = await client.ask(get(path, "api.test", f"Authorization: Bearer {stub}"))
    assert (got.status, got.headers["x-bulkhead-reason"]) == (400, "ambiguous_path")
    assert (await stage.audit.wait()).reason == "ambiguous_path"
    assert host.connections == 0


@pytest.mark.parametrize(
    ("method", "path", "reason"),
    [
        ("GET", "/repos/acmeevil", "path_not_bound"),
        ("GET", "/repos", "path_not_bound"),
        ("GET", "/REPOS/acme", "path_not_bound"),
        ("GET", "//repos/acme", "path_not_bound"),
        ("GET", "/?/repos/acme", "path_not_bound"),
        ("DELETE", "/repos/acme", "method_not_bound"),
        ("get", "/repos/acme", "method_not_bound"),
    ],
)
async def test_a_credential_is_good_for_its_methods_and_paths_only(
    stage: Stage, stub: str, method: str, path: str, reason: str
) -> None:
    host = await stage.host("api.test")
    client = await stage.tunnel("api.test")
    got = await client.ask(get(path, "api.test", f"Authorization: Bearer {stub}", method=method))
    assert (got.status, got.headers["x-bulkhead-reason"]) == (403, reason)
    entry = await stage.audit.wait()
    assert (entry.reason, entry.credential) == (reason, "API_TOKEN")
    assert host.connections == 0
