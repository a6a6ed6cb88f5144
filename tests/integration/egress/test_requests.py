"""What an honest program in a sandbox gets."""

import base64

from tests.support.egress import CANARY, Stage, answer, get


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
