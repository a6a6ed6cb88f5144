"""The gateway as the process that `bulkhead gateway` is."""

import asyncio
import os
import signal
import socket
import sys

import httpx

FAKE_KEY = "sk-ant-not-a-real-key"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def _answer(process: asyncio.subprocess.Process, url: str, **parameters: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as http:
        while process.returncode is None:
            try:
                return await http.get(url, params=parameters)
            except httpx.ConnectError:
                await asyncio.sleep(0.05)
    raise AssertionError("the gateway ended by itself")


async def test_it_serves_the_scripted_model_and_the_keys_of_its_environment_until_a_signal(database_url: str):
    port = _free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "controlplane.embedded.part",
        "gateway",
        env={
            "PATH": os.environ["PATH"],
            "BULKHEAD_DATABASE_URL": database_url,
            "BULKHEAD_GATEWAY_PORT": str(port),
            "ANTHROPIC_API_KEY": FAKE_KEY,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    url = f"http://127.0.0.1:{port}/v1/routes"
    scripted = await _answer(process, url, model="scripted/demo")
    claude = await _answer(process, url, model="claude-x")
    gpt = await _answer(process, url, model="gpt-x")
    process.send_signal(signal.SIGTERM)
    said, _ = await asyncio.wait_for(process.communicate(), 30)
    assert scripted.json()["provider"] == "scripted-anthropic"
    assert claude.json()["provider"] == "anthropic"
    assert gpt.status_code == 404
    assert b"model_gateway_listening" in said
    assert FAKE_KEY.encode() not in said
    assert b"Traceback" not in said
