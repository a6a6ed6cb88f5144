"""Records histories for `test_replay.py`: run `python -m tests.replay.record NAME` when the workflow changes."""

import asyncio
import json
import re
import sys
import tempfile
from pathlib import Path

from temporalio.client import Client as TemporalClient

from tests.support.client import Client, run, script
from tests.support.stack import Stack
from tests.support.watch import Watcher
from workflows.contracts import session_workflow_id

HISTORIES = Path(__file__).with_name("histories")


async def record(name: str) -> None:
    """Run a session of three turns, one of them interrupted, and keep its workflow's history."""
    with tempfile.TemporaryDirectory(prefix="bulkhead-replay-") as folder:
        stack = Stack(Path(folder) / "data")
        await asyncio.to_thread(stack.start)
        await asyncio.to_thread(stack.wait_ready)
        try:
            session_id = await _converse(stack)
            ports = json.loads((stack.data_dir / "temporal" / "ports.json").read_text())
            temporal = await TemporalClient.connect(f"127.0.0.1:{ports['grpc']}")
            history = await temporal.get_workflow_handle(session_workflow_id(session_id)).fetch_history()
        finally:
            await asyncio.to_thread(stack.end)
    HISTORIES.mkdir(exist_ok=True)
    anonymous = re.sub(r'"\d+@[^"]*"', '"worker"', history.to_json())
    (HISTORIES / f"{name}.json").write_text(anonymous + "\n")


async def _converse(stack: Stack) -> str:
    async with Client(stack) as client:
        session_id = await client.session()
        async with Watcher(stack.url, stack.api_key, session_id) as watcher:
            await client.say(session_id, script({"text": "one"}), script(run("sleep 60")))
            await watcher.until(lambda w: "agent.tool_use" in w.types)
            await client.send(session_id, {"type": "user.interrupt"})
            await watcher.until_idle(times=2)
            await client.say(session_id, script({"text": "three"}))
            await watcher.until_idle(times=3)
    return session_id


if __name__ == "__main__":
    asyncio.run(record(sys.argv[1]))
