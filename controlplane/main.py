"""The processes of the control plane: each builds its parts, hands them to one another, and runs until stopped."""

import asyncio
import contextlib
import signal
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import structlog

from controlplane.health import Health
from controlplane.ids import new_id
from controlplane.settings import Settings
from controlplane.store.pool import Database
from controlplane.tasks import end

if TYPE_CHECKING:
    from controlplane.frontdoors.slack.check import Finding
    from harness_adapters.catalog import HarnessSettings
    from workflows.schedule import Firings

_log = structlog.get_logger(__name__)

_API_CONNECTIONS = 20
_API_PATIENCE_SECONDS = 5.0  # then a client is told to repeat its request
_BRAIN_CONNECTIONS = 20
_SANDBOX_CONNECTIONS = 10
_EGRESS_CONNECTIONS = 10
_MEMORY_CONNECTIONS = 10
_SLACK_CONNECTIONS = 20
_LINE_LOOK_SECONDS = 0.05
_REAP_SECONDS = 10.0
_WORKER_PAUSE_SECONDS = 1.0


async def run_api(settings: Settings, health: Health) -> None:
    """The REST API, the reconciler that wakes neglected sessions, and what fires deployments."""
    from controlplane.api.app import create_app
    from controlplane.api.server import ApiServer, serve_beside
    from controlplane.deployments.scheduler import Scheduler
    from controlplane.memory.remote import RemotePreparer
    from controlplane.readiness import Readiness
    from controlplane.temporal import temporal_server
    from controlplane.vault.keyring import MasterKeySettings, open_keyring
    from controlplane.wakeups import Reconciler, Wakeups
    from harness_adapters.installation import installed_names
    from workflows.connection import connect

    database = Database(settings.database_url, max_connections=_API_CONNECTIONS, wait_seconds=_API_PATIENCE_SECONDS)
    await database.open()
    # Not watched by `health`: without Temporal the API still takes what it is told, and it is acted on later.
    client = await connect(temporal_server(settings))
    wakeups = Wakeups(client)
    app = create_app(
        database=database,
        submitter=wakeups,
        readiness=Readiness(database=database, client=client, gateway_url=settings.gateway_url),
        version=version("bulkhead"),
        keyring=open_keyring(MasterKeySettings(), settings.data_dir),
        harnesses=installed_names(settings.harness_programs),
        preparer=RemotePreparer(settings.memory_url),
    )
    scheduler = Scheduler(database=database, client=client, submitter=wakeups)
    try:
        await serve_beside(
            ApiServer(app, host=settings.host, port=settings.port),
            health,
            Reconciler(database=database, wakeups=wakeups).run(),
            scheduler.run(),
            _fire_deployments(settings, scheduler),
        )
    finally:
        await database.close()


async def _fire_deployments(settings: Settings, firings: "Firings") -> None:
    """Take what Temporal's schedules fire until cancelled; while nobody does, the API answers all the same."""
    from controlplane.temporal import temporal_server
    from workflows.connection import connect_patiently
    from workflows.schedule import FiringRunner
    from workflows.worker import schedule_worker

    while True:
        client = await connect_patiently(temporal_server(settings))
        try:
            await schedule_worker(client, FiringRunner(firings)).run()
        except Exception:  # noqa: BLE001 - what the worker cannot bear must not end the API
            _log.exception("schedule_worker_ended")
        await asyncio.sleep(_WORKER_PAUSE_SECONDS)


async def run_gateway(settings: Settings, health: Health) -> None:
    """The model gateway, the only process that sees provider keys."""
    from controlplane.models.gateway import serve
    from controlplane.settings import ProviderSettings

    await serve(settings, ProviderSettings(), health=health)


async def run_brain(settings: Settings, health: Health) -> None:
    """Holds sessions and runs their turns."""
    from controlplane.memory.recall import Recall
    from controlplane.memory.remote import RemotePreparer
    from controlplane.store import interrupts
    from controlplane.store.journal import PostgresJournal
    from controlplane.store.judging import Judge
    from controlplane.store.turns import PostgresTurns
    from controlplane.store.workers import PostgresLeases
    from controlplane.temporal import connected
    from harness_adapters.catalog import harnesses
    from workflows.interrupts import Interrupts
    from workflows.outputs import OutputDispatcher
    from workflows.sweep import Sweeper
    from workflows.tools import ToolDispatcher
    from workflows.turn import TurnRunner
    from workflows.worker import brain_worker

    database = Database(settings.database_url, max_connections=_BRAIN_CONNECTIONS)
    await database.open()
    client = await connected(settings, health)
    worker_id, leases, stops = new_id("wrk"), PostgresLeases(database), Interrupts()
    available = harnesses(partial(new_id, "sevt"), _harness_settings(settings))
    judge = Judge(expiry_seconds=settings.approval_expiry_seconds)
    records = PostgresTurns(
        database,
        gateway_url=settings.gateway_url,
        judge=judge,
        compact_above_tokens=settings.compact_above_tokens,
        memory=Recall(database, RemotePreparer(settings.memory_url)).section,
    )
    turns = TurnRunner(
        worker_id=worker_id,
        records=records,
        harnesses=available,
        dispatcher=ToolDispatcher(client=client, journal=PostgresJournal(database, judge=judge), records=records),
        outputs=OutputDispatcher(client=client, records=records),
        interrupts=stops,
    )
    worker = brain_worker(client, turns, max_concurrent_turns=settings.max_concurrent_turns)
    try:
        await _until_stopped(
            health,
            leases.hold(worker_id, "brain", host=settings.host_name),
            interrupts.hear(settings.database_url, stops),
            Sweeper(worker_id=worker_id, client=client, leases=leases).run(),
            within=worker,
        )
    finally:
        for harness in available.values():
            await harness.close()
        await database.close()


