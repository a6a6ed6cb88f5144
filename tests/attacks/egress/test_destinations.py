"""Reaching another host than the one that is allowed, or letting one look like another."""

import ssl

import pytest

from tests.support.egress import CANARY, Stage, answer, get


@pytest.fixture
async def stub(stage: Stage) -> str:
    """The stub of a credential that is bound to api.test; open.test is allowed and has none."""
    token = stage.credential("API_TOKEN", ["api.test"])
    hosts = ["api.test", "open.test", "*.wild.test", "8.8.8.8"]
    await stage.sandbox(allowed_hosts=hosts, credentials=[token])
    return token.stub


@pytest.mark.parametrize(
    ("target", "status", "reason"),
    [
        pytest.param("evil.test:443", 403, "host_not_allowed", id="own-host"),
        pytest.param("api.test.evil.test:443", 403, "host_not_allowed", id="suffix-added"),
        pytest.param("evilapi.test:443", 403, "host_not_allowed", id="prefix-added"),
        pytest.param("evil-api.test:443", 403, "host_not_allowed", id="prefix-with-hyphen"),
        pytest.param("wild.test:443", 403, "host_not_allowed", id="wildcard-without-label"),
        pytest.param("evilwild.test:443", 403, "host_not_allowed", id="wildcard-without-dot"),
        pytest.param("xn--99999999.test:443", 400, "bad_destination", id="broken-a-label"),
        pytest.param("xn--ap-yka.test:443", 403, "host_not_allowed", id="look-alike-a-label"),
        pytest.param("api.test:8443", 403, "port_not_allowed", id="bound-host-other-port"),
        pytest.param("api.test:80", 403, "port_not_allowed", id="connect-to-port-80"),
        pytest.param("open.test:22", 403, "port_not_allowed", id="another-port"),
        pytest.param("api.test", 400, "bad_destination", id="no-port"),
        pytest.param("api.test:", 400, "bad_destination", id="empty-port"),
        pytest.param("api.test:0443", 400, "bad_destination", id="port-with-zero"),
        pytest.param("api.test:443:443", 400, "bad_destination", id="two-ports"),
        pytest.param("api.test:65979", 400, "bad_destination", id="port-that-wraps-to-443"),
        pytest.param("user@api.test:443", 400, "bad_destination", id="user-information"),
        pytest.param("evil.test:443@api.test:443", 400, "bad_destination", id="user-information-like-a-host"),
        pytest.param("api.test..:443", 400, "bad_destination", id="two-trailing-dots"),
        pytest.param("api%2etest:443", 400, "bad_destination", id="encoded-dot"),
        pytest.param("https://api.test:443", 400, "bad_destination", id="connect-with-a-url"),
        pytest.param("2130706433:443", 400, "bad_destination", id="decimal-address"),
        pytest.param("0177.0.0.1:443", 400, "bad_destination", id="octal-address"),
        pytest.param("0x7f.0.0.1:443", 400, "bad_destination", id="hexadecimal-address"),
        pytest.param("127.1:443", 400, "bad_destination", id="short-address"),
        pytest.param("127.0.0.1:443", 403, "host_not_allowed", id="loopback-address"),
        pytest.param("[::ffff:127.0.0.1]:443", 403, "host_not_allowed", id="mapped-address"),
        pytest.param("[::1%25lo]:443", 400, "bad_destination", id="address-with-zone"),
        pytest.param("[::1:443", 400, "bad_destination", id="half-a-bracket"),
    ],
)
async def test_a_connect_elsewhere_is_refused_without_a_look_up(
    stage: Stage, stub: str, target: str, status: int, reason: str
) -> None:
    evil = await stage.host("evil.test", "api.test", "open.test")
    client = await stage.client()
    got = await client.ask(f"CONNECT {target} HTTP/1.0\r\n\r\n", "CONNECT")
    assert got.status == status
    assert got.headers["x-bulkhead-reason"] == reason
    assert got.body
    entry = await stage.audit.wait()
    assert (entry.verdict, entry.reason) == ("denied", reason)
    assert (evil.connections, stage.resolver.asked) == (0, [])


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(b"api\x00.test:443", id="nul"),
        pytest.param(b"api.test\x01:443", id="control"),
        pytest.param(b"api.test\x7f:443", id="delete"),
        pytest.param("äpi.test:443".encode(), id="outside-ascii"),
        pytest.param(b"api.test:443\tevil.test:443", id="tab"),
        pytest.param(b"api.test:443 evil.test:443", id="two-targets"),
    ],
)
async def test_a_connect_with_bytes_that_no_host_has_is_malformed(stage: Stage, stub: str, target: bytes) -> None:
    host = await stage.host("api.test")
    client = await stage.client()
    got = await client.ask(b"CONNECT " + target + b" HTTP/1.0\r\n\r\n", "CONNECT")
    assert got.status == 400
    assert (await stage.audit.wait()).reason in {"malformed_request", "bad_destination"}
    assert host.connections == 0


