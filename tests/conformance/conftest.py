"""The API on a socket, with a real Postgres behind it and no workflow: for everything that needs no brain."""

import asyncio
import itertools
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest
from anthropic import AsyncAnthropic
from anthropic.types.beta import BetaEnvironment, BetaManagedAgentsAgent, BetaManagedAgentsSession
from fastapi import FastAPI
from pydantic import SecretStr

from controlplane.api import ApiServer, create_app
from controlplane.embedded.postgres import EmbeddedPostgres
from controlplane.store import keys
from controlplane.store.events import Event
from controlplane.store.pool import Database
from controlplane.vault.keyring import Keyring, new_master_key
from tests.support.memory import preparer

API_KEY = "bhk_a-key-that-only-the-tests-know"
WORKSPACE = "wrkspc_default"

_databases = itertools.count(1)


class NoWorkflow:
    """A submitter for tests that need no turn: it remembers what it was told, and that is all."""

    def __init__(self) -> None:
        self.told: list[tuple[str, list[str]]] = []

    def submitted(self, workspace_id: str, session_id: str, events: Sequence[Event]) -> None:
        """Remember the events."""
        assert workspace_id == WORKSPACE
        self.told.append((session_id, [event.id for event in events]))


@dataclass(frozen=True)
class Api:
    """A running API."""

    url: str
    api_key: str
    database: Database
    database_url: str
    submitter: NoWorkflow


async def everything_is_ready() -> dict[str, str | None]:
    """A readiness for an API that has nothing but a database."""
    return {"postgres": None}


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncGenerator[str]:
    """Serve ``app`` on a free port and yield its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = ApiServer(app, host="127.0.0.1", port=port)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:  # noqa: ASYNC110 - uvicorn has a flag and no event
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        await task


@pytest.fixture(scope="session")
async def api(postgres: EmbeddedPostgres, migrated_template: str) -> AsyncGenerator[Api]:
    """The API on a database of its own."""
    name = f"conformance_{next(_databases)}"
    await postgres.create_database(name, template=migrated_template)
    database = Database(postgres.url(name))
    await database.open()
    async with database.transaction(WORKSPACE) as connection:
        await keys.ensure_key(connection, WORKSPACE, "tests", API_KEY)
    submitter = NoWorkflow()
    keyring = Keyring(text=SecretStr(new_master_key()))
    app = create_app(
        database=database,
        submitter=submitter,
        readiness=everything_is_ready,
        version="0.0.test",
        keyring=keyring,
        preparer=preparer(database, keyring),
    )
    async with serving(app) as url:
        yield Api(url, API_KEY, database, postgres.url(name), submitter)
    await database.close()
    await postgres.drop_database(name)


@pytest.fixture(scope="session")
async def client(api: Api) -> AsyncGenerator[AsyncAnthropic]:
    """The public SDK, unmodified, refusing every answer that does not fit its types."""
    async with AsyncAnthropic(
        base_url=api.url, api_key=api.api_key, max_retries=0, _strict_response_validation=True
    ) as opened:
        yield opened


@pytest.fixture(scope="session")
async def http(api: Api) -> AsyncGenerator[httpx.AsyncClient]:
    """Plain HTTP with the API key."""
    async with httpx.AsyncClient(base_url=api.url, headers={"x-api-key": api.api_key}, timeout=30) as opened:
        yield opened


@pytest.fixture
async def agent(client: AsyncAnthropic) -> BetaManagedAgentsAgent:
    """A fresh agent."""
    return await client.beta.agents.create(name="tester", model="scripted/demo")


@pytest.fixture
async def environment(client: AsyncAnthropic) -> BetaEnvironment:
    """A fresh environment."""
    return await client.beta.environments.create(name="plain")


@pytest.fixture
async def session(
    client: AsyncAnthropic, agent: BetaManagedAgentsAgent, environment: BetaEnvironment
) -> BetaManagedAgentsSession:
    """A fresh session."""
    return await client.beta.sessions.create(agent=agent.id, environment_id=environment.id)
