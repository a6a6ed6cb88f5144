"""A client that follows a session while Postgres is away and comes back."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from controlplane.api import create_app
from controlplane.api.follow import POLL_SECONDS
from controlplane.embedded.postgres import EmbeddedPostgres
from controlplane.store import keys
from controlplane.store.migrate import migrate
from controlplane.store.pool import Database

from .conftest import API_KEY, WORKSPACE, NoWorkflow, everything_is_ready, serving
from .sse import follow, take

MESSAGE = {"events": [{"type": "user.message", "content": [{"type": "text", "text": "hello"}]}]}


@pytest.mark.slow
async def test_a_stream_outlives_a_restart_of_postgres(tmp_path: Path):
    server = EmbeddedPostgres(tmp_path / "postgres")
    process = await server.start()
    await server.wait_ready(process)
    await server.create_database("restarted")
    await asyncio.to_thread(migrate, server.url("restarted"))
    async with _served(Database(server.url("restarted"), wait_seconds=0.5)) as http:
        path = await _session(http)
        async with follow(http, path.split("/")[3], after=0) as frames:
            assert (await http.post(path, json=MESSAGE)).status_code == 200
            assert [frame.id for frame in await take(frames, 1)] == ["1"]
            await server.stop(process)
            await asyncio.sleep(POLL_SECONDS + 1)  # long enough for the stream to look, and to find nobody
            refused = await http.post(path, json=MESSAGE)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_unavailable")
            process = await server.start()
            await server.wait_ready(process)
            while (await http.post(path, json=MESSAGE, headers={"Idempotency-Key": "again"})).status_code == 503:
                continue
            assert [frame.id for frame in await take(frames, 1)] == ["2"]
    await server.stop(process)


async def test_a_plan_from_before_a_migration_is_no_error_of_ours(
    postgres: EmbeddedPostgres, migrated_template: str
) -> None:
    await postgres.create_database("planned", template=migrated_template)
    async with _served(Database(postgres.url("planned"), max_connections=1)) as http:
        before = [(await http.get("/v1/memory_stores")).status_code for _ in range(8)]
        async with await psycopg.AsyncConnection.connect(postgres.url("planned"), autocommit=True) as other:
            await other.execute("ALTER TABLE memory_stores ADD COLUMN later text")
        after = [(await http.get("/v1/memory_stores")).status_code for _ in range(3)]
    await postgres.drop_database("planned")
    assert before == [200] * 8
    assert after == [503, 200, 200]


@asynccontextmanager
async def _served(database: Database) -> AsyncGenerator[httpx.AsyncClient]:
    """The API on a database, for as long as it is asked."""
    await database.open()
    async with database.transaction(WORKSPACE) as connection:
        await keys.ensure_key(connection, WORKSPACE, "tests", API_KEY)
    app = create_app(database=database, submitter=NoWorkflow(), readiness=everything_is_ready, version="t")
    headers = {"x-api-key": API_KEY}
    async with serving(app) as url, httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as http:
        yield http
    await database.close()


async def _session(http: httpx.AsyncClient) -> str:
    agent = (await http.post("/v1/agents", json={"name": "n", "model": "m"})).json()["id"]
    environment = (await http.post("/v1/environments", json={"name": "n"})).json()["id"]
    session = (await http.post("/v1/sessions", json={"agent": agent, "environment_id": environment})).json()["id"]
    return f"/v1/sessions/{session}/events"
