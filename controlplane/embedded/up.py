"""The whole control plane on one machine, in the foreground, from one data directory."""

import asyncio
import contextlib
import http.client
import json
import os
import secrets
import signal
import socket
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path

import psycopg
import structlog
from pydantic import SecretStr

from controlplane import logs
from controlplane.egress import egress_settings
from controlplane.embedded import master_key
from controlplane.embedded.api_key import provision
from controlplane.embedded.part import PART_NAMES, PartName
from controlplane.embedded.postgres import EmbeddedPostgres
from controlplane.embedded.process import (
    guarded,
    listen_once,
    port_is_free,
    put_behind,
    remembered_ports,
    stop,
    wait_for_lock,
    write_whole,
)
from controlplane.embedded.supervisor import Part, Supervisor
from controlplane.embedded.temporal import EmbeddedTemporal
from controlplane.errors import ConflictError, InvalidRequestError, UnavailableError
from controlplane.settings import SECRET_VARIABLES, ProviderSettings, Settings, model_providers
from controlplane.store.migrate import migrate
from controlplane.store.pool import Database
from controlplane.vault.keyring import MasterKeySettings

_ORPHANS_GONE_SECONDS = 3.0  # what a killed `up` leaves is killed with it; this is how long that may take
_STOP_SECONDS = 10.0  # a part hands over or finishes what it does in a few seconds, or is killed
_SAME_SIGNAL_SECONDS = 0.5  # `timeout` and some shells send one Ctrl-C twice: to the process and to its group
_KEEPING_CONNECTIONS = 4
_LOOK_SECONDS = 0.05
_STILL_WAITING_SECONDS = 10.0
_ANSWER_SECONDS = 5.0
_KEY_BYTES = 32
_KEYS = {name: f"BULKHEAD_{name.upper()}" for name in ("embedding_api_key", "kubernetes_key", "temporal_api_key")}
"""Settings that are secret, and their variables; each is told to the parts that read it."""

_READS: dict[PartName, tuple[str, ...]] = {
    "api": ("temporal_api_key",),
    "brain": ("temporal_api_key",),
    "memory": ("temporal_api_key", "embedding_api_key"),
    "sandboxes": ("temporal_api_key", "kubernetes_key"),
}

_log = structlog.get_logger(__name__)


