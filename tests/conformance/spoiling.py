"""A deployment that needs one of everything, and what takes the things away from it."""

from typing import Any

import httpx

from .deploying import EVERY_MINUTE, Deployer, priced, spend


async def everything(deployer: Deployer, session: str) -> dict[str, Any]:
    """Make a deployment that needs one of everything, with a key of its own."""
    server = {"type": "url", "name": "docs", "url": "https://mcp.example.org/"}
    agent = await deployer.agent(mcp_servers=[server], tools=[{"type": "mcp_toolset", "mcp_server_name": "docs"}])
    vault = (await deployer.post("/v1/vaults", {"display_name": "v"}))["id"]
    budget = (await deployer.post("/v1/budgets", {"name": "b", "max_cost_usd": "1"}))["id"]
    file = (await deployer.http.post("/v1/files", files={"file": ("a.txt", b"x")})).json()["id"]
    store = (await deployer.post("/v1/memory_stores", {"name": "m"}))["id"]
    key = (await deployer.post("/v1/api_keys", {"name": "another"}))["key"]
    body = await deployer.body(
        agent=agent,
        vault_ids=[vault],
        budget_ids=[budget],
        resources=[{"type": "file", "file_id": file}, {"type": "memory_store", "memory_store_id": store}],
        session=session,
        schedule=EVERY_MINUTE,
    )
    async with httpx.AsyncClient(base_url=deployer.api.url, headers={"x-api-key": key}) as own:
        return (await own.post("/v1/deployments", json=body)).json()


async def archived_agent(deployer: Deployer, made: dict[str, Any]) -> None:
    await deployer.post(f"/v1/agents/{made['agent']['id']}/archive")


async def archived_environment(deployer: Deployer, made: dict[str, Any]) -> None:
    await deployer.post(f"/v1/environments/{made['environment_id']}/archive")


async def deleted_environment(deployer: Deployer, made: dict[str, Any]) -> None:
    assert (await deployer.http.delete(f"/v1/environments/{made['environment_id']}")).status_code == 200


async def archived_vault(deployer: Deployer, made: dict[str, Any]) -> None:
    await deployer.post(f"/v1/vaults/{made['vault_ids'][0]}/archive")


async def deleted_vault(deployer: Deployer, made: dict[str, Any]) -> None:
    assert (await deployer.http.delete(f"/v1/vaults/{made['vault_ids'][0]}")).status_code == 200


async def deleted_file(deployer: Deployer, made: dict[str, Any]) -> None:
    assert (await deployer.http.delete(f"/v1/files/{made['resources'][0]['file_id']}")).status_code == 200


async def archived_store(deployer: Deployer, made: dict[str, Any]) -> None:
    await deployer.post(f"/v1/memory_stores/{made['resources'][1]['memory_store_id']}/archive")


async def deleted_store(deployer: Deployer, made: dict[str, Any]) -> None:
    path = f"/v1/memory_stores/{made['resources'][1]['memory_store_id']}"
    assert (await deployer.http.delete(path)).status_code == 200


async def closed_network(deployer: Deployer, made: dict[str, Any]) -> None:
    network = {"type": "limited", "allowed_hosts": ["example.com"], "allow_mcp_servers": False}
    await deployer.post(
        f"/v1/environments/{made['environment_id']}", {"config": {"type": "cloud", "networking": network}}
    )


async def archived_budget(deployer: Deployer, made: dict[str, Any]) -> None:
    await deployer.post(f"/v1/budgets/{made['budget_ids'][0]}/archive")


async def spent_budget(deployer: Deployer, made: dict[str, Any]) -> None:
    other = await deployer.made(agent=await priced(deployer, "spends"), budget_ids=made["budget_ids"])
    run = await deployer.post(f"/v1/deployments/{other['id']}/run")
    turn = await deployer.turn(run["session_id"])
    await spend(deployer, turn, 2000)
    await deployer.turns.end(turn, "end_turn")


async def revoked_key(deployer: Deployer, made: dict[str, Any]) -> None:
    await deployer.post(f"/v1/api_keys/{made['created_by']}/revoke")
