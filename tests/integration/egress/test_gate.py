"""Sandboxes on other machines: what they say at the gate, and what whoever is not one gets."""

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import AsyncGenerator

import pytest
from cryptography import x509

from sandbox.egress import EarsError, EarsRefusedError, Gate
from sandbox.egress import limits as bounds
from sandbox.egress.certificates import Authority
from sandbox.egress.gate import authority, parse_address, preamble
from sandbox.egress.server import Proxy
from tests.support.egress import Client, Stage, get, staged

PASSWORD = "a-password-of-32-random-bytes-or-so"


class MemoryKeys:
    """`GateKeys` in memory. ``held``: what is at hand; ``broken``: nobody knows what is recorded."""

    def __init__(self) -> None:
        self.recorded: dict[str, bytes] = {}
        self.held: dict[str, bytes] = {}
        self.broken = False
        self.looked_up = 0

    def admit(self, sandbox_id: str, password: str = PASSWORD) -> None:
        """Record a password."""
        self.recorded[sandbox_id] = hashlib.sha256(password.encode()).digest()

    async def gate_sha256(self, sandbox_id: str, *, fresh: bool = False) -> bytes | None:
        """See `GateKeys.gate_sha256`."""
        if not fresh:
            return self.held.get(sandbox_id)
        self.looked_up += 1
        if self.broken:
            raise ConnectionError("the store is away")
        if sandbox_id in self.recorded:
            self.held[sandbox_id] = self.recorded[sandbox_id]
        return self.recorded.get(sandbox_id)


class Gated:
    """A stage whose sandboxes come to a gate."""

    def __init__(self, stage: Stage, keys: MemoryKeys, gate: Gate):
        self.stage = stage
        self.keys = keys
        self.gate = gate

    async def sandbox(self, sandbox_id: str = "sbx_a", **policy: object) -> None:
        """Have a sandbox with a policy, and a password."""
        await self.stage.sandbox(sandbox_id, **policy)
        await self.stage.proxy.detach(sandbox_id)
        self.keys.admit(sandbox_id)

    async def client(self, said: bytes = b"", gate: Gate | None = None) -> Client:
        """Connect, and say these bytes."""
        reader, writer = await asyncio.open_connection(*(gate or self.gate).address)
        client = Client(reader, writer)
        self.stage.stack.callback(client.close)
        if said:
            await client.send(said)
        return client

    async def inside(self, sandbox_id: str = "sbx_a", gate: Gate | None = None) -> Client:
        """Connect as the relay of a sandbox does."""
        return await self.client(preamble(sandbox_id, PASSWORD) + b"\n", gate)


@pytest.fixture
async def gated() -> AsyncGenerator[Gated]:
    """A proxy behind a gate, with everything around it."""
    async with staged() as stage:
        keys = MemoryKeys()
        async with Gate(("127.0.0.1", 0), stage.proxy, keys) as gate:
            yield Gated(stage, keys, gate)


async def refused(client: Client) -> bool:
    """Tell whether the connection ends without a word."""
    return await client.rest() == b""


async def test_what_follows_the_first_line_is_the_sandboxs(gated: Gated) -> None:
    host = await gated.stage.host("files.test", tls=False)
    await gated.sandbox(allowed_hosts=["files.test"])
    client = await gated.client(preamble("sbx_a", PASSWORD) + b"\n" + get("http://files.test/a", "files.test"))
    got = await client.answer()
    assert (got.status, got.text) == (200, "hello")
    assert (await client.ask(get("http://files.test/b", "files.test"))).status == 200
    assert [each.target for each in host.received] == ["/a", "/b"]
    assert (await gated.stage.audit.wait(2)).sandbox_id == "sbx_a"


async def test_a_line_in_pieces_is_one_line(gated: Gated) -> None:
    await gated.stage.host("files.test", tls=False)
    await gated.sandbox(allowed_hosts=["files.test"])
    client = await gated.client()
    for byte in preamble("sbx_a", PASSWORD) + b"\n":
        await client.send(bytes([byte]))
        await asyncio.sleep(0.001)
    assert (await client.ask(get("http://files.test/", "files.test"))).status == 200


