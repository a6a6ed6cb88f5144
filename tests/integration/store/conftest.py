from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from psycopg.types.json import Jsonb

from controlplane.embedded import master_key
from controlplane.frontdoors.leaving import Leaving
from controlplane.ids import new_id
from controlplane.store import events
from controlplane.store.events import Event, NewEvent
from controlplane.store.pool import Database
from controlplane.vault.keyring import Keyring, MasterKeySettings, open_keyring

WORKSPACE = "wrkspc_default"

Say = Callable[..., Awaitable[list[Event]]]


@pytest.fixture
async def session_id(database: Database) -> str:
    """A session whose agent has the two sandbox tools."""
    return await make_session(database)


async def make_session(database: Database) -> str:
    """Make one, and return its id."""
    found, agent, environment = new_id("sesn"), new_id("agent"), new_id("env")
    definition = {
        "type": "agent", "id": agent, "version": 1, "name": "a", "model": {"id": "scripted/test"}, "tools": [],
        "mcp_servers": [], "skills": [], "system": "Be brief.",
    }  # fmt: skip
    async with database.transaction(WORKSPACE) as connection:
        await connection.execute(
            "INSERT INTO agents (id, workspace_id, version) VALUES (%s, %s, 1)", (agent, WORKSPACE)
        )
        await connection.execute(
            "INSERT INTO environments (id, workspace_id, name, config) VALUES (%s, %s, 'e', %s)",
            (environment, WORKSPACE, Jsonb({"type": "cloud"})),
        )
        await connection.execute(
            "INSERT INTO sessions (id, workspace_id, agent_id, agent_version, agent, environment_id)"
            " VALUES (%s, %s, %s, 1, %s, %s)",
            (found, WORKSPACE, agent, Jsonb(definition), environment),
        )
    return found


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    """The master key."""
    master_key.provision(MasterKeySettings(), tmp_path)
    return open_keyring(MasterKeySettings(), tmp_path)


@pytest.fixture
def leaving(database: Database, keyring: Keyring) -> Leaving:
    """What leaves the default workspace."""
    return Leaving(database, keyring, WORKSPACE)


@pytest.fixture
def say(database: Database, session_id: str) -> Say:
    """Queue user messages in the session."""

    async def send(*texts: str) -> list[Event]:
        new = [
            NewEvent(type="user.message", payload={"content": [{"type": "text", "text": text}]}, queued=True)
            for text in texts
        ]
        async with database.transaction(WORKSPACE) as connection:
            return await events.append(connection, session_id, new)

    return send
