"""The connections to an API server, which is here a socket of the test that answers every request with nothing."""

import asyncio
import contextlib
import gc
from pathlib import Path

import pytest
import yaml

from sandbox.kubernetes.api import Api


def kubeconfig(port: int) -> str:
    return yaml.safe_dump({
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "nobody"}}],
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "nobody", "user": {}}],
    })  # fmt: skip


async def test_who_ask_first_at_once_share_connections_that_end_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected: list[asyncio.StreamWriter] = []
    ended = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal ended
        connected.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        ended += 1
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        config = tmp_path / "config"
        config.write_text(kubeconfig(server.sockets[0].getsockname()[1]))
        monkeypatch.setenv("KUBECONFIG", str(config))
        api = Api()
        assert await asyncio.gather(*(api.ask("GET", "/version") for _ in range(5))) == [{}] * 5
        await api.close()
        async with asyncio.timeout(20):
            while ended < len(connected):  # noqa: ASYNC110 - an end comes when it comes
                await asyncio.sleep(0.01)
    gc.collect()  # a connection that nobody closed warns now, which fails the test