@pytest.mark.parametrize(
    "said",
    [
        preamble("sbx_a", "another-password-than-it-has") + b"\n",
        preamble("sbx_unknown", PASSWORD) + b"\n",
        preamble("sbx_a", "") + b"\n",
        preamble("sbx_a", PASSWORD) + b" everything\n",
        preamble("sbx_a", PASSWORD) + b"\r\n",
        preamble("sbx_a", PASSWORD).replace(b"/1", b"/2") + b"\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01" + b"\0" * 200 + b"\n",
        b"\n",
        b"BULKHEAD/1 " + b"x" * bounds.MAX_PREAMBLE_BYTES,
        preamble("sbx_a", PASSWORD) + b" " * bounds.MAX_PREAMBLE_BYTES + b"\n",
    ],
)
async def test_who_proves_nothing_is_told_nothing(gated: Gated, said: bytes) -> None:
    await gated.sandbox(allowed_hosts=["files.test"])
    assert await refused(await gated.client(said))
    assert gated.stage.audit.entries == []


async def test_a_sandbox_without_a_password_is_nobody(gated: Gated) -> None:
    await gated.sandbox()
    del gated.keys.recorded["sbx_a"]
    assert await refused(await gated.inside())


async def test_a_store_that_is_away_lets_nobody_in(gated: Gated) -> None:
    await gated.sandbox()
    gated.keys.broken = True
    assert await refused(await gated.inside())


async def test_a_password_that_was_replaced_lets_nobody_in(gated: Gated) -> None:
    await gated.stage.host("files.test", tls=False)
    await gated.sandbox(allowed_hosts=["files.test"])
    assert (await (await gated.inside()).ask(get("http://files.test/", "files.test"))).status == 200
    gated.keys.admit("sbx_a", "the-next-password-of-the-sandbox")
    # What is at hand is old by a moment; who has the new one is let in all the same.
    client = await gated.client(preamble("sbx_a", "the-next-password-of-the-sandbox") + b"\n")
    assert (await client.ask(get("http://files.test/", "files.test"))).status == 200
    assert await refused(await gated.inside())


async def test_who_is_known_costs_the_store_nothing_more(gated: Gated) -> None:
    await gated.stage.host("files.test", tls=False)
    await gated.sandbox(allowed_hosts=["files.test"])
    for _ in range(5):
        assert (await (await gated.inside()).ask(get("http://files.test/", "files.test"))).status == 200
    assert gated.keys.looked_up == 1


async def test_who_says_nothing_is_closed_in_time(gated: Gated) -> None:
    silent, slow = await gated.client(), await gated.client()

    async def drip() -> None:
        with contextlib.suppress(OSError):
            while True:
                await slow.send(b"B")
                await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    async with asyncio.timeout(4 * bounds.PREAMBLE_SECONDS):
        assert not await silent.reader.read()
        with contextlib.suppress(ConnectionError):  # what it was still sending may be answered with a reset
            assert not await slow.reader.read()
    dripping.cancel()


async def test_silent_connections_keep_nobody_else_out(gated: Gated) -> None:
    await gated.stage.host("files.test", tls=False)
    await gated.sandbox(allowed_hosts=["files.test"])
    silent = [await gated.client() for _ in range(bounds.MAX_UNKNOWN_PER_ADDRESS)]
    assert await refused(await gated.inside())
    # Another pod has another address.
    connection = socket.create_connection(gated.gate.address, source_address=("127.0.0.7", 0))
    reader, writer = await asyncio.open_connection(sock=connection)
    other = Client(reader, writer)
    gated.stage.stack.callback(other.close)
    await other.send(preamble("sbx_a", PASSWORD) + b"\n")
    assert (await other.ask(get("http://files.test/", "files.test"))).status == 200
    for each in silent:
        each.close()


async def test_a_sandbox_that_is_stopped_is_refused_and_cut(gated: Gated) -> None:
    await gated.stage.host("files.test")
    await gated.sandbox(networking="unrestricted")
    gated.stage.policies.change("sbx_a", allowed_hosts=["files.test"], networking="limited")
    client = await gated.inside()
    opened = await client.ask("CONNECT files.test:443 HTTP/1.1\r\nHost: files.test:443\r\n\r\n", "CONNECT")
    assert opened.status == 200
    await client.secure("files.test", gated.stage.root.file)
    assert (await client.ask(get("/", "files.test"))).status == 200
    gated.stage.policies.change("sbx_a", networking="none")
    await client.rest()
    assert (await gated.stage.audit.wait()).reason == "revoked"
    again = await (await gated.inside()).ask(
        "CONNECT files.test:443 HTTP/1.1\r\nHost: files.test:443\r\n\r\n", "CONNECT"
    )
    assert again.status == 403


