"""The way from a pod's ear to a worker outside the cluster, without a cluster: the relay and the host's gate."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Callable

import pytest

from sandbox.kubernetes.gate import PREAMBLE, HostGate

_RELAY = """
import os, socket, sys
from sandbox.supervisor.relay import Gate, start
listener = socket.socket(fileno=int(sys.argv[1]))
pid, control = start(listener, Gate(('127.0.0.1', int(sys.argv[2])), sys.argv[3].encode()))
print(pid, flush=True)
sys.stdin.read()
os.close(control)
os.waitpid(pid, 0)
"""


def password_of(sandbox_id: str) -> str:
    return f"password of {sandbox_id}".replace(" ", "-")


@pytest.fixture
async def gate() -> AsyncGenerator[HostGate]:
    """A gate at a free port of loopback."""
    made = HostGate(f"test{os.getpid()}", password_of)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    await made.open("127.0.0.1", port)
    yield made
    made.forget("sbx_a")
    await made.close()


@contextlib.asynccontextmanager
async def relayed(port: int, preamble: str) -> AsyncGenerator[tuple[int, Callable[[], None]]]:
    """A relay from an ear's port to a gate's; yields the former, and what has it accept no more."""
    with socket.create_server(("127.0.0.1", 0)) as ear:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _RELAY, str(ear.fileno()), str(port), preamble,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, pass_fds=[ear.fileno()],
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        relay = int(await process.stdout.readline())
        try:
            yield ear.getsockname()[1], process.stdin.close
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(relay, signal.SIGKILL)
            process.stdin.close()
            await process.wait()


async def shouting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer what has come when it is over, in capitals."""
    writer.write((await reader.read()).upper())
    writer.write_eof()
    await writer.drain()
    writer.close()


async def asked(port: int, said: bytes) -> bytes:
    """Say something, end, and return the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(said)
    writer.write_eof()
    async with asyncio.timeout(20):
        heard = await reader.read()
    writer.close()
    return heard


async def test_what_is_said_at_the_ear_is_heard_by_who_listens_for_the_sandbox_and_the_ends_are_kept(
    gate: HostGate,
) -> None:
    assert gate.address is not None
    big = os.urandom(3 << 20).hex().encode()
    preamble = PREAMBLE.format("sbx_a", password_of("sbx_a"))
    async with relayed(gate.address[1], preamble) as (port, _):
        server = await asyncio.start_unix_server(shouting, sock=gate.ear("sbx_a"), limit=8 << 20)
        async with server:
            answers = await asyncio.gather(*(asked(port, said) for said in (b"one", b"two", big)))
    assert answers == [b"ONE", b"TWO", big.upper()]


@pytest.mark.parametrize("preamble", ["BULKHEAD/1 sbx_a password-of-sbx_b\n", "BULKHEAD/2 sbx_a {}\n", "x" * 4000])
async def test_who_has_not_the_sandboxs_password_is_not_heard(gate: HostGate, preamble: str) -> None:
    assert gate.address is not None
    with gate.ear("sbx_a") as ear:
        ear.setblocking(False)
        with contextlib.suppress(ConnectionError):
            assert await asked(gate.address[1], preamble.format(password_of("sbx_a")).encode() + b"hello") == b""
        with pytest.raises(BlockingIOError):
            ear.accept()


async def test_who_comes_before_there_is_an_ear_or_a_gate_waits(gate: HostGate) -> None:
    preamble = PREAMBLE.format("sbx_a", password_of("sbx_a"))
    assert gate.address is not None
    _, port = gate.address
    await gate.close()
    async with relayed(port, preamble) as (ear, _):
        waiting = asyncio.create_task(asked(ear, b"early"))
        await asyncio.sleep(0.3)
        await gate.open("127.0.0.1", port)
        gate.ear("sbx_a").close()
        await asyncio.sleep(0.3)
        server = await asyncio.start_unix_server(shouting, sock=gate.ear("sbx_a"))
        async with server:
            assert await waiting == b"EARLY"


async def test_a_relay_that_is_to_accept_no_more_carries_on_what_it_has(gate: HostGate) -> None:
    assert gate.address is not None
    preamble = PREAMBLE.format("sbx_a", password_of("sbx_a"))
    server = await asyncio.start_unix_server(shouting, sock=gate.ear("sbx_a"))
    async with server, relayed(gate.address[1], preamble) as (port, stop):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"first")
        await writer.drain()
        await asyncio.sleep(0.3)
        stop()
        await asyncio.sleep(0.3)
        with socket.create_connection(("127.0.0.1", port)) as late:
            late.sendall(b"late")
            late.shutdown(socket.SHUT_WR)
            writer.write_eof()
            async with asyncio.timeout(20):
                assert await reader.read() == b"FIRST"
            writer.close()
            await asyncio.sleep(0.3)
            late.setblocking(False)
            with pytest.raises(BlockingIOError):
                late.recv(1)


async def pouring(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say much without being asked, or the answer to whom one is asked to wait."""
    if await reader.read(4) == b"wait":
        return await shouting(reader, writer)
    with contextlib.suppress(ConnectionError):
        while not writer.is_closing():
            writer.write(b"x" * 4096)
            await writer.drain()
            await asyncio.sleep(0)
    return None


async def test_who_leaves_in_the_middle_of_an_answer_cuts_nobody_else(gate: HostGate) -> None:
    assert gate.address is not None
    preamble = PREAMBLE.format("sbx_a", password_of("sbx_a"))
    server = await asyncio.start_unix_server(pouring, sock=gate.ear("sbx_a"))
    async with server, relayed(gate.address[1], preamble) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"wait, and say this")
        for _ in range(50):
            leaver_reads, leaver = await asyncio.open_connection("127.0.0.1", port)
            leaver.write(b"pour")
            await leaver_reads.readexactly(4096)
            leaver.transport.abort()
        writer.write_eof()
        async with asyncio.timeout(20):
            assert await reader.read() == b", AND SAY THIS"
        writer.close()
