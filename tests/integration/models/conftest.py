"""The gateway and the scripted model on real sockets, with turns in a real Postgres."""

import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest
from psycopg.types.json import Jsonb

from controlplane.ids import new_id
from controlplane.models import TurnGate, create_gateway, token_hash
from controlplane.models.listening import listening
from controlplane.models.scripted import create_scripted, scripted_providers
from controlplane.models.upstream import create_client
from controlplane.settings import ModelProvider
from controlplane.store.pool import ALL_WORKSPACES, Database
from harness_adapters.builtin import BuiltinHarness, Patience

_WORKSPACE = "wrkspc_default"
_TURN = """
WITH agent AS (INSERT INTO agents (id, workspace_id, version) VALUES (%(agent)s, %(workspace)s, 1) RETURNING id),
environment AS (INSERT INTO environments (id, workspace_id, name, config)
  VALUES (%(environment)s, %(workspace)s, 'e', %(empty)s) RETURNING id),
session AS (INSERT INTO sessions (id, workspace_id, agent_id, agent_version, agent, environment_id)
  SELECT %(session)s, %(workspace)s, agent.id, 1, %(empty)s, environment.id FROM agent, environment RETURNING id)
INSERT INTO turns (id, workspace_id, session_id, model_token_hash)
  SELECT %(turn)s, %(workspace)s, session.id, %(hash)s FROM session
"""


@dataclass(frozen=True)
class Gateway:
    """A gateway that listens, and the token of a turn that runs."""

    url: str
    token: str
    http: httpx.AsyncClient
    database: Database

    @property
    def key(self) -> dict[str, str]:
        """The header that carries the token."""
        return {"x-api-key": self.token}

    async def end_turn(self) -> None:
        """End every turn, and with them their tokens."""
        async with self.database.transaction(ALL_WORKSPACES) as connection:
            await connection.execute("UPDATE turns SET status = 'ended'")


OpenGateway = Callable[[dict[str, ModelProvider]], AbstractAsyncContextManager[Gateway]]


@pytest.fixture
async def open_gateway(database: Database) -> OpenGateway:
    """Open a gateway to given providers."""

    @asynccontextmanager
    async def opened(providers: dict[str, ModelProvider]) -> AsyncGenerator[Gateway]:
        token = await _running_turn(database)
        async with create_client() as upstream, httpx.AsyncClient(trust_env=False) as http:
            app = create_gateway(providers, gate=TurnGate(database), client=upstream)
            async with listening(app) as url:
                yield Gateway(url, token, http, database)

    return opened


@pytest.fixture
async def gateway(open_gateway: OpenGateway) -> AsyncGenerator[Gateway]:
    """A gateway to the scripted model alone."""
    async with listening(create_scripted()) as scripted_url, open_gateway(scripted_providers(scripted_url)) as opened:
        yield opened


@pytest.fixture
async def harness() -> AsyncGenerator[BuiltinHarness]:
    """The builtin harness with waits that a test can bear."""
    made = BuiltinHarness(lambda: new_id("sevt"), patience=Patience(first_wait_seconds=0.01, stream_idle_seconds=0.5))
    yield made
    await made.close()


async def _running_turn(database: Database) -> str:
    token = secrets.token_urlsafe()
    parameters = {
        "workspace": _WORKSPACE,
        "agent": new_id("agent"),
        "environment": new_id("env"),
        "session": new_id("sesn"),
        "turn": new_id("turn"),
        "hash": token_hash(token),
        "empty": Jsonb({}),
    }
    async with database.transaction(_WORKSPACE) as connection:
        await connection.execute(_TURN, parameters)
    return token
