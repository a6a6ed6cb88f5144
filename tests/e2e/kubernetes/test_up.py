"""`bulkhead up --sandbox kubernetes`: the control plane on this machine, its sandboxes as pods of a cluster."""

import asyncio
import os
from pathlib import Path

import pytest

from sandbox.kubernetes.api import Api
from tests.support import cluster
from tests.support.client import Client, run, script, text
from tests.support.stack import Stack

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(300)]

LOOK = 'hostname; echo "$HTTPS_PROXY"; head -n 1 "$APT_CONFIG"'


async def pods(namespace: str) -> list[str]:
    """Return the names of a namespace's pods."""
    api = Api()
    try:
        found = await api.ask("GET", f"/api/v1/namespaces/{namespace}/pods")
    finally:
        await api.close()
    return [each["metadata"]["name"] for each in found["items"]]


async def test_a_message_runs_a_command_in_a_pod_which_ends_with_the_control_plane(tmp_path: Path) -> None:
    environment = cluster.environment() | {"BULKHEAD_WARM_SANDBOXES": "0"}
    namespace = environment["BULKHEAD_KUBERNETES_NAMESPACE"] = f"bulkhead-test-up-{os.getpid()}"
    del environment["BULKHEAD_SANDBOX"]
    stack = Stack(tmp_path / "data", environment=environment, options=("--sandbox", "kubernetes"))
    stack.start()
    try:
        await asyncio.to_thread(stack.wait_ready)
        async with Client(stack) as client:
            session_id = await client.session()
            async with client.watching(session_id) as watcher:
                await client.say(session_id, script(run(LOOK), {"text": "{{result}}"}))
                await watcher.until_idle(timeout_seconds=120)
                [said] = watcher.of("agent.message")
        assert len(await pods(namespace)) == 1
        for expected in ("sandbox\n", "http://127.0.0.1:", "Acquire::http::Proxy"):
            assert expected in text(said), stack.tail()
        assert await asyncio.to_thread(stack.stop) == 0
        assert await pods(namespace) == []
    finally:
        await asyncio.to_thread(stack.end)
        await cluster.remove_namespace(namespace)
