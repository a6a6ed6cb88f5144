"""The gateway and the scripted model on real sockets, with turns in a real Postgres."""

import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
import pytest
from psycopg.types.json import Jsonb

from controlplane.ids import new_id
from controlplane.models import ModelLog, TurnGate, create_gateway, token_hash
from controlplane.models.listening import listening
from controlplane.models.scripted import create_scripted, scripted_providers
from controlplane.models.upstream import create_client
from controlplane.settings import ModelProvider
from controlplane.store.pool import ALL_WORKSPACES, Database, one, rows
from harness_adapters.builtin import BuiltinHarness, Patience

_WORKSPACE = "wrkspc_default"
_TURN = """
WITH agent AS (INSERT INTO agents (id, workspace_id, version) VALUES (%(agent)s, %(workspace)s, 1) RETURNING id),
environment AS (INSERT INTO environments (id, workspace_id, name, config)
  VALUES (%(environment)s, %(workspace)s, 'e', %(empty)s) RETURNING id),
session AS (INSERT INTO sessions (id, workspace_id, agent_id, agent_version, agent, environment_id, budget)
  SELECT %(session)s, %(workspace)s, agent.id, 1, %(empty)s, environment.id, %(budget)s FROM agent, environment
  RETURNING id)
INSERT INTO turns (id, workspace_id, session_id, model_token_hash, models)
  SELECT %(turn)s, %(workspace)s, session.id, %(hash)s, %(models)s FROM session
"""


@dataclass(frozen=True)
class Gateway:
    """A gateway that listens, and the token of a turn that runs."""

    url: str
    token: str
    http: httpx.AsyncClient
    database: Database
    session_id: str
    log: ModelLog

    @property
    def key(self) -> dict[str, str]:
        """The header that carries the token."""
        return {"x-api-key": self.token}

    async def end_turn(self) -> None:
        """End every turn, and with them their tokens."""
        async with self.database.transaction(ALL_WORKSPACES) as connection:
            await connection.execute("UPDATE turns SET status = 'ended'")

    async def booked(self) -> list[dict[str, Any]]:
        """Return the ledger, the oldest request first."""
        async with self.database.transaction(ALL_WORKSPACES) as connection:
            return await rows(connection, "SELECT * FROM model_requests ORDER BY started_at, id", {})

    async def set_budget(self, budget: dict[str, Any]) -> None:
        """Give the session another budget."""
        async with self.database.transaction(ALL_WORKSPACES) as connection:
            await connection.execute(
                "UPDATE sessions SET budget = %s WHERE id = %s", (Jsonb(budget), self.session_id)
            )

    async def session(self) -> dict[str, Any]:
        """Return the row of the session whose turn runs."""
        async with self.database.transaction(ALL_WORKSPACES) as connection:
            found = await one(connection, "SELECT * FROM sessions WHERE id = %(id)s", {"id": self.session_id})
        assert found is not None
        return found


SCRIPTED = ("scripted/x", "scripted/openai-demo", "scripted/responses-demo")
"""One of each format, so that none stands in for another."""


class OpenGateway(Protocol):
    """Opens a gateway to given providers, with a turn that runs."""

    def __call__(
        self,
        providers: dict[str, ModelProvider],
        *,
        models: Sequence[str] = ("m",),
        budget: dict[str, Any] | None = None,
        log_days: int = 7,
        log_bytes: int = 10_000_000,
        first_byte_seconds: float = 100,
    ) -> AbstractAsyncContextManager[Gateway]: ...


@pytest.fixture
async def open_gateway(database: Database) -> OpenGateway:
    """Open a gateway to given providers."""

    @asynccontextmanager
    async def opened(
        providers: dict[str, ModelProvider],
        *,
        models: Sequence[str] = ("m",),
        budget: dict[str, Any] | None = None,
        log_days: int = 7,
        log_bytes: int = 10_000_000,
        first_byte_seconds: float = 100,
    ) -> AsyncGenerator[Gateway]:
        session_id, token = await _running_turn(database, models, budget)
        log = ModelLog(database, days=log_days, queue_bytes=log_bytes)
        gate = TurnGate(database)
        async with create_client() as upstream, httpx.AsyncClient(trust_env=False) as http, log.writing():
            app = create_gateway(
                providers, gate=gate, client=upstream, log=log, first_byte_seconds=first_byte_seconds
            )
            async with listening(app) as url:
                yield Gateway(url, token, http, database, session_id, log)

    return opened


@pytest.fixture
async def gateway(open_gateway: OpenGateway) -> AsyncGenerator[Gateway]:
    """A gateway to the scripted model alone."""
    async with (
        listening(create_scripted()) as scripted_url,
        open_gateway(scripted_providers(scripted_url), models=SCRIPTED) as opened,
    ):
        yield opened


@pytest.fixture
async def harness() -> AsyncGenerator[BuiltinHarness]:
    """The builtin harness with waits that a test can bear."""
    made = BuiltinHarness(lambda: new_id("sevt"), patience=Patience(first_wait_seconds=0.01, stream_idle_seconds=0.5))
    yield made
    await made.close()


async def _running_turn(database: Database, models: Sequence[str], budget: dict[str, Any] | None) -> tuple[str, str]:
    token, session_id = secrets.token_urlsafe(), new_id("sesn")
    parameters = {
        "workspace": _WORKSPACE,
        "agent": new_id("agent"),
        "environment": new_id("env"),
        "session": session_id,
        "models": Jsonb(list(models)),
        "budget": Jsonb(budget) if budget else None,
        "turn": new_id("turn"),
        "hash": token_hash(token),
        "empty": Jsonb({}),
    }
    async with database.transaction(_WORKSPACE) as connection:
        await connection.execute(_TURN, parameters)
    return session_id, token