def _harness_settings(settings: Settings) -> "HarnessSettings":
    from harness_adapters.catalog import HarnessSettings

    return HarnessSettings(
        programs=settings.harness_programs,
        state_dir=settings.data_dir / "run" / "harnesses",
        cache_dir=settings.data_dir / "cache",
        installation=settings.host_name,
        processes=settings.harness_processes,
        idle_seconds=settings.harness_idle_seconds,
        silence_seconds=settings.harness_silence_seconds,
    )


async def run_sandboxes(settings: Settings, health: Health) -> None:
    """Runs tool calls in the sandboxes of this host, and reaps what is left over."""
    from controlplane.memory.folder import MemoryFolder
    from controlplane.memory.remote import RemotePreparer
    from controlplane.sandboxes import Sandboxes
    from controlplane.store import interrupts
    from controlplane.store.journal import PostgresJournal
    from controlplane.store.listening import listen
    from controlplane.store.outputs import PostgresOutputs
    from controlplane.store.refusals import PostgresRefusals
    from controlplane.store.sandboxes import HALTED
    from controlplane.store.workers import PostgresLeases
    from controlplane.temporal import connected
    from workflows.hands import ToolRunner
    from workflows.interrupts import Interrupts
    from workflows.outputs import OutputRunner
    from workflows.sweep import Sweeper
    from workflows.worker import sandbox_workers

    database = Database(settings.database_url, max_connections=_SANDBOX_CONNECTIONS)
    await database.open()
    client = await connected(settings, health)
    worker_id, leases, stops = new_id("wrk"), PostgresLeases(database), Interrupts()
    sandboxes = Sandboxes(settings, database)
    tools = ToolRunner(
        worker_id=worker_id,
        journal=PostgresJournal(database),
        keeper=sandboxes.keeper,
        refusals=PostgresRefusals(database),
        shelf=MemoryFolder(database, RemotePreparer(settings.memory_url)),
        interrupts=stops,
        max_concurrent=settings.max_concurrent_tool_calls,
    )
    workers = sandbox_workers(
        client,
        tools,
        OutputRunner(keeper=sandboxes.keeper, records=PostgresOutputs(database)),
        host=settings.host_name,
        max_concurrent_tool_calls=settings.max_concurrent_tool_calls,
    )

    def halted(_: str, host: str) -> None:
        if host == settings.host_name:
            sandboxes.reaper.hurry()

    try:
        await _until_stopped(
            health,
            leases.hold(worker_id, "sandbox", host=settings.host_name),
            listen(settings.database_url, [HALTED], halted, connected=sandboxes.reaper.hurry),
            interrupts.hear(settings.database_url, stops),
            Sweeper(worker_id=worker_id, client=client, leases=leases).run(),
            sandboxes.reaper.run(every_seconds=_REAP_SECONDS),
            sandboxes.pool.run(),
            sandboxes.outlets.keep(sandboxes.keeper.holders),
            within=workers,
        )
    finally:
        await sandboxes.keeper.close()
        await database.close()


async def run_egress(settings: Settings, health: Health) -> None:
    """The proxy that is the only way out of this host's sandboxes; only the API and it can open a secret."""
    from controlplane.egress import ears_path, egress_settings, gate_address
    from controlplane.store.decisions import PostgresAudit
    from controlplane.store.egress import PostgresPolicySource
    from controlplane.store.line import Line
    from controlplane.store.workers import PostgresLeases
    from controlplane.vault.keyring import MasterKeySettings, open_keyring
    from sandbox.egress import Ears, Gate, Proxy, SystemResolver
    from workflows.limits import DRAIN

    gate = gate_address(settings, "egress_gate_listen")
    database = Database(settings.database_url, max_connections=_EGRESS_CONNECTIONS)
    await database.open()
    line = Line(settings.database_url)
    keyring = open_keyring(MasterKeySettings(), settings.data_dir)
    resolver = SystemResolver()
    policies = PostgresPolicySource(database=database, line=line, keyring=keyring)
    proxy = Proxy(
        policies=policies,
        audit=PostgresAudit(line),
        resolver=resolver,
        settings=egress_settings(settings),
    )

    async def line_is_up() -> str | None:
        return None if line.is_up else "what may leave cannot be decided or recorded at the moment"

    health.watch("line", line_is_up)

    way_out = contextlib.AsyncExitStack()

    async def listen() -> None:
        # Before the line is up nothing could be decided or recorded; who asks already waits at its ear.
        while not line.is_up:  # noqa: ASYNC110 - a line is up or not, from moment to moment
            await asyncio.sleep(_LINE_LOOK_SECONDS)
        if gate is None:
            await way_out.enter_async_context(Ears(ears_path(settings), proxy))
        else:
            drain_seconds = DRAIN.total_seconds()
            await way_out.enter_async_context(Gate(gate, proxy, policies, drain_seconds=drain_seconds))
        await PostgresLeases(database).hold(new_id("wrk"), "egress", host=settings.host_name)

    try:
        async with proxy:
            # The line is up until the last connection has ended: what goes on is decided and recorded as before.
            await _until_stopped(health, line.run(), listen(), within=way_out)
    finally:
        resolver.close()
        await database.close()


