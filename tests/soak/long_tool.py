"""One command that runs for minutes in a session of every harness at once: none of them may give up on it."""

import asyncio
import time
from typing import Any

from harness_adapters.contract import HarnessName
from harness_adapters.installation import default_folder, installed_names
from tests.support.client import Client, run, script, text
from tests.support.harnesses import MODELS
from tests.support.stack import Stack

_MORE_SECONDS = 120
"""For the turn beside its command."""


async def long_tool(stack: Stack, minutes: float) -> dict[str, Any]:
    """Return, for each harness that is installed, how long its turn took and what it came to."""
    async with Client(stack) as client:
        names = installed_names(default_folder())
        turns = await asyncio.gather(*(_turn(client, name, minutes) for name in names))
    return {"minutes": minutes, **dict(zip(names, turns, strict=True))}


def faults_of(found: dict[str, Any]) -> list[str]:
    """Return what is not as it should be."""
    wanted = {"said": "it printed done", "calls": 1, "requests": 2, "errors": []}
    return [
        f"a command of {found['minutes']} minutes with {name}: {came}"
        for name, came in found.items()
        if isinstance(came, dict) and {key: came[key] for key in wanted} != wanted
    ]


async def _turn(client: Client, name: HarnessName, minutes: float) -> dict[str, Any]:
    session_id = await client.session(harness=name, model=MODELS[name], config={"provider": "namespace"})
    began = time.monotonic()
    async with client.watching(session_id) as watcher:
        step = run(f"sleep {minutes * 60:g}; echo done", timeout_seconds=minutes * 60 + _MORE_SECONDS)
        await client.say(session_id, script(step, {"text": "it printed {{result}}"}))
        await watcher.until_idle(timeout_seconds=minutes * 60 + _MORE_SECONDS)
        said = watcher.of("agent.message")
        return {
            "seconds": round(time.monotonic() - began, 1),
            "said": text(said[-1]).strip() if said else None,
            "calls": len(watcher.of("agent.tool_use")),
            "requests": len(watcher.of("span.model_request_start")),
            "errors": [each["error"]["message"] for each in watcher.of("session.error")],
        }
