"""Records histories for `test_replay.py`: run `python -m tests.replay.record NAME` when the workflow changes.

With `--deployment` it is a deployment's firing that is recorded. With `--continued` the conversation is had on a
server with short histories, and each run of the workflow is kept: all but the last end by continuing as new.
"""

import argparse
import asyncio
import re
import tempfile
from pathlib import Path

from temporalio.client import Client as TemporalClient
from temporalio.client import WorkflowHistory

from tests.support.client import Client, run, script
from tests.support.stack import Stack
from tests.support.temporal import short_histories
from tests.support.watch import Watcher
from workflows.contracts import schedule_id, session_workflow_id

HISTORIES = Path(__file__).with_name("histories")
_SHORT_EVENTS = 40
"""Above what the interrupted turn needs, below three turns."""


async def record(name: str, *, continued: bool) -> None:
    """Have a conversation, one of its turns interrupted, and keep the history of its workflow."""
    with tempfile.TemporaryDirectory(prefix="bulkhead-replay-") as made:
        folder = Path(made)
        if not continued:
            found = await _histories(Stack(folder / "data"))
        else:
            async with short_histories(folder, events=_SHORT_EVENTS) as address:
                found = await _histories(Stack(folder / "data", environment={"BULKHEAD_TEMPORAL_ADDRESS": address}))
            assert len(found) > 1, "it never continued as new"
    HISTORIES.mkdir(exist_ok=True)
    for number, history in enumerate(found, 1):
        anonymous = re.sub(r'"\d+@[^"]*"', '"worker"', history.to_json())
        (HISTORIES / (f"{name}-{number}.json" if continued else f"{name}.json")).write_text(anonymous + "\n")


async def record_firing(name: str) -> None:
    """Let a deployment fire once, and keep the history of that firing's workflow."""
    with tempfile.TemporaryDirectory(prefix="bulkhead-replay-") as made:
        stack = Stack(Path(made) / "data")
        await asyncio.to_thread(stack.start)
        try:
            await asyncio.to_thread(stack.wait_ready)
            deployment_id = await _fired(stack)
            temporal = await TemporalClient.connect(_temporal_of(stack))
            listed = temporal.list_workflows(f'TemporalScheduledById = "{schedule_id(deployment_id)}"')
            [found] = [each async for each in listed]
            history = await temporal.get_workflow_handle(found.id).fetch_history()
        finally:
            await asyncio.to_thread(stack.end)
    (HISTORIES / "deployments").mkdir(exist_ok=True)
    anonymous = re.sub(r'"\d+@[^"]*"', '"worker"', WorkflowHistory(found.id, history.events).to_json())
    (HISTORIES / "deployments" / f"{name}.json").write_text(anonymous + "\n")


async def _fired(stack: Stack) -> str:
    async with Client(stack) as client:
        agent = await client.post("/v1/agents", {"name": "a", "model": "scripted/test"})
        environment = await client.post("/v1/environments", {"name": "e"})
        schedule = {"type": "cron", "interval": 2, "more_than_once_a_minute": True, "max_runs": 1}
        hello = {"type": "user.message", "content": [{"type": "text", "text": "hello"}]}
        body = {"name": "d", "agent": agent["id"], "environment_id": environment["id"], "initial_events": [hello]}
        made = await client.post("/v1/deployments", {**body, "schedule": schedule})
        while not (await client.get("/v1/deployment_runs"))["data"]:  # noqa: ASYNC110 - a recording, not a test
            await asyncio.sleep(0.5)
        await asyncio.sleep(5)  # the workflow ends, and is listed, after its run is seen
    return made["id"]


async def _histories(stack: Stack) -> list[WorkflowHistory]:
    """Return the history of each run of the session's workflow, the oldest first."""
    await asyncio.to_thread(stack.start)
    try:
        await asyncio.to_thread(stack.wait_ready)
        workflow_id = session_workflow_id(await _converse(stack))
        temporal = await TemporalClient.connect(_temporal_of(stack))
        runs = [each async for each in temporal.list_workflows(f'WorkflowId = "{workflow_id}"')]
        runs.sort(key=lambda each: each.start_time)
        handles = [temporal.get_workflow_handle(workflow_id, run_id=each.run_id) for each in runs]
        return [await handle.fetch_history() for handle in handles]
    finally:
        await asyncio.to_thread(stack.end)


def _temporal_of(stack: Stack) -> str:
    environment = Path(f"/proc/{stack.parts()['brain']}/environ").read_bytes().decode().split("\0")
    return next(each for each in environment if each.startswith("BULKHEAD_TEMPORAL_ADDRESS=")).partition("=")[2]


async def _converse(stack: Stack) -> str:
    async with Client(stack) as client:
        session_id = await client.session()
        async with Watcher(stack.url, stack.api_key, session_id) as watcher:
            await client.say(session_id, script({"text": "one"}), script(run("sleep 60")))
            await watcher.until(lambda w: "agent.tool_use" in w.types)
            await client.send(session_id, {"type": "user.interrupt"})
            await watcher.until_idle(times=2)
            for number in (3, 4, 5):
                await client.say(session_id, script({"text": f"{number}"}))
                await watcher.until_idle(times=number)
            await asyncio.sleep(1)  # the workflow comes to rest after the turn's end is seen
    return session_id


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.replay.record")
    parser.add_argument("name")
    parser.add_argument("--continued", action="store_true")
    parser.add_argument("--deployment", action="store_true")
    options = parser.parse_args()
    if options.deployment:
        asyncio.run(record_firing(options.name))
    else:
        asyncio.run(record(options.name, continued=options.continued))
