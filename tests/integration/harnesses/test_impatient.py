"""A tool that goes on for longer than the harness that asked for it waits: of all harnesses one has such a limit.

Codex and OpenCode wait for our tools for as long as it takes; `make soak` shows it of each, for six minutes.
"""

import asyncio

import pytest

from controlplane.ids import new_id
from harness_adapters.catalog import HarnessSettings
from harness_adapters.claude_agent_sdk import kind
from harness_adapters.contract import HarnessRestarted, ModelAnswered, ToolUse, TurnFinished
from harness_adapters.driven.confinement import Confinement
from harness_adapters.driven.harness import DrivenHarness
from harness_adapters.installation import installed
from tests.integration.harnesses.talk import Hands, Talk, of, script, text, uses
from tests.integration.models.conftest import Gateway
from tests.support.harnesses import MODELS, available

pytestmark = pytest.mark.slow


async def test_the_model_is_told_what_came_of_a_call_that_was_given_up(
    gateway: Gateway, harness_settings: HarnessSettings
):
    program = installed(available("claude-agent-sdk"), harness_settings.programs)
    assert program is not None
    confinement = Confinement(
        state_dir=harness_settings.state_dir.parent / "hasty",
        cache_dir=harness_settings.cache_dir,
        installation=harness_settings.installation,
    )
    harness = DrivenHarness(lambda: new_id("sevt"), kind(program, confinement, processes=1, tool_timeout_ms=1000))
    talk = Talk(gateway, MODELS["claude-agent-sdk"])
    talk.say(script({"tools": uses({"n": 1})}, {"text": "end: {{result}}"}))

    async def work(use: ToolUse) -> str:
        await asyncio.sleep(4)
        return f"did {use.input['n']}"

    hands = Hands(work)
    try:
        events = await asyncio.wait_for(talk.turn(harness, hands), 60)
    finally:
        await harness.close()
    assert text(events) == "end: did 1" and events[-1] == TurnFinished(reason="end_turn")
    assert [use.input for use in hands.called] == [{"n": 1}] and len(of(events, ModelAnswered)) == 2
    assert not of(events, HarnessRestarted), "giving up is no failure of the program"