@pytest.mark.parametrize("written", ["API.test", "api.test.", "Api.Test."])
async def test_another_way_to_write_the_host_is_the_same_host(stage: Stage, stub: str, written: str) -> None:
    host = await stage.host("api.test")
    client = await stage.client()
    assert (await client.ask(f"CONNECT {written}:443 HTTP/1.0\r\n\r\n", "CONNECT")).status == 200
    await client.secure("api.test", await stage.session_ca())
    got = await client.ask(get("/", written, f"Authorization: Bearer {stub}"))
    assert got.status == 200
    assert host.received[0].header("host") == "api.test"
    assert (await stage.audit.wait()).host == "api.test"


async def test_an_international_name_matches_its_a_labels(stage: Stage) -> None:
    host = await stage.host("xn--bcher-kva.test")
    token = stage.credential("API_TOKEN", ["BÜCHER.test"])
    await stage.sandbox(allowed_hosts=["bücher.test"], credentials=[token])
    client = await stage.tunnel("xn--bcher-kva.test")
    got = await client.ask(get("/", "xn--bcher-kva.test", f"Authorization: Bearer {token.stub}"))
    assert got.status == 200
    assert host.received[0].header("authorization") == f"Bearer {CANARY}".encode().decode("latin-1")
    assert (await stage.audit.wait()).credential == "API_TOKEN"


@pytest.mark.parametrize("host", ["api.test", "open.test"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("evil.test", "server_name_mismatch", id="another-name"),
        pytest.param("sub.api.test", "server_name_mismatch", id="a-name-below"),
        pytest.param(None, "server_name_missing", id="no-name"),
    ],
)
async def test_tls_for_another_name_is_closed(
    stage: Stage, stub: str, host: str, name: str | None, reason: str
) -> None:
    behind = await stage.host("api.test", "open.test", "evil.test", "sub.api.test")
    client = await stage.client()
    await client.ask(f"CONNECT {host}:443 HTTP/1.0\r\n\r\n", "CONNECT")
    with pytest.raises(OSError):
        await client.secure(name, None if name is None else await stage.session_ca())
    entry = await stage.audit.wait()
    assert (entry.verdict, entry.reason, entry.host) == ("denied", reason, host)
    assert bytes(behind.raw) == b""


@pytest.mark.parametrize("host", ["api.test", "open.test"])
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: api.test\r\n\r\n", id="http"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="ssh"),
        pytest.param(b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00", id="not-a-hello"),
        pytest.param(b"\x16\x03\x01\x40\x00\x01\x00\xff\xff" + b"\0" * 17000, id="endless-hello"),
        pytest.param(b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", id="empty-hello"),
    ],
)
async def test_a_tunnel_that_does_not_begin_with_tls_is_closed(
    stage: Stage, stub: str, host: str, sent: bytes
) -> None:
    behind = await stage.host("api.test", "open.test")
    client = await stage.client()
    await client.ask(f"CONNECT {host}:443 HTTP/1.0\r\n\r\n", "CONNECT")
    await client.send(sent)
    assert await client.rest() == b""
    entry = await stage.audit.wait()
    assert (entry.verdict, entry.reason) == ("denied", "not_tls")
    assert bytes(behind.raw) == b""


@pytest.mark.parametrize(
    ("request_line", "status", "reason"),
    [
        pytest.param("GET http://api.test/", 403, "plain_http_to_bound_host", id="plain-http-to-bound-host"),
        pytest.param("GET http://api.test:443/", 403, "plain_http_to_bound_host", id="plain-http-on-443"),
        pytest.param("GET http://evil.test/", 403, "host_not_allowed", id="plain-http-elsewhere"),
        pytest.param("GET http://open.test:8080/", 403, "port_not_allowed", id="plain-http-other-port"),
        pytest.param("GET https://api.test/", 400, "not_a_proxy_request", id="https-without-connect"),
        pytest.param("GET ftp://open.test/", 400, "not_a_proxy_request", id="another-scheme"),
        pytest.param("GET file:///etc/passwd", 400, "not_a_proxy_request", id="a-file"),
        pytest.param("GET /", 400, "not_a_proxy_request", id="a-page-of-the-proxy"),
        pytest.param("GET //api.test/", 400, "not_a_proxy_request", id="no-scheme"),
        pytest.param("GET http://user:pass@open.test/", 400, "bad_destination", id="user-information"),
        pytest.param("GET http://open.test\\@evil.test/", 400, "bad_destination", id="backslash"),
        pytest.param("GET http://", 400, "bad_destination", id="no-host"),
        pytest.param("OPTIONS *", 400, "not_a_proxy_request", id="asterisk"),
    ],
)
async def test_a_plain_request_elsewhere_is_refused(
    stage: Stage, stub: str, request_line: str, status: int, reason: str
) -> None:
    behind = await stage.host("api.test", "open.test", "evil.test", tls=False)
    host = request_line.partition("://")[2].partition("/")[0] or "x"
    client = await stage.client()
    got = await client.ask(f"{request_line} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {stub}\r\n\r\n")
    assert (got.status, got.headers["x-bulkhead-reason"]) == (status, reason)
    assert (await stage.audit.wait()).verdict == "denied"
    assert behind.connections == 0


