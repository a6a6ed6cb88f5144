"""Sandboxes whose way out is a gate: admitted once, whichever worker and proxy come and go.

The provider of pods is another's test; here a namespace's ear is carried to the gate as a pod's relay carries it.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from sandbox.admission import Admissions
from sandbox.contract import ExecRequest, SandboxError
from sandbox.egress import Gate, SandboxPolicy
from sandbox.egress.gate import preamble
from sandbox.namespace import NamespaceProvider
from sandbox.storage import OUTFIT
from tests.integration.egress.test_gate import MemoryKeys
from tests.support.egress import staged
from tests.support.sandboxes import SMALL, runtime_cache

_ASK = (
    "python3 - <<'END'\nimport socket\ns = socket.create_connection(('127.0.0.1', 3128))\n"
    "s.sendall(b'GET http://a.test/x HTTP/1.1\\r\\nHost: a.test\\r\\nConnection: close\\r\\n\\r\\n')\n"
    "print(s.makefile('rb').read().split(b'\\r\\n')[0].decode())\nEND"
)


class Relayed(NamespaceProvider):
    """Namespaces that reach a gate over TCP, as pods do."""

    has_remote_gate = True
    gate = ("127.0.0.1", 0)

    def reach(self, gate: tuple[str, int]) -> None:
        """Carry what comes from now on to this gate."""
        self.gate = gate
        self.passwords: dict[str, str] = {}
        self.relays: dict[str, asyncio.Server] = {}

    async def admit(self, sandbox_id: str, password: str) -> None:
        """See `Admitting.admit`."""
        self.passwords[sandbox_id] = password
        if sandbox_id not in self.relays:
            ear = await self.ear(sandbox_id)
            self.relays[sandbox_id] = await asyncio.start_server(
                lambda reader, writer: self._carry(sandbox_id, reader, writer), sock=ear
            )

    async def _carry(self, sandbox_id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            there, here = await asyncio.open_connection(*self.gate)
            here.write(preamble(sandbox_id, self.passwords[sandbox_id]) + b"\n")
            await asyncio.gather(_pump(reader, here), _pump(there, writer))
            here.close()
        writer.close()

    async def close(self) -> None:
        """See `SandboxProvider.close`."""
        for relay in self.relays.values():
            relay.close()
        await super().close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


@pytest.fixture
async def relayed(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Relayed]:
    """One sandbox, up."""
    provider = Relayed(
        state_dir=tmp_path / "sandboxes",
        cache_dir=runtime_cache(tmp_path_factory),
        installation=f"gate{os.getpid()}",
    )
    provider.reach(("127.0.0.1", 9))
    try:
        await provider.provision("sbx_a", SMALL)
        yield provider
    finally:
        await provider.destroy("sbx_a")
        await provider.close()


class Recorded(MemoryKeys):
    """`AdmissionRecords` and the gate's side of them, in memory."""

    async def expect(self, sandbox_id: str, password_sha256: bytes) -> None:
        """See `AdmissionRecords.expect`."""
        self.recorded[sandbox_id] = password_sha256


async def _said(provider: Relayed, exec_id: str) -> str:
    result = await provider.execute("sbx_a", ExecRequest(exec_id=exec_id, command=_ASK, timeout_seconds=20))
    return result.stdout + result.stderr


async def test_a_sandbox_is_admitted_and_any_worker_and_proxy_may_be_replaced(relayed: Relayed) -> None:
    async with staged() as stage, staged() as other:
        await stage.host("a.test", tls=False)
        other.pins.update(stage.pins)
        policy = SandboxPolicy(
            sandbox_id="sbx_a", session_id="sesn_a", workspace_id="w", networking="limited", allowed_hosts=["a.test"]
        )
        stage.policies.policies["sbx_a"] = other.policies.policies["sbx_a"] = policy
        keys = Recorded()
        async with Gate(("127.0.0.1", 0), stage.proxy, keys) as first:
            relayed.reach(first.address)
            worker = Admissions(first.address, keys)
            await worker.prepare("sbx_a", relayed)
            await worker.open("sbx_a", relayed)
            assert await _said(relayed, "first") == "HTTP/1.1 200 OK\n"
            assert b"BEGIN CERTIFICATE" in b"".join(
                [each async for each in relayed.read_file("sbx_a", f"{OUTFIT}/own-roots.pem")]
            )
            # Another worker that does it again gives it another password, and that one counts.
            before = relayed.passwords["sbx_a"]
            await Admissions(first.address, keys).open("sbx_a", relayed)
            assert relayed.passwords["sbx_a"] != before
            assert await _said(relayed, "second") == "HTTP/1.1 200 OK\n"
        # No worker does anything now: another proxy serves the sandbox, which knows what it has to say.
        async with Gate(relayed.gate, other.proxy, keys):
            assert await _said(relayed, "third") == "HTTP/1.1 200 OK\n"


async def test_a_provider_that_reaches_no_gate_is_refused(tmp_path: Path) -> None:
    provider = NamespaceProvider(state_dir=tmp_path / "s", cache_dir=tmp_path / "cache", installation="nogate")
    with pytest.raises(SandboxError, match="'namespace' cannot reach a gate") as caught:
        await Admissions(("127.0.0.1", 9), Recorded()).open("sbx_a", provider)
    assert caught.value.code == "provision_failed"


async def test_a_gate_that_is_away_is_waited_for(relayed: Relayed) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()[:2]
    keys = Recorded()
    opening = asyncio.create_task(Admissions(address, keys).open("sbx_a", relayed))
    await asyncio.sleep(1)
    assert not opening.done()
    async with staged() as stage, Gate(address, stage.proxy, keys):
        stage.policies.policies["sbx_a"] = SandboxPolicy(
            sandbox_id="sbx_a", session_id="sesn_a", workspace_id="w", networking="none"
        )
        await opening
