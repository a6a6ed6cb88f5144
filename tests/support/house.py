"""The sandboxes of a host with real rows, and sessions that use them."""

import itertools
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from psycopg.types.json import Jsonb
from temporalio.testing import ActivityEnvironment

from controlplane.ids import new_id
from controlplane.memory.folder import MemoryFolder
from controlplane.memory.preparing import Preparer
from controlplane.sandboxes import Sandboxes
from controlplane.settings import Settings
from controlplane.store.journal import PostgresJournal
from controlplane.store.pool import ALL_WORKSPACES, Database
from controlplane.store.refusals import PostgresRefusals
from sandbox.contract import ExecRequest, ExecResult, SandboxError, SandboxProvider
from sandbox.records import SandboxRow
from tests.support import cluster
from tests.support.memory import preparer as local_preparer
from tests.support.sandboxes import runtime_cache
from workflows.contracts import ToolCallInput
from workflows.hands import ToolRunner
from workflows.interrupts import Interrupts
from workflows.outcomes import opening_receipt

WORKSPACE = "wrkspc_default"
HERE, THERE = f"here{os.getpid()}", f"there{os.getpid()}"
"""Names of hosts; another run on this machine has its own: a host removes whatever bears its name."""
ON_PODS_TOO = pytest.mark.parametrize(
    "house_provider", ["namespace", pytest.param("kubernetes", marks=pytest.mark.kubernetes)], indirect=True
)
"""For what depends on how a provider makes, finds and ends its sandboxes."""
_numbers = itertools.count(1)


class House:
    """The sandboxes of one host, and a session that uses them."""

    def __init__(self, database: Database, sandboxes: Sandboxes, session_id: str):
        self.database = database
        self.sandboxes = sandboxes
        self.keeper = sandboxes.keeper
        self.session_id = session_id
        self.call = ""

    @property
    def provider(self) -> SandboxProvider:
        """The one provider that this host has."""
        return next(iter(self.sandboxes.providers.values()))

    async def ensure(self) -> SandboxRow:
        """Return the session's sandbox, as the tool call ``self.call`` gets it."""
        self.call = f"sevt_{next(_numbers)}"
        return await self.keeper.ensure(WORKSPACE, self.session_id, tool_use_id=self.call)

    async def run(self, command: str) -> ExecResult:
        """Run a command in it."""
        row = await self.ensure()
        request = ExecRequest(exec_id=self.call, command=command, timeout_seconds=30)
        return await self.keeper.provider(row).execute(row.id, request)

    async def receipt(self) -> str:
        """Return what a new call is told of the sandbox before."""
        row = await self.ensure()
        return opening_receipt(self.call, row)

    async def age(self) -> None:
        """Let the session's sandbox have been idle for long."""
        await self.execute("UPDATE sandboxes SET last_used_at = now() - interval '1 hour' WHERE status = 'ready'")

    async def execute(self, statement: str) -> None:
        """Change rows behind everybody's back."""
        async with self.database.transaction(ALL_WORKSPACES) as connection:
            await connection.execute(statement.encode())

    async def count(self, table: str) -> int:
        """Return how many rows a table has."""
        async with self.database.transaction(ALL_WORKSPACES) as connection:
            found = await (await connection.execute(f"SELECT count(*) AS n FROM {table}".encode())).fetchone()  # noqa: S608
        assert found is not None
        return found["n"]


Open = Callable[..., House]


