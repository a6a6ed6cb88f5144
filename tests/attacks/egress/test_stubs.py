"""Stubs where they do not belong, and credentials that are not ours."""

import base64

import pytest

from tests.support.egress import CANARY, Stage, get, new_stub


def _basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _request(text: str, **parts: str) -> str:
    """Write a request from its lines; the host is api.test unless the text names another."""
    line, *headers = text.format(**parts).split("|")
    if not any(each.startswith("Host:") for each in headers):
        headers.insert(0, "Host: api.test")
    return "\r\n".join([f"{line.removesuffix(' HTTP/1.1')} HTTP/1.1", *headers, "", ""])


@pytest.fixture
async def stub(stage: Stage) -> str:
    """The stub of a credential that is bound to api.test; second.test has another."""
    tokens = [
        stage.credential("API_TOKEN", ["api.test"]),
        stage.credential("SECOND", ["second.test"], secret="2nd-one"),
    ]
    await stage.sandbox(allowed_hosts=["api.test", "second.test"], credentials=tokens)
    return tokens[0].stub


@pytest.mark.parametrize(
    ("request_text", "reason"),
    [
        pytest.param("GET /?q={stub}", "stub_misplaced", id="query"),
        pytest.param("GET /?access_token={stub}", "stub_misplaced", id="token-parameter"),
        pytest.param("GET /{stub}", "stub_misplaced", id="path"),
        pytest.param("GET /|Cookie: a={stub}", "stub_misplaced", id="cookie"),
        pytest.param("GET /|User-Agent: {stub}", "stub_misplaced", id="user-agent"),
        pytest.param("GET /|Referer: https://x/{stub}", "stub_misplaced", id="referer"),
        pytest.param("GET /|X-Note: {stub}", "stub_misplaced", id="any-header"),
        pytest.param("GET /|{stub}: a", "stub_misplaced", id="header-name"),
        pytest.param("{stub} /", "stub_misplaced", id="method"),
        pytest.param("GET /|Authorization: Bearer {stub}|User-Agent: {stub}", "stub_misplaced",
                     id="right-place-and-wrong-place"),
        pytest.param("GET /|Authorization: Bearer {stub}x", "stub_not_valid", id="longer-stub"),
        pytest.param("GET /|X-Note: Basic {basic}", "stub_misplaced", id="basic-elsewhere"),
        pytest.param("GET / HTTP/1.1|Host: second.test|Authorization: Bearer {stub}", "credential_not_bound",
                     id="another-bound-host"),
        pytest.param("GET / HTTP/1.1|Host: second.test|Authorization: Basic {basic}", "credential_not_bound",
                     id="basic-to-another-bound-host"),
        pytest.param("GET /|Authorization: Bearer ghp_mine", "foreign_credential",
                     id="own-token"),
        pytest.param("GET /|Authorization: ghp_mine", "foreign_credential", id="own-bare-token"),
        pytest.param("GET /|Authorization: Basic bWU6bWluZQ==", "foreign_credential",
                     id="own-password"),
        pytest.param("GET /|Authorization: Basic {basic_user}", "foreign_credential",
                     id="stub-as-user-of-own-password"),
        pytest.param("GET /|Authorization: Basic @@@", "foreign_credential", id="broken-basic"),
        pytest.param("GET /|X-Api-Key: mine", "foreign_credential", id="own-api-key"),
        pytest.param("GET /|PRIVATE-TOKEN: mine", "foreign_credential", id="own-private-token"),
        pytest.param("GET /|Cookie: session=mine", "foreign_credential", id="own-session"),
        pytest.param("GET /?access_token=mine", "foreign_credential", id="own-token-in-query"),
        pytest.param("GET /|Authorization: Bearer {stub}|Authorization: Bearer mine",
                     "foreign_credential", id="stub-and-own-token"),
        pytest.param("GET /|Authorization: Bearer mine, {stub}", "foreign_credential",
                     id="own-token-beside-stub"),
        pytest.param("GET /|Authorization: Bearer {stub}|X-Api-Key: mine", "foreign_credential",
                     id="stub-and-own-key"),
        pytest.param("GET /|Authorization: Bearer {unknown}", "stub_not_valid",
                     id="invented-stub"),
    ],
)  # fmt: skip
async def test_a_head_with_a_wrong_credential_is_blocked(
    stage: Stage, stub: str, request_text: str, reason: str
) -> None:
    host = await stage.host("api.test", "second.test")
    parts = {
        "stub": stub,
        "unknown": new_stub(),
        "basic": _basic(f"me:{stub}").removeprefix("Basic "),
        "basic_user": _basic(f"{stub}:mine").removeprefix("Basic "),
    }
    request = _request(request_text, **parts)
    client = await stage.tunnel("second.test" if "second.test" in request else "api.test")
    got = await client.ask(request)
    assert (got.status, got.headers["x-bulkhead-reason"]) == (403, reason)
    entry = await stage.audit.wait()
    assert (entry.verdict, entry.reason) == ("denied", reason)
    assert stub not in entry.model_dump_json()
    assert host.connections == 0


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("cut", [0, 1, 6, 7, 20, 28, 33])
async def test_a_stub_in_a_body_is_blocked_however_it_is_split(
    stage: Stage, stub: str, chunked: bool, cut: int
) -> None:
    host = await stage.host("api.test")
    client = await stage.tunnel("api.test")
    body = b'{"note": "' + stub.encode() + b'"}'
    border = body.index(b"bhstub_") + cut
    parts = [body[:border], body[border:]]
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    await client.send(f"POST / HTTP/1.1\r\nHost: api.test\r\nAuthorization: Bearer {stub}\r\n{framing}\r\n\r\n")
    for part in parts:
        await client.send(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
    got = await client.answer()
    assert (got.status, got.headers["x-bulkhead-reason"]) == (403, "stub_misplaced")
    entry = await stage.audit.wait()
    assert (entry.verdict, entry.reason) == ("denied", "stub_misplaced")
    assert host.received == [], "the upstream took the request for complete"
    assert stub.encode() not in host.raw


async def test_a_stub_in_a_body_is_blocked_in_plain_http_too(stage: Stage, stub: str) -> None:
    stage.policies.change("sbx_a", allowed_hosts=["open.test"])
    host = await stage.host("open.test", tls=False)
    client = await stage.client()
    got = await client.ask(get("http://open.test/", "open.test", method="POST", body=stub.encode()))
    assert got.status == 403
    assert (await stage.audit.wait()).reason == "stub_misplaced"
    assert host.received == []


async def test_the_stub_of_another_sandbox_is_worthless(stage: Stage, stub: str) -> None:
    host = await stage.host("api.test")
    own = stage.credential("API_TOKEN", ["api.test"])
    await stage.sandbox("sbx_b", allowed_hosts=["api.test"], credentials=[own])
    client = await stage.tunnel("api.test", "sbx_b")
    got = await client.ask(get("/", "api.test", f"Authorization: Bearer {stub}"))
    assert (got.status, got.headers["x-bulkhead-reason"]) == (403, "stub_not_valid")
    entry = await stage.audit.wait()
    assert (entry.sandbox_id, entry.session_id, entry.reason) == ("sbx_b", "sesn_sbx_b", "stub_not_valid")
    assert host.connections == 0


@pytest.mark.parametrize("pair", ["me:{stub}", "{stub}:", "{stub}:x-oauth-basic"])
async def test_a_stub_in_basic_is_for_its_host_only(stage: Stage, stub: str, pair: str) -> None:
    own, other = await stage.host("api.test"), await stage.host("second.test")
    value = _basic(pair.format(stub=stub))
    client = await stage.tunnel("api.test")
    assert (await client.ask(get("/", "api.test", f"Authorization: {value}"))).status == 200
    assert own.received[0].header("authorization") == _basic(pair.format(stub=CANARY))
    assert (await stage.audit.wait()).credential == "API_TOKEN"
    client = await stage.tunnel("second.test")
    got = await client.ask(get("/", "second.test", f"Authorization: {value}"))
    assert (got.status, got.headers["x-bulkhead-reason"]) == (403, "credential_not_bound")
    entry = await stage.audit.wait(2)
    assert (entry.verdict, entry.host, entry.credential) == ("denied", "second.test", "API_TOKEN")
    assert other.connections == 0


@pytest.mark.parametrize(
    ("binding", "request_text"),
    [
        ({"header": False}, "GET /|Authorization: Bearer {stub}"),
        ({"query_parameter": "key"}, "GET /?other={stub}"),
        ({"query_parameter": "key"}, "GET /?key=x{stub}"),
        ({"query_parameter": "key"}, "GET /?key={stub}#{stub}"),
    ],
)
async def test_a_stub_is_swapped_in_no_place_but_the_bindings(
    stage: Stage, binding: dict[str, object], request_text: str
) -> None:
    token = stage.credential("API_TOKEN", ["api.test"], **binding)
    await stage.sandbox(allowed_hosts=["api.test"], credentials=[token])
    host = await stage.host("api.test")
    client = await stage.tunnel("api.test")
    got = await client.ask(_request(request_text, stub=token.stub))
    assert got.status in {400, 403}
    assert (await stage.audit.wait()).verdict == "denied"
    assert host.connections == 0


@pytest.mark.parametrize("secret", ["a\r\nX-Evil: 1", "a\nb", "a\0b", ""])
async def test_a_secret_that_would_break_a_header_is_not_sent(stage: Stage, secret: str) -> None:
    token = stage.credential("API_TOKEN", ["api.test"], secret=secret)
    await stage.sandbox(allowed_hosts=["api.test"], credentials=[token])
    host = await stage.host("api.test")
    client = await stage.tunnel("api.test")
    got = await client.ask(get("/", "api.test", f"Authorization: Bearer {token.stub}"))
    assert (got.status, got.headers["x-bulkhead-reason"]) == (403, "secret_unusable")
    assert (await stage.audit.wait()).reason == "secret_unusable"
    assert host.connections == 0


@pytest.mark.parametrize(
    ("request_text", "reason"),
    [
        pytest.param("{stub} http://open.test/{stub}?{stub} HTTP/1.1|Host: open.test", "host_not_allowed", id="path"),
        pytest.param("GET http://{stub}.test/ HTTP/1.1|Host: {stub}.test", "host_not_allowed", id="host"),
        pytest.param("CONNECT {stub}:443 HTTP/1.1|Host: {stub}:443", "host_not_allowed", id="connect"),
    ],
)
async def test_no_refusal_writes_a_stub_into_the_audit(
    stage: Stage, stub: str, request_text: str, reason: str
) -> None:
    client = await stage.client()
    got = await client.ask(_request(request_text, stub=stub))
    assert (got.status, got.headers["x-bulkhead-reason"]) == (403, reason)
    entry = await stage.audit.wait()
    assert (entry.verdict, entry.reason) == ("denied", reason)
    assert stub.lower() not in entry.model_dump_json().lower()


async def test_a_method_that_is_a_stub_is_not_written_into_the_audit(stage: Stage) -> None:
    token = stage.credential("API_TOKEN", ["api.test"], methods=["GET"])
    await stage.sandbox(allowed_hosts=["api.test"], credentials=[token])
    host = await stage.host("api.test")
    client = await stage.tunnel("api.test")
    got = await client.ask(_request("{stub} /", stub=token.stub))
    assert (got.status, got.headers["x-bulkhead-reason"]) == (403, "method_not_bound")
    assert token.stub not in (await stage.audit.wait()).model_dump_json()
    assert host.connections == 0
