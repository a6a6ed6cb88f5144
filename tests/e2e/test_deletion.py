"""A session that is deleted is gone: its content is in no table, no workflow, no sandbox and no log."""

import asyncio
import uuid
from typing import Any

import httpx

from tests.support.canary import Canary, Seeker
from tests.support.client import Client, run, script
from tests.support.places import (
    environment_of,
    sandbox_supervisors,
    search_file,
    search_postgres,
    search_sandboxes,
    search_temporal,
)


async def seen(client: Client, canary: Canary) -> set[str]:
    """Look for a text in everything that the control plane keeps, and return where it was found."""
    seeker, stack = Seeker(canary), client.stack
    environment = environment_of(stack.parts()["api"])
    search_file(seeker, f"log {stack.output.name}", stack.output)
    search_sandboxes(seeker, sandbox_supervisors(stack.data_dir))
    await search_postgres(seeker, environment["BULKHEAD_DATABASE_URL"])
    await search_temporal(seeker, environment["BULKHEAD_TEMPORAL_ADDRESS"])
    return {str(each) for each in seeker.sightings}


async def keyed(client: Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """POST with an idempotency key, so that the answer is kept."""
    headers = {"x-api-key": client.stack.api_key, "Idempotency-Key": str(uuid.uuid4())}
    async with httpx.AsyncClient(base_url=client.stack.url, headers=headers, timeout=20) as http:
        answer = await http.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.json()


async def test_nothing_that_was_said_or_done_outlives_a_deleted_session(client: Client) -> None:
    canary = Canary("a deleted session", special="-")
    asking = [{"type": "agent_toolset_20260401", "default_config": {"permission_policy": {"type": "always_ask"}}}]
    session_id = await client.session(title=canary.value, tools=asking)
    told = script({"thinking": canary.value, **run(f"echo {canary.value} > kept; cat kept")}, {"text": canary.value})
    said = {"type": "user.message", "content": [{"type": "text", "text": f"{canary.value}\n{told}"}]}
    async with client.watching(session_id) as watcher:
        await keyed(client, f"/v1/sessions/{session_id}/events", {"events": [said]})
        await watcher.until_idle()
        call = watcher.events[-1]["stop_reason"]["event_ids"][0]
        await keyed(client, f"/v1/approvals/{call}", {"result": "allow", "remember": "session"})
        await watcher.until_idle(times=2)
        assert watcher.of("agent.tool_result")[0]["content"][0]["text"].strip() == canary.value
    await keyed(client, f"/v1/sessions/{session_id}", {"title": f"{canary.value} again"})
    await client.post("/v1/live/stop", {"session_id": session_id, "wait_seconds": 10})
    found = " ".join(await seen(client, canary))
    for place in ("events", "tool_calls", "sessions", "idempotency_keys", "rules", "model_exchanges"):
        assert f".{place}." in found, f"this test would not notice what is left in {place}"
    await client.delete(f"/v1/sessions/{session_id}")
    async with asyncio.timeout(30):
        while left := await seen(client, canary):
            assert all("sandbox" in place for place in left), left
            await asyncio.sleep(0.5)
