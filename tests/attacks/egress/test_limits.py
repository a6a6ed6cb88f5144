"""Asking for so much, or so slowly, that others would feel it."""

import asyncio
import contextlib

import psutil
import pytest

from sandbox.egress.certificates import Certificates
from sandbox.egress.limits import MAX_CONNECTIONS_PER_SANDBOX
from tests.support.egress import Client, Received, Stage, answer, get

_MB = 1024 * 1024


async def _sink(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


_BEGUN = {
    "silence": b"",
    "half a line": b"CONN",
    "half a head": b"CONNECT open.test:443 HTTP/1.1\r\nHost: open.test:443\r\nA: ",
    "no hello": b"CONNECT open.test:443 HTTP/1.0\r\n\r\n",
    "half a hello": b"CONNECT open.test:443 HTTP/1.0\r\n\r\n\x16\x03\x01",
    "half a body": b"POST http://plain.test/ HTTP/1.1\r\nHost: plain.test\r\nContent-Length: 9\r\n\r\nab",
}
_SAID_WHERE_TO = {"no hello", "half a hello", "half a body"}


@pytest.mark.slow
@pytest.mark.thorough
async def test_slow_senders_are_cut(stage: Stage) -> None:
    await stage.host("open.test")
    await stage.host("plain.test", tls=False)
    await stage.sandbox(allowed_hosts=["open.test", "plain.test"])
    left = set(_BEGUN)

    async def send(name: str) -> None:
        client = await stage.client()
        await client.send(_BEGUN[name])
        while await client.reader.read(1000):
            pass
        left.discard(name)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(100):
            await asyncio.gather(*map(send, _BEGUN))
    assert not left
    await stage.audit.wait(len(_SAID_WHERE_TO))
    assert [(entry.verdict, entry.reason) for entry in stage.audit.ended] == [("cut", "slow_sender")] * len(
        _SAID_WHERE_TO
    )


async def test_connections_have_a_limit_and_others_do_not_feel_it(stage: Stage) -> None:
    await stage.host("open.test", tls=False)
    await stage.sandbox("sbx_greedy", allowed_hosts=["open.test"])
    await stage.sandbox("sbx_other", allowed_hosts=["open.test"])
    greedy: list[Client] = []
    for _ in range(MAX_CONNECTIONS_PER_SANDBOX):
        greedy.append(await stage.client("sbx_greedy"))
        await greedy[-1].send(b"G")
    got = await (await stage.client("sbx_greedy")).answer()
    assert (got.status, got.headers["x-bulkhead-reason"]) == (503, "too_many_connections")
    other = await stage.client("sbx_other")
    assert (await other.ask(get("http://open.test/", "open.test"))).status == 200
    await stage.audit.wait()
    greedy[0].close()
    async with asyncio.timeout(5):
        while True:
            again = await stage.client("sbx_greedy")
            if (await again.ask(get("http://open.test/", "open.test"))).status == 200:
                break


@pytest.mark.parametrize("kind", ["swapped", "plain", "body-credential", "chunked"])
@pytest.mark.timeout(1200)
async def test_a_huge_body_takes_little_memory(stage: Stage, kind: str, in_full: bool) -> None:
    secure = kind != "plain"
    token = stage.credential("API_TOKEN", ["api.test"], body=kind == "body-credential")
    await stage.sandbox(allowed_hosts=["api.test"], credentials=[token] if secure else [])
    host = await stage.host("api.test", behaviour=_sink, tls=secure)
    host.keeps_bodies = False
    client = await stage.tunnel("api.test") if secure else await stage.client()
    size, chunk = (10_000 if in_full else 256) * _MB, b"x" * _MB
    framing = "Transfer-Encoding: chunked" if kind == "chunked" else f"Content-Length: {size}"
    headers = [framing, *([f"Authorization: Bearer {token.stub}"] if secure else [])]
    before = psutil.Process().memory_info().rss
    await client.send(get("/" if secure else "http://api.test/", "api.test", *headers, method="POST"))
    for _ in range(size // _MB):
        await client.send(b"100000\r\n" + chunk + b"\r\n" if kind == "chunked" else chunk)
    await client.send(b"0\r\n\r\n" if kind == "chunked" else b"")
    assert (await client.answer()).status == 200
    grown = psutil.Process().memory_info().rss - before
    assert grown < 64 * _MB, f"{grown / _MB:.0f} MB for a body of {size / _MB:.0f} MB"
    assert (await stage.audit.wait()).bytes_up >= size


async def test_a_huge_answer_waits_for_its_reader(stage: Stage) -> None:
    token = stage.credential("API_TOKEN", ["api.test"])
    await stage.sandbox(allowed_hosts=["api.test"], credentials=[token])
    sent = 0

    async def flood(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * _MB)
            await writer.drain()
            sent += _MB

    await stage.host("api.test", behaviour=flood)
    client = await stage.tunnel("api.test")
    await client.send(get("/", "api.test", f"Authorization: Bearer {token.stub}"))
    # Nobody reads: what the host could send is what fits into buffers, and does not grow.
    before = -1
    while sent != before:
        before = sent
        await asyncio.sleep(0.3)
    assert sent < 64 * _MB
    client.close()
    assert (await stage.audit.wait()).status == 200


async def test_names_take_no_more_certificates_than_the_limit() -> None:
    certificates = Certificates(limit=50)
    for number in range(300):
        certificates.context("sesn_a", b"s" * 32, f"host{number}.test")
    assert len(certificates) == 50


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_ten_thousand_names_take_no_more_memory_than_a_thousand() -> None:
    certificates, process = Certificates(), psutil.Process()
    for number in range(1000):
        certificates.context("sesn_a", b"s" * 32, f"host{number}.test")
    before = process.memory_info().rss
    for number in range(9000):
        certificates.context("sesn_a", b"s" * 32, f"another{number}.test")
    assert process.memory_info().rss - before < 10_000_000


async def test_refused_names_leave_nothing_behind(stage: Stage) -> None:
    await stage.sandbox(allowed_hosts=["open.test"])
    for number in range(100):
        client = await stage.client()
        got = await client.ask(f"CONNECT h{number}.evil.test:443 HTTP/1.0\r\n\r\n", "CONNECT")
        assert got.status == 403
        client.close()
    assert stage.resolver.asked == []
    assert len((await stage.audit.wait(100)).host) > 0


async def test_an_empty_environment_reaches_nothing(stage: Stage) -> None:
    host = await stage.host("open.test", behaviour=answer("x"), tls=False)
    await stage.sandbox()
    client = await stage.client()
    got = await client.ask(get("http://open.test/", "open.test"))
    assert got.status == 403
    assert (await stage.audit.wait()).reason == "host_not_allowed"
    assert host.connections == 0
