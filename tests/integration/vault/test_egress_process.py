"""The egress proxy as a process: what is open when it is told to stop."""

import asyncio
import hashlib
import os
import signal
import sys

import httpx
import pytest

from controlplane.store.pool import Database
from controlplane.vault.keyring import new_master_key
from sandbox.egress.gate import preamble
from tests.integration.vault.conftest import WORKSPACE, World
from tests.support.egress import Client, get
from tests.support.emulator import free_port

HOST = "api.example.com"
PASSWORD = "a-password-of-32-random-bytes-or-so"


async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every request of a connection."""
    while await reader.readuntil(b"\r\n\r\n"):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")


async def until_ready(port: int) -> None:
    """Return when the process says that it serves."""
    async with asyncio.timeout(60), httpx.AsyncClient(trust_env=False) as http:
        while True:
            try:
                if (await http.get(f"http://127.0.0.1:{port}/readyz")).is_success:
                    return
            except httpx.ConnectError:
                pass
            await asyncio.sleep(0.05)


async def connected(port: int) -> Client:
    """Connect to a gate, which listens a moment after its process is ready."""
    async with asyncio.timeout(30):
        while True:
            try:
                return Client(*await asyncio.open_connection("127.0.0.1", port))
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)


async def test_what_is_open_goes_on_when_the_process_is_told_to_stop(
    world: World, database: Database, database_url: str
) -> None:
    async with database.transaction(WORKSPACE) as connection:
        await connection.execute(
            "UPDATE sandboxes SET gate_sha256 = %s WHERE id = %s",
            (hashlib.sha256(PASSWORD.encode()).digest(), world.sandbox),
        )
    upstream = await asyncio.start_server(hello, "127.0.0.1", 0)
    gate, health = free_port(), free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "controlplane.embedded.part", "egress",
        env={
            "PATH": os.environ["PATH"],
            "BULKHEAD_DATABASE_URL": database_url,
            "BULKHEAD_MASTER_KEY": new_master_key(),
            "BULKHEAD_HEALTH_PORT": str(health),
            "BULKHEAD_EGRESS_GATE_LISTEN": f"127.0.0.1:{gate}",
            "BULKHEAD_EGRESS_HOSTS": f"{HOST}=127.0.0.1:{upstream.sockets[0].getsockname()[1]}",
            "BULKHEAD_DRAIN_SECONDS": "30",
        },
    )  # fmt: skip
    try:
        await until_ready(health)
        client = await connected(gate)
        await client.send(preamble(world.sandbox, PASSWORD) + b"\n")
        assert (await client.ask(get(f"http://{HOST}/", HOST))).text == "hello"
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            with pytest.raises(ConnectionRefusedError):
                while True:
                    (await asyncio.open_connection("127.0.0.1", gate))[1].close()
        assert (await client.ask(get(f"http://{HOST}/", HOST))).text == "hello", "decided and recorded as before"
        client.close()
        assert await asyncio.wait_for(process.wait(), 20) == 0, "it ends with the last that was open"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        upstream.close()
