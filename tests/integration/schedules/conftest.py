"""A deployment's agent, and what it is told."""

import pytest

from controlplane.ids import new_id
from controlplane.store.deployments import DeploymentContent
from controlplane.store.pool import Database

WORKSPACE = "wrkspc_default"


@pytest.fixture
async def content(database: Database) -> DeploymentContent:
    """What a deployment is made of."""
    agent = new_id("agent")
    async with database.transaction(WORKSPACE) as connection:
        await connection.execute(
            "INSERT INTO agents (id, workspace_id, version) VALUES (%s, %s, 1)", (agent, WORKSPACE)
        )
    hello = {"type": "user.message", "content": [{"type": "text", "text": "hello"}]}
    return DeploymentContent(
        name="d", agent_id=agent, agent_version=1, environment_id=new_id("env"), initial_events=[hello]
    )