async def test_a_stub_is_not_sent_in_plain_http(stage: Stage, stub: str) -> None:
    behind = await stage.host("open.test", tls=False)
    client = await stage.client()
    got = await client.ask(get("http://open.test/", "open.test", f"Authorization: Bearer {stub}"))
    assert (got.status, got.headers["x-bulkhead-reason"]) == (403, "credential_not_bound")
    entry = await stage.audit.wait()
    assert (entry.verdict, entry.credential) == ("denied", "API_TOKEN")
    assert behind.connections == 0


@pytest.mark.parametrize(
    ("target", "host", "status", "reason"),
    [
        pytest.param("https://api.test/", "api.test", 400, "bad_target", id="absolute-form-same-host"),
        pytest.param("https://evil.test/", "api.test", 400, "bad_target", id="absolute-form-other-host"),
        pytest.param("http://evil.test/", "evil.test", 403, "host_mismatch", id="absolute-form-and-host"),
        pytest.param("/", "evil.test", 403, "host_mismatch", id="other-host"),
        pytest.param("/", "second.test", 403, "host_mismatch", id="other-bound-host"),
        pytest.param("/", "api.test:8443", 403, "host_mismatch", id="other-port"),
        pytest.param("/", "api.test:80", 403, "host_mismatch", id="port-80"),
        pytest.param("/", "me@api.test", 400, "bad_destination", id="user-information"),
        pytest.param("/", "evil.test, api.test", 403, "host_mismatch", id="list"),
        pytest.param("/", "api.test/evil", 403, "host_mismatch", id="path-in-host"),
        pytest.param("/", "", 403, "host_mismatch", id="empty-host"),
        pytest.param("*", "api.test", 400, "bad_target", id="asterisk"),
        pytest.param("evil.test:443", "api.test", 400, "bad_target", id="authority-form"),
        pytest.param("/a#b", "api.test", 400, "bad_target", id="fragment"),
    ],
)
async def test_a_request_for_another_host_inside_a_bound_tunnel_is_refused(
    stage: Stage, target: str, host: str, status: int, reason: str
) -> None:
    tokens = [
        stage.credential("API_TOKEN", ["api.test"]),
        stage.credential("SECOND", ["second.test"], secret="other"),
    ]
    await stage.sandbox(allowed_hosts=["api.test", "second.test", "evil.test"], credentials=tokens)
    behind = await stage.host("api.test", "second.test", "evil.test")
    client = await stage.tunnel("api.test")
    got = await client.ask(get(target, host, f"Authorization: Bearer {tokens[0].stub}"))
    assert (got.status, got.headers["x-bulkhead-reason"]) == (status, reason)
    entry = await stage.audit.wait()
    assert (entry.verdict, entry.host) == ("denied", "api.test")
    assert behind.connections == 0


async def test_a_wildcard_binding_is_one_label(stage: Stage) -> None:
    token = stage.credential("API_TOKEN", ["*.api.test"])
    await stage.sandbox(allowed_hosts=["*.api.test"], credentials=[token])
    behind = await stage.host("eu.api.test", "deep.eu.api.test")
    client = await stage.tunnel("eu.api.test")
    assert (await client.ask(get("/", "eu.api.test", f"Authorization: Bearer {token.stub}"))).status == 200
    client = await stage.tunnel("deep.eu.api.test")
    await client.ask(get("/", "deep.eu.api.test", f"Authorization: Bearer {token.stub}"))
    # Not bound, so the tunnel is opaque: what arrives is the worthless stub.
    assert [each.header("authorization") for each in behind.received][1] == f"Bearer {token.stub}"
    client.close()
    assert (await stage.audit.wait(2)).credential is None


async def test_a_redirect_is_not_followed(stage: Stage, stub: str) -> None:
    evil = await stage.host("evil.test")
    await stage.host("api.test", behaviour=answer(status="302 Found", headers=[("Location", "https://evil.test/")]))
    client = await stage.tunnel("api.test")
    got = await client.ask(get("/", "api.test", f"Authorization: Bearer {stub}"))
    assert (got.status, got.headers["location"]) == (302, "https://evil.test/")
    assert (await stage.audit.wait()).status == 302
    assert evil.connections == 0


async def test_only_http_1_1_is_spoken(stage: Stage, stub: str) -> None:
    behind = await stage.host("api.test")
    client = await stage.client()
    await client.ask("CONNECT api.test:443 HTTP/1.0\r\n\r\n", "CONNECT")
    context = ssl.create_default_context(cafile=str(await stage.session_ca()))
    context.set_alpn_protocols(["h2"])
    await client.writer.start_tls(context, server_hostname="api.test")
    assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() is None
    got = await client.ask(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert got.status == 505
    assert (await stage.audit.wait()).reason == "malformed_request"
    assert behind.connections == 0
