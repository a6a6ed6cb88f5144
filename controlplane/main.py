"""The processes of the control plane: each builds its parts, hands them to one another, and runs until stopped."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Coroutine
from functools import partial
from importlib.metadata import version
from typing import Any

from temporalio.worker import Worker

from controlplane.ids import new_id
from controlplane.settings import Settings
from controlplane.store.pool import Database
from workflows.worker import connect

_API_CONNECTIONS = 20
_API_PATIENCE_SECONDS = 5.0  # then a client is told to repeat its request
_BRAIN_CONNECTIONS = 20
_SANDBOX_CONNECTIONS = 10
_REAP_SECONDS = 10.0


async def run_api(settings: Settings) -> None:
    """The REST API, and the reconciler that wakes neglected sessions."""
    from controlplane.api.app import create_app
    from controlplane.api.server import ApiServer
    from controlplane.readiness import Readiness
    from controlplane.vault.keyring import MasterKeySettings, open_keyring
    from controlplane.wakeups import Reconciler, Wakeups

    database = Database(settings.database_url, max_connections=_API_CONNECTIONS, wait_seconds=_API_PATIENCE_SECONDS)
    await database.open()
    client = await connect(settings.temporal_address, settings.temporal_namespace)
    wakeups = Wakeups(client)
    app = create_app(
        database=database,
        submitter=wakeups,
        readiness=Readiness(database=database, client=client, gateway_url=settings.gateway_url),
        version=version("bulkhead"),
        keyring=open_keyring(MasterKeySettings(), settings.data_dir),
    )
    reconciler = asyncio.create_task(Reconciler(database=database, wakeups=wakeups).run())
    try:
        await ApiServer(app, host=settings.host, port=settings.port).serve()
    finally:
        await _stop(reconciler)
        await database.close()


async def run_gateway(settings: Settings) -> None:
    """The model gateway, the only process that sees provider keys."""
    from controlplane.models.gateway import serve
    from controlplane.settings import ProviderSettings

    await serve(settings, ProviderSettings())


async def run_brain(settings: Settings) -> None:
    """Holds sessions and runs their turns."""
    from controlplane.store.journal import PostgresJournal
    from controlplane.store.turns import PostgresTurns
    from controlplane.store.workers import PostgresLeases
    from harness_adapters.builtin import BuiltinHarness
    from workflows.sweep import Sweeper
    from workflows.tools import ToolDispatcher
    from workflows.turn import TurnRunner
    from workflows.worker import brain_worker, connect_patiently

    database = Database(settings.database_url, max_connections=_BRAIN_CONNECTIONS)
    await database.open()
    client = await connect_patiently(settings.temporal_address, settings.temporal_namespace)
    worker_id, leases = new_id("wrk"), PostgresLeases(database)
    harness = BuiltinHarness(partial(new_id, "sevt"))
    turns = TurnRunner(
        worker_id=worker_id,
        records=PostgresTurns(database, gateway_url=settings.gateway_url),
        harnesses={"builtin": harness},
        dispatcher=ToolDispatcher(client=client, journal=PostgresJournal(database)),
    )
    worker = brain_worker(client, turns, max_concurrent_turns=settings.max_concurrent_turns)
    try:
        await _run_worker(
            worker,
            leases.hold(worker_id, "brain", host=_host(settings)),
            Sweeper(worker_id=worker_id, client=client, leases=leases).run(),
        )
    finally:
        await harness.close()
        await database.close()


async def run_sandboxes(settings: Settings) -> None:
    """Runs tool calls in the sandboxes of this host, and reaps what is left over."""
    from controlplane.sandboxes import provider_choice, providers
    from controlplane.store.journal import PostgresJournal
    from controlplane.store.sandboxes import PostgresSandboxes
    from controlplane.store.workers import PostgresLeases
    from sandbox.keeper import Keeper
    from workflows.hands import ToolRunner
    from workflows.sweep import Sweeper
    from workflows.worker import connect_patiently, sandbox_worker

    database = Database(settings.database_url, max_connections=_SANDBOX_CONNECTIONS)
    await database.open()
    client = await connect_patiently(settings.temporal_address, settings.temporal_namespace)
    worker_id, leases = new_id("wrk"), PostgresLeases(database)
    available = providers(settings)
    keeper = Keeper(
        records=PostgresSandboxes(database),
        providers=available,
        choose=provider_choice(settings, available),
        host=_host(settings),
        idle_seconds=settings.sandbox_idle_seconds,
    )
    tools = ToolRunner(worker_id=worker_id, journal=PostgresJournal(database), keeper=keeper)
    worker = sandbox_worker(client, tools, max_concurrent_tool_calls=settings.max_concurrent_tool_calls)
    try:
        await _run_worker(
            worker,
            leases.hold(worker_id, "sandbox", host=_host(settings)),
            Sweeper(worker_id=worker_id, client=client, leases=leases).run(),
            keeper.reap_forever(every_seconds=_REAP_SECONDS),
        )
    finally:
        await keeper.close()
        await database.close()


async def _run_worker(worker: Worker, *background: Coroutine[Any, Any, None]) -> None:
    """Run a worker and its background tasks until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    tasks = [asyncio.create_task(each) for each in background]
    try:
        async with worker:
            waiting = asyncio.create_task(stopping.wait())
            done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
            await _stop(waiting)
            for task in done - {waiting}:
                task.result()
    finally:
        for task in tasks:
            await _stop(task)


def _host(settings: Settings) -> str:
    """The name under which this host's sandboxes are found again."""
    return settings.worker_name or socket.gethostname()


async def _stop(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
