from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from psycopg.types.json import Jsonb
from pydantic import SecretStr

from controlplane.ids import new_id
from controlplane.store import credentials, vaults
from controlplane.store.credentials import CredentialContent, CredentialRecord
from controlplane.store.decisions import PostgresAudit
from controlplane.store.egress import PostgresPolicySource, issue_stubs
from controlplane.store.line import Line
from controlplane.store.pool import Database
from controlplane.store.vaults import VaultContent
from controlplane.vault.keyring import Keyring, new_master_key
from sandbox.egress.contract import AuditEntry, Binding
from tests.support.line import running

WORKSPACE = "wrkspc_default"
SECRET = "the-secret"
LIMITED = {
    "type": "limited",
    "allowed_hosts": ["API.Example.com"],
    "allow_mcp_servers": False,
    "allow_package_managers": False,
}

Add = Callable[..., Awaitable[CredentialRecord]]


@pytest.fixture
def keyring() -> Keyring:
    """One fresh master key."""
    return Keyring(text=SecretStr(new_master_key()))


@dataclass(frozen=True)
class World:
    """A session in a limited environment, with two vaults and a sandbox."""

    environment: str
    session: str
    sandbox: str
    first_vault: str
    second_vault: str


@pytest.fixture
async def world(database: Database, keyring: Keyring) -> World:
    """A session with an empty pair of vaults, and its sandbox, ready."""
    made = World(new_id("env"), new_id("sesn"), new_id("sbx"), "", "")
    agent = new_id("agent")
    definition = {"id": agent, "mcp_servers": [{"type": "url", "name": "m", "url": "https://MCP.example.com/x"}]}
    async with database.transaction(WORKSPACE) as connection:
        content = VaultContent(display_name="v", metadata={})
        ids = [(await vaults.create(connection, WORKSPACE, content=content, keyring=keyring)).id for _ in range(2)]
        await connection.execute(
            "INSERT INTO agents (id, workspace_id, version) VALUES (%s, %s, 1)", (agent, WORKSPACE)
        )
        await connection.execute(
            "INSERT INTO environments (id, workspace_id, name, config) VALUES (%s, %s, 'e', %s)",
            (made.environment, WORKSPACE, Jsonb({"type": "cloud", "networking": LIMITED})),
        )
        await connection.execute(
            "INSERT INTO sessions (id, workspace_id, agent_id, agent_version, agent, environment_id, vault_ids)"
            " VALUES (%s, %s, %s, 1, %s, %s, %s)",
            (made.session, WORKSPACE, agent, Jsonb(definition), made.environment, Jsonb(ids)),
        )
        await connection.execute(
            "INSERT INTO sandboxes (id, workspace_id, session_id, environment_id, provider, host, generation, status,"
            " expires_at) VALUES (%s, %s, %s, %s, 'namespace', 'h', 1, 'ready', now() + interval '1 hour')",
            (made.sandbox, WORKSPACE, made.session, made.environment),
        )
    return World(made.environment, made.session, made.sandbox, *ids)


@pytest.fixture
def add(database: Database, keyring: Keyring) -> Add:
    """Store a credential."""

    async def store(vault_id: str, name: str = "TOKEN", secret: str = SECRET, **binding: object) -> CredentialRecord:
        content = CredentialContent(
            display_name=None, metadata={}, binding=Binding.model_validate({"hosts": ["api.example.com"], **binding})
        )
        async with database.transaction(WORKSPACE) as connection:
            return await credentials.create(
                connection, vault_id, name=name, content=content, secret=SecretStr(secret), keyring=keyring
            )

    return store


async def stubs(database: Database, sandbox_id: str) -> dict[str, str]:
    """Issue a sandbox's stubs."""
    async with database.transaction(WORKSPACE) as connection:
        return await issue_stubs(connection, sandbox_id)


@dataclass(frozen=True)
class Proxy:
    """What one egress proxy process holds."""

    source: PostgresPolicySource
    audit: PostgresAudit
    line: Line


@asynccontextmanager
async def proxy_process(database: Database, keyring: Keyring) -> AsyncGenerator[Proxy]:
    """Run what one egress proxy process has."""
    line = Line(database.url)
    source = PostgresPolicySource(database=database, line=line, keyring=keyring)
    async with running(line):
        yield Proxy(source, PostgresAudit(line), line)


@pytest.fixture
async def proxy(database: Database, keyring: Keyring) -> AsyncGenerator[Proxy]:
    """One egress proxy process."""
    async with proxy_process(database, keyring) as opened:
        yield opened


def entry(world: World, **fields: object) -> AuditEntry:
    """A decision about a request of the sandbox."""
    return AuditEntry.model_validate(
        {
            "sandbox_id": world.sandbox,
            "session_id": world.session,
            "workspace_id": WORKSPACE,
            "exchange_id": "x1",
            "method": "GET",
            "host": "api.example.com",
            "port": 443,
            "path": "/v1",
            "verdict": "allowed",
            "reason": "allowed",
            "message": "",
            **fields,
        }
    )
