"""The embedded Postgres: it survives its own death, runs as whoever starts it, and lets nobody else in."""

import asyncio
import os
import shutil
import signal
import stat
from pathlib import Path

import psutil
import psycopg
import pytest

from controlplane.embedded.postgres import EmbeddedPostgres
from controlplane.store.migrate import migrate
from controlplane.store.pool import Database, rows


async def _started(server: EmbeddedPostgres) -> asyncio.subprocess.Process:
    process = await server.start()
    await server.wait_ready(process)
    return process


def runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


async def test_fresh_database_is_migrated_and_hides_rows_of_other_workspaces(database: Database):
    async with database.transaction("wrkspc_default") as connection:
        assert len(await rows(connection, "SELECT * FROM workspaces", {})) == 1
    async with database.transaction("wrkspc_other") as connection:
        assert await rows(connection, "SELECT * FROM workspaces", {}) == []


async def test_migrating_again_changes_nothing(database_url: str):
    assert await asyncio.to_thread(migrate, database_url) == []


async def test_committed_rows_survive_the_postmaster_being_killed(tmp_path: Path):
    server = EmbeddedPostgres(tmp_path / "pg")
    process = await _started(server)
    connection = await psycopg.AsyncConnection.connect(server.url(), autocommit=True)
    await connection.execute("CREATE TABLE kept (n int)")
    await connection.execute("INSERT INTO kept VALUES (42)")
    process.send_signal(signal.SIGKILL)
    await process.wait()
    process = await _started(server)
    async with await psycopg.AsyncConnection.connect(server.url()) as again:
        assert await (await again.execute("SELECT n FROM kept")).fetchall() == [(42,)]
    await connection.close()
    await server.stop(process)


async def test_a_restart_waits_for_a_query_that_outlives_the_postmaster(tmp_path: Path):
    server = EmbeddedPostgres(tmp_path / "pg")
    process = await _started(server)
    connection = await psycopg.AsyncConnection.connect(server.url(), autocommit=True)
    backend = psutil.Process(connection.info.backend_pid)
    # Busy, a backend does not notice that its postmaster is dead.
    query = asyncio.create_task(connection.execute("SELECT count(*) FROM generate_series(1, 10000000)"))
    await asyncio.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    assert runs(backend)
    process = await _started(server)
    assert not runs(backend)
    await asyncio.gather(query, return_exceptions=True)
    await connection.close()
    await server.stop(process)


async def test_a_stale_pid_file_that_names_a_living_process_is_no_obstacle(tmp_path: Path):
    server = EmbeddedPostgres(tmp_path / "pg")
    await server.stop(await _started(server))
    stranger = await asyncio.create_subprocess_exec("sleep", "60")
    (tmp_path / "pg" / "data" / "postmaster.pid").write_text(f"{stranger.pid}\n")
    await server.stop(await _started(server))
    stranger.kill()
    await stranger.wait()


async def test_a_kill_in_the_middle_of_initdb_leaves_nothing_in_the_way(tmp_path: Path):
    (tmp_path / "pg" / "data.unfinished").mkdir(parents=True)
    (tmp_path / "pg" / "data.unfinished" / "PG_VERSION").write_text("16")
    server = EmbeddedPostgres(tmp_path / "pg")
    await server.stop(await _started(server))


async def test_a_data_directory_far_too_deep_for_a_socket_path_works(tmp_path: Path):
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    server = EmbeddedPostgres(deep / "pg")
    process = await _started(server)
    url = server.url()
    await server.stop(process)
    again = EmbeddedPostgres(deep / "pg")
    process = await _started(again)
    assert again.url() == url
    await again.stop(process)
    shutil.rmtree((deep / "pg" / "socket-folder").read_text())


async def test_no_network_port_and_a_socket_for_the_owner_only(tmp_path: Path):
    server = EmbeddedPostgres(tmp_path / "pg")
    process = await _started(server)
    socket = tmp_path / "pg" / ".s.PGSQL.5432"
    assert stat.S_IMODE((tmp_path / "pg").stat().st_mode) == 0o700
    assert stat.S_IMODE(socket.stat().st_mode) == 0o700
    async with await psycopg.AsyncConnection.connect(server.url()) as connection:
        assert await (await connection.execute("SHOW listen_addresses")).fetchone() == ("",)
    await server.stop(process)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
async def test_root_runs_a_data_directory_that_an_ordinary_user_made(tmp_path: Path):
    folder = tmp_path / "pg"
    folder.mkdir(mode=0o700)
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o055)
    os.chown(folder, 65534, 65534)
    server = EmbeddedPostgres(folder)
    process = await _started(server)
    assert (folder / "data").stat().st_uid == 65534
    await server.stop(process)