async def run_memory(settings: Settings, health: Health) -> None:
    """Takes secrets out of what is to be kept, embeds it, and runs the memory tools."""
    from controlplane.memory.embedding import EMBEDDED, NONE, embedder
    from controlplane.memory.keeping import Upkeep
    from controlplane.memory.preparation import LocalPreparer
    from controlplane.memory.service import serve
    from controlplane.memory.tools import MemoryTools
    from controlplane.store.journal import PostgresJournal
    from controlplane.store.listening import listen
    from controlplane.store.memory_vectors import PENDING
    from controlplane.store.workers import PostgresLeases
    from controlplane.temporal import connected
    from controlplane.vault.keyring import MasterKeySettings, open_keyring
    from workflows.reembed import ReembedActivities
    from workflows.remembering import MemoryRunner
    from workflows.sweep import Sweeper
    from workflows.worker import memory_worker

    database = Database(settings.database_url, max_connections=_MEMORY_CONNECTIONS)
    await database.open()
    wanted = settings.embedding_model
    found = [
        embedder(name, url=settings.embedding_url, api_key=settings.embedding_api_key)
        for name in dict.fromkeys([wanted, EMBEDDED])
        if wanted != NONE
    ]
    preparer = LocalPreparer(
        database,
        open_keyring(MasterKeySettings(), settings.data_dir),
        [each for each in found if each is not None],
    )
    client = await connected(settings, health)
    worker_id, leases = new_id("wrk"), PostgresLeases(database)
    journal = PostgresJournal(database)
    upkeep = Upkeep(database, preparer, client)
    worker = memory_worker(
        client,
        MemoryRunner(worker_id=worker_id, journal=journal, memory=MemoryTools(database, journal, preparer)),
        ReembedActivities(upkeep),
        max_concurrent_tool_calls=settings.max_concurrent_tool_calls,
    )
    try:
        await _until_stopped(
            health,
            leases.hold(worker_id, "memory", host=settings.host_name),
            listen(settings.database_url, [PENDING], upkeep.hurry, connected=upkeep.hurry_at_once),
            Sweeper(worker_id=worker_id, client=client, leases=leases).run(),
            upkeep.run(),
            serve(preparer, host=settings.memory_host, port=settings.memory_port),
            within=worker,
        )
    finally:
        await preparer.close()
        await database.close()


async def run_slack(settings: Settings, health: Health, *, api_url: str) -> None:
    """The front door in Slack. It asks the API like any client; the ledger and its own vault it opens by itself."""
    from controlplane.frontdoors.slack.process import serve
    from controlplane.vault.keyring import MasterKeySettings, open_keyring

    database = Database(settings.database_url, max_connections=_SLACK_CONNECTIONS)
    await database.open()
    keyring = open_keyring(MasterKeySettings(), settings.data_dir)
    try:
        await _until_stopped(health, serve(settings, database, keyring, api_url))
    finally:
        await database.close()


async def check_slack(settings: Settings, *, request_url: str | None) -> "list[Finding]":
    """What is right and wrong about the front door in Slack."""
    from controlplane.frontdoors.slack.check import check
    from controlplane.frontdoors.slack.process import api_key, opened
    from controlplane.vault.keyring import MasterKeySettings, open_keyring

    database = Database(settings.database_url, max_connections=1)
    await database.open()
    try:
        keyring = open_keyring(MasterKeySettings(), settings.data_dir)
        door, tokens = await opened(database, keyring, name=settings.slack_front_door)
        await api_key(database, keyring, door)
        return await check(settings, door, tokens, request_url=request_url)
    finally:
        await database.close()


async def _until_stopped(
    health: Health, *background: Coroutine[Any, Any, None], within: AbstractAsyncContextManager[Any] | None = None
) -> None:
    """Run tasks until SIGTERM or SIGINT, or until one of them fails; a worker drains while they still run."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        health.stops()
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    tasks = [asyncio.create_task(each) for each in background]
    try:
        async with within or contextlib.nullcontext():
            if not stopping.is_set():
                health.serves()
            waiting = asyncio.create_task(stopping.wait())
            done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
            await end(waiting)
            for task in done - {waiting}:
                task.result()
    finally:
        await end(*tasks)