@pytest.fixture
def house_provider(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """The settings of the provider that the houses of a test have; bwrap's sandboxes unless `ON_PODS_TOO`."""
    if getattr(request, "param", "namespace") == "namespace":
        return {"sandbox": "namespace"}
    found = cluster.settings()
    request.getfixturevalue("pods_namespace")
    return found


@pytest.fixture
async def open_house(
    database: Database, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, house_provider: Mapping[str, str]
) -> AsyncGenerator[Open]:
    """Put the sandboxes of a host together; again with the same name is the same host after its worker died."""
    opened: list[Sandboxes] = []
    sessions = await _session(database), await _session(database)

    def make(host: str = HERE, *, session: int = 0, **settings: object) -> House:
        folder = tmp_path / host
        folder.mkdir(exist_ok=True)
        with suppress(FileExistsError):
            (folder / "cache").symlink_to(runtime_cache(tmp_path_factory))
        given = {"data_dir": folder, "worker_name": host, "sandbox_idle_seconds": 60, **house_provider}
        opened.append(Sandboxes(Settings.model_validate({**given, **settings}), database))
        return House(database, opened[-1], sessions[session])

    runtime_cache(tmp_path_factory).mkdir(exist_ok=True)
    yield make
    for sandboxes in opened:
        for provider in sandboxes.providers.values():
            with suppress(SandboxError):  # no Docker here
                for sandbox_id in await provider.list_ids():
                    await provider.destroy(sandbox_id)
        await sandboxes.keeper.close()


@pytest.fixture
def house(open_house: Open) -> House:
    """The sandboxes of this host."""
    return open_house()


async def _session(database: Database) -> str:
    session, agent, environment = new_id("sesn"), new_id("agent"), new_id("env")
    network = {
        "type": "limited",
        "allowed_hosts": [],
        "allow_mcp_servers": False,
        "allow_package_managers": False,
    }
    config = {"type": "cloud", "networking": network, "workspace_mb": 64, "memory_mb": 128}
    async with database.transaction(WORKSPACE) as connection:
        await connection.execute(
            "INSERT INTO agents (id, workspace_id, version) VALUES (%s, %s, 1)", (agent, WORKSPACE)
        )
        await connection.execute(
            "INSERT INTO environments (id, workspace_id, name, config) VALUES (%s, %s, 'e', %s)",
            (environment, WORKSPACE, Jsonb(config)),
        )
        await connection.execute(
            "INSERT INTO sessions (id, workspace_id, agent_id, agent_version, agent, environment_id)"
            " VALUES (%s, %s, %s, 1, %s, %s)",
            (session, WORKSPACE, agent, Jsonb({"id": agent}), environment),
        )
    return session


class Hands:
    """What runs the calls of a house's session."""

    def __init__(
        self,
        house: House,
        *,
        worker_id: str = "wrk_test",
        max_concurrent: int = 8,
        preparer: Preparer | None = None,
    ):
        self.house = house
        self._runner = ToolRunner(
            worker_id=worker_id,
            journal=PostgresJournal(house.database),
            keeper=house.keeper,
            refusals=PostgresRefusals(house.database),
            shelf=MemoryFolder(house.database, preparer or local_preparer(house.database)),
            interrupts=Interrupts(),
            max_concurrent=max_concurrent,
        )

    async def dispatch(self, command: str) -> ToolCallInput:
        """Journal a call that is about to run."""
        call = ToolCallInput(tool_use_id=new_id("sevt"), session_id=self.house.session_id, workspace_id=WORKSPACE)
        async with self.house.database.transaction(WORKSPACE) as connection:
            await connection.execute(
                "INSERT INTO turns (id, workspace_id, session_id, begun_seq) VALUES ('turn_test', %s, %s, 0)"
                " ON CONFLICT DO NOTHING",
                (WORKSPACE, call.session_id),
            )
            await connection.execute(
                "INSERT INTO tool_calls (id, workspace_id, session_id, turn_id, name, input, state, verdict,"
                " dispatched_at) VALUES (%s, %s, %s, 'turn_test', 'sandbox_execute', %s, 'dispatched', 'allow',"
                " clock_timestamp())",
                (call.tool_use_id, WORKSPACE, call.session_id, Jsonb({"command": command})),
            )
        return call

    async def run(self, call: ToolCallInput) -> tuple[str, str]:
        """Run a call and return its state and what the model is told."""
        state = await ActivityEnvironment().run(self._runner.run_tool, call)
        row = await PostgresJournal(self.house.database).read(call)
        assert row is not None
        assert row.outcome is not None
        return state, row.outcome.content[0].model_dump()["text"]


@pytest.fixture
def hands(house: House) -> Hands:
    """What runs the session's calls."""
    return Hands(house)
