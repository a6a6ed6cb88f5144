"""What a part says of itself at its health port."""

import asyncio
import socket

import httpx
import psycopg
import pytest
import uvicorn
from starlette.applications import Starlette

from controlplane.errors import InvalidRequestError
from controlplane.health import Health, migrated, serve_well
from controlplane.settings import Settings
from controlplane.store.pool import Database
from harness_adapters.guest import quiet


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def settings(url: str, port: int | None) -> Settings:
    return Settings(database_url=url, health_host="127.0.0.1", health_port=port)


async def ready(port: int) -> tuple[int, dict[str, str]]:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{port}/readyz")
    return answer.status_code, answer.json()["looks"]


async def test_a_part_is_ready_while_it_serves_and_what_it_needs_answers(database: Database) -> None:
    port, trouble = free_port(), ""

    async def look() -> str | None:
        return trouble or None

    async with Health(settings(database.url, port)) as health:
        assert await ready(port) == (503, {"part": "starting", "postgres": "ok"})
        health.watch("temporal", look)
        health.serves()
        assert await ready(port) == (200, {"part": "ok", "postgres": "ok", "temporal": "ok"})
        trouble = "is not serving"
        assert await ready(port) == (503, {"part": "ok", "postgres": "ok", "temporal": "is not serving"})
        trouble = ""
        health.stops()
        assert (await ready(port))[0] == 503
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"http://127.0.0.1:{port}/livez")).status_code == 200


async def test_a_database_that_is_away_is_a_part_that_is_not_ready_but_lives() -> None:
    port = free_port()
    async with Health(settings(f"postgresql://nobody@127.0.0.1:{free_port()}/x", port)) as health:
        health.serves()
        status, looks = await ready(port)
        assert status == 503
        assert looks["postgres"].startswith("does not answer: ")
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"http://127.0.0.1:{port}/livez")).status_code == 200


async def test_a_part_waits_for_the_migrations_that_it_knows(database: Database) -> None:
    newest = "0027_gates"
    async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as connection:
        # A later version's migration is no obstacle to this one, as after a rollback.
        await connection.execute("INSERT INTO schema_migrations (name) VALUES ('9999_later')")
        await migrated(database.url)
        await connection.execute("DELETE FROM schema_migrations WHERE name = %s", (newest,))
        waiting = asyncio.create_task(migrated(database.url))
        await asyncio.sleep(1)
        assert not waiting.done()
        port = free_port()
        async with Health(settings(database.url, port)) as health:
            health.serves()
            assert (await ready(port))[1]["postgres"] == f"lacks {newest}"
        await connection.execute("INSERT INTO schema_migrations (name) VALUES (%s)", (newest,))
        await asyncio.wait_for(waiting, 10)


async def test_a_server_that_is_told_to_exit_is_not_ready_any_more(database: Database) -> None:
    port, served = free_port(), free_port()
    async with Health(settings(database.url, port)) as health:
        server = uvicorn.Server(quiet(Starlette(), host="127.0.0.1", port=served))
        serving = asyncio.create_task(serve_well(server, health))
        while not server.started:  # noqa: ASYNC110 - it has no event of that
            await asyncio.sleep(0.01)
        assert await ready(port) == (200, {"part": "ok", "postgres": "ok", "http": "ok"})
        server.should_exit = True
        assert (await ready(port))[1]["http"] == "takes no connections"
        await serving
        assert (await ready(port))[0] == 503


async def test_a_port_that_is_taken_is_named() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(InvalidRequestError, match="BULKHEAD_HEALTH_PORT: ") as caught,
    ):
        async with Health(settings("", taken.getsockname()[1])):
            pass
    assert caught.value.next_step


async def test_without_a_port_nothing_listens(database: Database) -> None:
    async with Health(settings(database.url, None)) as health:
        health.serves()
        assert set((await health.troubles()).values()) == {None}
