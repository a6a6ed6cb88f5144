"""Memory while its processes are killed: nothing is lost, nothing is there twice, and searches go on."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import tuple_row

from controlplane.embedded.postgres import EmbeddedPostgres
from tests.support.client import Client, script, text
from tests.support.embeddings import FakeEmbeddings
from tests.support.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
MEMORIES = 600


def _counts(stack: Stack, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(EmbeddedPostgres(stack.data_dir / "postgres").url(), row_factory=tuple_row) as connection:
        return connection.execute(query.encode()).fetchall()


async def _kill(stack: Stack, part: str) -> None:
    """Kill a part; the one that was killed last may still be on record."""
    while True:
        try:
            os.kill(stack.parts()[part], signal.SIGKILL)
        except ProcessLookupError:
            await asyncio.sleep(0.05)
        else:
            return


async def test_saves_of_an_agent_happen_once_whoever_is_killed(client: Client, stack: Stack):
    store = await client.post("/v1/memory_stores", {"name": "faults"})
    resources = [{"type": "memory_store", "memory_store_id": store["id"]}]
    session_id = await client.session(resources=resources)
    steps = [
        {
            "first_byte_ms": 300,
            "tools": [{"name": "save_memory", "input": {"path": f"/{number}", "content": f"memory {number}"}}],
        }
        for number in range(20)
    ]
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(*steps, {"text": "done"}))
        for number, part in enumerate(["memory", "brain", "memory", "api", "memory", "postgres", "memory"]):
            await watcher.until(lambda w, n=number: len(w.of("agent.tool_result")) >= 2 * n + 1)
            assert "session.status_idle" not in watcher.types, "the turn must be under way at every kill"
            await _kill(stack, part)
        await watcher.until_idle(timeout_seconds=120)
        said = [text(event) for event in watcher.of("agent.tool_result")]
    assert said == [f"Saved: /{number} is version 1 now." for number in range(20)]
    await stack.ready_again()
    versions = _counts(stack, f"SELECT count(*) FROM memory_versions WHERE store_id = '{store['id']}'")  # noqa: S608
    assert versions == [(20,)]


@pytest.mark.thorough
async def test_a_move_to_another_model_survives_kills_and_searches_go_on(tmp_path: Path):
    stack = Stack(tmp_path / "data")
    stack.start()
    stack.wait_ready()
    try:
        async with Client(stack) as client:
            store = await client.post("/v1/memory_stores", {"name": "moving"})
            url = f"/v1/memory_stores/{store['id']}"
            lines = [{"path": f"/{n}", "content": f"fact {n} about topic {n % 7}"} for n in range(MEMORIES)]
            for start in range(0, MEMORIES, 300):
                await client.post(f"{url}/import", {"memories": lines[start : start + 300]})
        stack.stop()
        async with FakeEmbeddings(delay_seconds=0.2).serving() as endpoint:
            stack = Stack(
                tmp_path / "data",
                environment={"BULKHEAD_EMBEDDING_MODEL": "words-384", "BULKHEAD_EMBEDDING_URL": endpoint},
            )
            stack.start()
            stack.wait_ready()
            async with Client(stack) as client:
                for _ in range(4):
                    found = await client.post(f"{url}/search", {"query": "fact 42 about topic"})
                    assert found["data"][0]["memory"]["path"] == "/42"
                    await _kill(stack, "memory")
                    await stack.ready_again()
                    await asyncio.sleep(0.3)
                while _counts(stack, "SELECT model, count(*) FROM memory_vectors GROUP BY model") != [
                    ("words-384", MEMORIES)
                ]:
                    found = await client.post(f"{url}/search", {"query": "fact 42 about topic"})
                    assert found["data"][0]["memory"]["path"] == "/42"
                    await asyncio.sleep(0.2)
                found = await client.post(f"{url}/search", {"query": "fact 42 about topic"})
                assert "meaning" in json.dumps(found["data"][0])
            assert _counts(stack, "SELECT model FROM memory_models WHERE active") == [("words-384",)]
    finally:
        stack.end()
