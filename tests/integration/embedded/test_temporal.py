"""The embedded Temporal: state on disk, ports that stay, nothing to reach from elsewhere."""

import asyncio
import signal
import socket
from pathlib import Path

from temporalio.client import Client

from controlplane.embedded.process import free_ports, remembered_ports
from controlplane.embedded.temporal import EmbeddedTemporal


async def test_a_workflow_that_was_started_is_there_after_a_kill(tmp_path: Path):
    server = EmbeddedTemporal(tmp_path / "temporal")
    process = await server.start()
    await server.wait_ready(process)
    client = await Client.connect(server.address)
    await client.start_workflow("Nobody", id="w", task_queue="nowhere")
    process.send_signal(signal.SIGKILL)
    await process.wait()

    again = EmbeddedTemporal(tmp_path / "temporal")
    assert again.address == server.address
    process = await again.start()
    await again.wait_ready(process)
    client = await Client.connect(again.address)
    assert (await client.get_workflow_handle("w").describe()).workflow_type == "Nobody"
    await again.stop(process)
    assert process.returncode == 0


async def test_a_remembered_port_that_another_took_is_replaced(tmp_path: Path):
    first = remembered_ports(tmp_path / "ports.json", ["a", "b"])
    assert remembered_ports(tmp_path / "ports.json", ["a", "b"]) == first
    with socket.create_server(("127.0.0.1", first["a"])):
        second = remembered_ports(tmp_path / "ports.json", ["a", "b"])
    assert second["a"] != first["a"]
    assert second["b"] == first["b"]


async def test_free_ports_are_distinct():
    assert len(set(await asyncio.to_thread(free_ports, 20))) == 20