class Up:
    """Starts everything that ``settings`` does not place elsewhere, and ends it on SIGINT or SIGTERM.

    ``announce`` gets the URL and the file that holds the API key once every part is ready.
    """

    def __init__(self, settings: Settings, announce: Callable[[str, Path], None]):
        self._data = settings.data_dir.resolve()
        self._settings = settings.model_copy(
            update={"data_dir": self._data, "config_file": _config_file(settings, self._data)}
        )
        self._announce = announce
        self._stopping = asyncio.Event()
        self._supervisor = Supervisor(self._data / "run" / "parts.json", _shower(settings.log_format))
        self._stop_asked_at = 0.0
        self._lock = -1

    async def run(self) -> None:
        """Run until told to stop; raises `BulkheadError` if the data directory, the host or the port won't do."""
        model_providers(self._settings, ProviderSettings())
        egress_settings(self._settings)
        _check_temporal(self._settings)
        await _check_pods(self._settings)
        _check_host(self._settings.host)
        await self._take_data_directory()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        try:
            await self._unless_stopped(self._start())
            await self._stopping.wait()
        finally:
            (self._data / "run" / "url").unlink(missing_ok=True)
            await self._supervisor.stop()
            self._forget_last_run()
            os.close(self._lock)

    async def _take_data_directory(self) -> None:
        try:
            (self._data / "run").mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = await _sole_user(self._data)
            self._forget_last_run()
            write_whole(self._data / "run" / "pid", str(os.getpid()))
        except OSError as error:
            raise InvalidRequestError(
                f"nothing can be kept in the data directory {self._data}: {error.strerror} ({error.filename})",
                code="unusable_data_dir",
                field="--data-dir",
                next_step="name a directory that you may write to, or change the permissions of this one",
            ) from error

    def _forget_last_run(self) -> None:
        for name in ("url", "pid"):
            (self._data / "run" / name).unlink(missing_ok=True)

    def _on_signal(self) -> None:
        now = time.monotonic()
        if self._stopping.is_set() and now - self._stop_asked_at > _SAME_SIGNAL_SECONDS:
            self._supervisor.kill()
        elif not self._stopping.is_set():
            self._stop_asked_at = now
            self._stopping.set()

    async def _unless_stopped(self, starting: Coroutine[None, None, None]) -> None:
        started, stopped = asyncio.create_task(starting), asyncio.create_task(self._stopping.wait())
        await asyncio.wait([started, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if started.done():
            started.result()
        started.cancel()

    async def _start(self) -> None:
        self._settings = _with_name(_with_ports(self._settings, self._data), self._data)
        await self._start_servers()
        await asyncio.to_thread(_migrate, self._settings.database_url)
        await self._provision_key()
        master_key.provision(MasterKeySettings(), self._data)
        self._settings = _with_key_of_pods(self._settings, self._data)
        for name in PART_NAMES:
            stopper = self._stop_sandboxes if name == "sandboxes" else _stop_part
            await self._supervisor.start(Part(name, start=partial(self._start_part, name), stop=stopper))
        await self._until_ready()

    async def _start_servers(self) -> None:
        """Return when Postgres is ready; the parts wait for Temporal themselves."""
        updates: dict[str, str] = {}
        postgres, temporal = EmbeddedPostgres(self._data / "postgres"), EmbeddedTemporal(self._data / "temporal")
        process = None
        if not self._settings.database_url:
            process = await self._supervisor.start(
                Part("postgres", start=lambda _: postgres.start(), stop=postgres.stop, log=postgres.log)
            )
            updates["database_url"] = postgres.url()
        if "temporal_address" not in self._settings.model_fields_set:
            inherit = (self._lock,)
            await self._supervisor.start(
                Part(
                    "temporal", start=lambda _: temporal.start(inherit=inherit), stop=temporal.stop, log=temporal.log
                )
            )
            updates["temporal_address"] = temporal.address
        self._settings = self._settings.model_copy(update=updates)
        if process is not None:
            await postgres.wait_ready(process)

    async def _provision_key(self) -> None:
        database = Database(self._settings.database_url, max_connections=1)
        await database.open()
        try:
            configured = self._settings.api_key
            await provision(database, self._key_file, configured.get_secret_value() if configured else None)
        finally:
            await database.close()

    async def _start_part(self, name: PartName, output: int) -> Process:
        command = [sys.executable, "-m", "controlplane.embedded.part", name]
        process = await asyncio.create_subprocess_exec(
            *guarded(command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=_environment(self._settings, name),
            pass_fds=(self._lock,),
            start_new_session=True,
        )
        if name != "api":
            # Who waits for an answer notices each moment, a turn hardly does.
            await put_behind(process)
        return process

    async def _stop_sandboxes(self, worker: Process) -> None:
        """End the worker, keep what its sandboxes hold, and end them: whoever stops us wants nothing left running."""
        from controlplane.sandboxes import Sandboxes

        await _stop_part(worker)
        database = Database(
            self._settings.database_url, max_connections=_KEEPING_CONNECTIONS, wait_seconds=_ANSWER_SECONDS
        )
        await database.open()
        sandboxes = Sandboxes(self._settings, database)
        try:
            if kept := (await sandboxes.clear()).kept:
                _log.info(
                    f"sandboxes put away: {kept}; the files in them come back with their session's next command"
                )
        finally:
            await sandboxes.keeper.close()
            await database.close()

    async def _until_ready(self) -> None:
        looks = 0
        while reasons := await asyncio.to_thread(_not_ready, self._settings.host, self._settings.port):
            looks += 1
            if looks % int(_STILL_WAITING_SECONDS / _LOOK_SECONDS) == 0:
                _log.warning("still_waiting", reasons=reasons)
            await asyncio.sleep(_LOOK_SECONDS)
        url = f"http://{_in_url(_reachable(self._settings.host))}:{self._settings.port}"
        write_whole(self._data / "run" / "url", url)
        self._announce(url, self._key_file)

    @property
    def _key_file(self) -> Path:
        return self._data / "api-key"


def _migrate(url: str) -> None:
    try:
        migrate(url)
    except psycopg.OperationalError as error:
        raise UnavailableError(
            f"the database does not answer: {str(error).strip()}",
            code="database_unavailable",
            field="BULKHEAD_DATABASE_URL",
            next_step="check the URL, and that its server runs",
        ) from error


def _check_host(host: str) -> None:
    """Raise `InvalidRequestError` unless this machine can listen on the host."""
    try:
        listen_once(host, 0)
    except (OSError, UnicodeError) as error:
        unresolved = isinstance(error, (socket.gaierror, UnicodeError))
        problem = "is no address and does not resolve to one" if unresolved else "is no address of this machine"
        raise InvalidRequestError(
            f"{host!r} {problem}: {getattr(error, 'strerror', None) or error}",
            code="bad_host",
            field="--host",
            next_step="give 127.0.0.1 (this machine only), 0.0.0.0 (every network), or an address of this machine",
        ) from error


async def _stop_part(process: Process) -> None:
    await stop(process, signal.SIGTERM, grace_seconds=_STOP_SECONDS)


async def _sole_user(data: Path) -> int:
    """Return the lock that says that a data directory is in use; the parts inherit it."""
    try:
        return await wait_for_lock(data / "run" / "lock", timeout_seconds=_ORPHANS_GONE_SECONDS)
    except TimeoutError as error:
        raise ConflictError(
            f"another `bulkhead up` uses the data directory {data}",
            code="data_dir_in_use",
            field="--data-dir",
            next_step="stop it, or give this one a data directory of its own",
        ) from error


def _with_ports(settings: Settings, data: Path) -> Settings:
    ports = remembered_ports(data / "run" / "ports.json", ["api", "gateway", "memory"])
    updates: dict[str, int] = {}
    if settings.port == 0:
        updates["port"] = ports["api"]
    elif not port_is_free(settings.port, host=settings.host):
        raise ConflictError(
            f"another program listens on port {settings.port} of {settings.host}",
            code="port_in_use",
            field="--port",
            next_step="stop it, or choose another port (0: any that is free)",
        )
    if "gateway_port" not in settings.model_fields_set:
        updates["gateway_port"] = ports["gateway"]
    if "memory_port" not in settings.model_fields_set:
        updates["memory_port"] = ports["memory"]
    return settings.model_copy(update=updates)


def _with_name(settings: Settings, data: Path) -> Settings:
    """Name the workers after the data directory: two on one host must not reap each other's sandboxes."""
    if settings.worker_name:
        return settings
    record = data / "worker-name"
    if not record.exists():
        write_whole(record, f"{socket.gethostname()[:40]}-{secrets.token_hex(4)}")
    return settings.model_copy(update={"worker_name": record.read_text()})


def _check_temporal(settings: Settings) -> None:
    """Raise `InvalidRequestError` if Temporal is described wrongly, or TLS is wanted with the embedded one."""
    if not any(name.startswith("temporal_") for name in settings.model_fields_set):
        return
    from controlplane.temporal import temporal_server

    temporal_server(settings)
    if settings.temporal_tls and "temporal_address" not in settings.model_fields_set:
        raise InvalidRequestError(
            "BULKHEAD_TEMPORAL_TLS: the embedded Temporal does not speak TLS",
            code="bad_configuration",
            field="BULKHEAD_TEMPORAL_TLS",
            next_step="set BULKHEAD_TEMPORAL_ADDRESS as well, or unset it",
        )


async def _check_pods(settings: Settings) -> None:
    """Raise `InvalidRequestError` if sandboxes are to be pods, and the settings for that are wrong."""
    if settings.sandbox != "kubernetes":
        return
    from controlplane.kubernetes import kubernetes_options
    from sandbox.contract import SandboxError

    kubernetes_options(_with_given_key(settings, settings.kubernetes_key or SecretStr(secrets.token_hex(_KEY_BYTES))))
    from sandbox.kubernetes.access import find_access

    try:
        await (await find_access()).close()
    except SandboxError as error:
        raise InvalidRequestError(
            f"sandboxes are to be pods, and there is {error}",
            code="bad_configuration",
            field="KUBECONFIG",
            next_step="name the file, or choose another --sandbox",
        ) from error
    if settings.kubernetes_gate:
        raise InvalidRequestError(
            "BULKHEAD_KUBERNETES_GATE: `bulkhead up` has its egress proxy on this host, where pods find no gate",
            code="bad_configuration",
            field="BULKHEAD_KUBERNETES_GATE",
            next_step="unset it; BULKHEAD_KUBERNETES_GATE_LISTEN names an address of this host that pods reach",
        )


def _with_key_of_pods(settings: Settings, data: Path) -> Settings:
    """Give the workers a key that pods know them by, made at the first start, where none is given."""
    if settings.sandbox != "kubernetes" or settings.kubernetes_key is not None:
        return settings
    record = data / "kubernetes-key"
    if not record.exists():
        write_whole(record, secrets.token_hex(_KEY_BYTES), mode=0o600)
    return _with_given_key(settings, SecretStr(record.read_text()))


def _with_given_key(settings: Settings, key: SecretStr) -> Settings:
    return settings.model_copy(update={"kubernetes_key": key})


def _config_file(settings: Settings, data: Path) -> Path | None:
    candidates = [settings.config_file] if settings.config_file else [Path("bulkhead.toml"), data / "bulkhead.toml"]
    found = [path.resolve() for path in candidates if path == settings.config_file or os.access(path, os.F_OK)]
    return found[0] if found else None


def _environment(settings: Settings, part: PartName) -> dict[str, str]:
    """Return what a part sees: every setting, no API key, and other keys only where they are used."""
    secret = {*SECRET_VARIABLES, *master_key.VARIABLES, "BULKHEAD_API_KEY", *_KEYS.values()}
    kept = {name: value for name, value in os.environ.items() if name not in secret} | master_key.environment(part)
    for name, value in settings.model_dump(exclude={"api_key", *_KEYS}).items():
        if value is not None:
            kept[f"BULKHEAD_{name.upper()}"] = str(value)
    kept["BULKHEAD_LOG_FORMAT"] = "json"
    if part == "gateway":
        kept |= {name: os.environ[name] for name in SECRET_VARIABLES if name in os.environ}
    for name in _READS.get(part, ()):
        if (key := getattr(settings, name)) is not None:
            kept[_KEYS[name]] = key.get_secret_value()
    return kept


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared with, not bound to


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _not_ready(host: str, port: int) -> str:
    """Return why the control plane is not ready, or nothing."""
    connection = http.client.HTTPConnection(_reachable(host), port, timeout=_ANSWER_SECONDS)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            body = answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            return f"the API does not answer: {error}"
    return "" if answer.status == 200 else body or json.dumps({"status": answer.status})


def _shower(log_format: logs.LogFormat) -> Callable[[str, str], None]:
    text, colours = logs.wants_text(log_format, sys.stderr), sys.stderr.isatty()

    def show(part: str, line: str) -> None:
        shown = logs.readable_line(line, part=part, colours=colours) if text else logs.json_line(line, part=part)
        sys.stderr.write(shown + "\n")
        sys.stderr.flush()

    return show