async def test_one_sandbox_has_no_more_connections_than_through_an_ear(gated: Gated) -> None:
    await gated.stage.host("files.test", tls=False)
    await gated.sandbox(allowed_hosts=["files.test"])
    await gated.sandbox("sbx_b", allowed_hosts=["files.test"])
    held = []
    for _ in range(bounds.MAX_CONNECTIONS_PER_SANDBOX):
        held.append(await gated.inside())
        assert (await held[-1].ask(get("http://files.test/", "files.test"))).status == 200
    turned_away = await gated.inside()
    assert (await turned_away.answer()).headers["x-bulkhead-reason"] == "too_many_connections"
    assert (await (await gated.inside("sbx_b")).ask(get("http://files.test/", "files.test"))).status == 200
    held[0].close()
    await asyncio.sleep(0.1)
    assert (await (await gated.inside()).ask(get("http://files.test/", "files.test"))).status == 200


async def test_any_of_several_proxies_serves_a_sandbox(gated: Gated) -> None:
    await gated.stage.host("files.test", tls=False)
    await gated.sandbox(allowed_hosts=["files.test"])
    stage = gated.stage
    async with (
        staged() as other,
        Proxy(policies=stage.policies, audit=stage.audit, resolver=stage.resolver) as unpinned,
        Gate(("127.0.0.1", 0), other.proxy, gated.keys) as second,
        Gate(("127.0.0.1", 0), unpinned, gated.keys) as third,
    ):
        other.pins.update(stage.pins)
        other.policies.policies = stage.policies.policies
        first, then = await gated.inside(), await gated.inside(gate=second)
        for client in (first, then, first, then):
            assert (await client.ask(get("http://files.test/", "files.test"))).status == 200
        # One that ends lets what is open go on, as long as it was told to, and takes nothing new.
        assert (await authority(third.address, "sbx_a", PASSWORD)).startswith("-----BEGIN CERTIFICATE")


async def test_what_is_open_ends_before_the_gate_does(gated: Gated) -> None:
    await gated.stage.host("files.test", tls=False)
    await gated.sandbox(allowed_hosts=["files.test"])
    async with contextlib.AsyncExitStack() as stack:
        gate = await stack.enter_async_context(
            Gate(("127.0.0.1", 0), gated.stage.proxy, gated.keys, drain_seconds=30)
        )
        client = await gated.inside(gate=gate)
        assert (await client.ask(get("http://files.test/", "files.test"))).status == 200
        address = gate.address
        closing = asyncio.create_task(stack.aclose())
        await asyncio.sleep(0.05)
        assert not closing.done()
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection(*address)
        assert (await client.ask(get("http://files.test/", "files.test"))).status == 200
        client.close()
        await closing


async def test_the_worker_gets_the_sessions_certificate(gated: Gated) -> None:
    await gated.sandbox()
    found = await authority(gated.gate.address, "sbx_a", PASSWORD)
    seed = await gated.stage.policies.authority_seed("sesn_sbx_a")
    expected = x509.load_pem_x509_certificate(Authority("sesn_sbx_a", seed).certificate_pem)
    assert x509.load_pem_x509_certificate(found.encode()).public_key() == expected.public_key()
    with pytest.raises(EarsError, match="gave no certificate"):
        await authority(gated.gate.address, "sbx_a", "another-password-than-it-has")


async def test_a_certificate_that_cannot_be_made_says_whether_waiting_helps(gated: Gated) -> None:
    await gated.sandbox()
    gated.stage.policies.unmade = "the master key is another; give the old one back"
    with pytest.raises(EarsRefusedError, match="the master key is another"):
        await authority(gated.gate.address, "sbx_a", PASSWORD)
    gated.stage.policies.broken = True
    with pytest.raises(EarsError, match="the store is away") as caught:
        await authority(gated.gate.address, "sbx_a", PASSWORD)
    assert not isinstance(caught.value, EarsRefusedError)
    with pytest.raises(EarsError, match="does not answer"):
        await authority(("127.0.0.1", 9), "sbx_a", PASSWORD)


@pytest.mark.parametrize(
    "text", ["", "3129", "host", ":3129", "host:", "host:65536", "::1:3129", "[::1:3129", "h:-1"]
)
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_address(text)


def test_an_address_is_a_host_and_a_port() -> None:
    assert parse_address("bulkhead-egress.bulkhead.svc:3129") == ("bulkhead-egress.bulkhead.svc", 3129)
    assert parse_address("[::]:0") == ("::", 0)
    assert parse_address(" 0.0.0.0:3129 ") == ("0.0.0.0", 3129)
