"""Sessions of every harness on the whole control plane: real programs, real sandboxes, real kills."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import psutil
import pytest

from harness_adapters.catalog import NAMES
from harness_adapters.contract import HarnessName
from harness_adapters.installation import default_folder, installed_names
from tests.support.client import Client, run, script, text
from tests.support.harnesses import MODELS, available
from tests.support.watch import Watcher

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(params=NAMES)
def harness(request: pytest.FixtureRequest) -> HarnessName:
    """A harness's name."""
    return available(request.param)


async def _session(client: Client, harness: HarnessName, **more: object) -> str:
    return await client.session(harness=harness, model=MODELS[harness], **more)  # type: ignore[arg-type]


async def test_an_agent_works_in_its_sandbox(client: Client, harness: HarnessName):
    session_id = await _session(client, harness)
    async with client.watching(session_id) as watcher:
        steps = [run("echo one > /workspace/f"), run("cat /workspace/f"), {"text": "it says {{result}}"}]
        await client.say(session_id, script(*steps))
        await watcher.until_idle()
        assert text(watcher.of("agent.message")[-1]) == "it says one"
        assert len(watcher.of("agent.tool_result")) == 2
        ends = watcher.of("span.model_request_end")
        assert len(ends) == 3 and all(end["model_usage"]["output_tokens"] > 0 for end in ends)
        assert watcher.events[-1]["stop_reason"] == {"type": "end_turn"}
    session = await client.get(f"/v1/sessions/{session_id}")
    assert session["agent"]["harness"] == harness
    assert session["usage"]["output_tokens"] == sum(end["model_usage"]["output_tokens"] for end in ends)


def _streams(watcher: Watcher) -> int:
    return len({frame["event_id"] for frame in watcher.previews if frame["type"] == "event_delta"})


_SOUND_AFTER_SECONDS = 11.0

MOMENTS: Mapping[str, Callable[[Watcher], bool]] = {
    "accepted": lambda w: "user.message" in w.types,
    "asked": lambda w: "span.model_request_start" in w.types,
    "streaming": lambda w: _streams(w) == 1,
    "dispatched": lambda w: "agent.tool_use" in w.types,
    "confirmed": lambda w: "agent.tool_result" in w.types,
    "ending": lambda w: _streams(w) == 2,
}
"""Six points of a turn, by what a client has seen of it."""


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        pytest.param(name, moment, marks=[] if other % len(NAMES) == one else [pytest.mark.thorough])
        for one, name in enumerate(NAMES)
        for other, moment in enumerate(MOMENTS)
    ],
)
async def test_a_kill_loses_nothing_and_runs_nothing_twice(client: Client, name: HarnessName, moment: str):
    harness: HarnessName = available(name)
    # Every harness at every moment, every victim at two moments of each: all together take a quarter of an hour.
    victims = ["brain"] if harness == "builtin" else ["brain", "program", "both"]
    part = victims[(list(MOMENTS).index(moment) + NAMES.index(harness)) % len(victims)]
    session_id = await _session(client, harness)
    pace = {"chunk_ms": 20, "chunk_chars": 4}
    command = "echo ran >> /workspace/ran; sleep 0.5; wc -l < /workspace/ran"
    steps = ({"text": "look at how often", **run(command), **pace}, {"text": "it ran {{result}} times", **pace})
    brain = psutil.Process(client.stack.parts()["brain"])
    # One that dies young is started again later and later.
    await asyncio.sleep(max(0.0, brain.create_time() + _SOUND_AFTER_SECONDS - time.time()))
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(*steps))
        await watcher.until(MOMENTS[moment])
        programs = brain.children(recursive=True)
        for process in [*(programs if part != "brain" else []), *([brain] if part != "program" else [])]:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        await watcher.until_idle(timeout_seconds=90)
        assert text(watcher.of("agent.message")[-1]) == "it ran 1 times"
        assert len(watcher.of("agent.tool_result")) == 1
        assert watcher.events[-1]["stop_reason"] == {"type": "end_turn"}


@pytest.mark.parametrize("during", ["streaming", "tool"])
async def test_an_interrupt_ends_the_turn(client: Client, harness: HarnessName, during: str):
    session_id = await _session(client, harness)
    steps = [run("sleep 300")] if during == "tool" else [{"text": "word " * 400, "chunk_ms": 50}]
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(*steps, {"text": "never"}))
        if during == "tool":
            await watcher.until(lambda w: "agent.tool_use" in w.types)
        else:
            await watcher.until(lambda w: any(f["type"] == "event_delta" for f in w.previews))
        await client.send(session_id, {"type": "user.interrupt"})
        await watcher.until_idle()
        await client.say(session_id, script({"text": "and on"}))
        await watcher.until_idle(times=2)
        assert text(watcher.of("agent.message")[-1]) == "and on"


async def test_an_approval_parks_the_turn_and_holds_no_process(client: Client, harness: HarnessName):
    policy = {"enabled": True, "permission_policy": {"type": "always_ask"}}
    tools = [{"type": "agent_toolset_20260401", "default_config": policy}]
    session_id = await _session(client, harness, tools=tools)
    await client.post(f"/v1/sessions/{session_id}", {"harness_mode": "isolated"})
    brain = psutil.Process(client.stack.parts()["brain"])
    before = {process.pid for process in brain.children(recursive=True)}
    async with client.watching(session_id) as watcher:
        ask = {"tools": [{"name": "bash", "input": {"command": "echo yes"}}]}
        await client.say(session_id, script(ask, {"text": "it said {{result}}"}))
        await watcher.until_idle()
        assert watcher.events[-1]["stop_reason"]["type"] == "requires_action"
        async with asyncio.timeout(10):
            while {process.pid for process in brain.children(recursive=True)} - before:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        use = watcher.of("agent.tool_use")[-1]
        decision = {"type": "user.tool_confirmation", "tool_use_id": use["id"], "result": "allow"}
        await client.send(session_id, decision)
        await watcher.until_idle(times=2)
        assert text(watcher.of("agent.message")[-1]) == "it said yes"


async def test_a_live_session_moves_between_two_turns(client: Client):
    names = [available(name) for name in installed_names(default_folder())]
    session_id = await _session(client, "builtin")
    async with client.watching(session_id) as watcher:
        for turn, name in enumerate([*names, names[0]], start=1):
            moved = await client.post(f"/v1/sessions/{session_id}", {"harness": name, "model": MODELS[name]})
            assert moved["agent"]["harness"] == name
            await client.say(
                session_id, script(run(f"echo {name} >> /workspace/w; cat /workspace/w"), {"text": "{{result}}"})
            )
            await watcher.until_idle(times=turn)
            assert text(watcher.of("agent.message")[-1]).split()[-1] == name
        assert text(watcher.of("agent.message")[-1]).split() == [*names, names[0]]
        updates = watcher.of("session.updated")
        assert [each["agent"]["harness"] for each in updates] == [*names[1:], names[0]]


async def test_a_harness_that_is_not_known_is_refused_with_what_to_do(client: Client):
    answer = await client.refused("/v1/agents", {"name": "a", "model": "scripted/x", "harness": "hermes"})
    assert answer.json()["error"]["field"] == "harness" and "codex" in answer.json()["error"]["message"]
    session_id = await _session(client, "builtin")
    answer = await client.refused(f"/v1/sessions/{session_id}", {"harness": "hermes"})
    assert answer.json()["error"]["code"] == "unknown_harness"


async def test_a_program_that_does_not_listen_holds_no_interrupt_up(client: Client, harness: HarnessName):
    session_id = await _session(client, harness)
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(run("sleep 300"), {"text": "never"}))
        await watcher.until(lambda w: "agent.tool_use" in w.types)
        programs = psutil.Process(client.stack.parts()["brain"]).children(recursive=True)
        for process in programs:
            process.suspend()
        await client.send(session_id, {"type": "user.interrupt"})
        await watcher.until_idle()
    for process in programs:
        with suppress(psutil.NoSuchProcess):
            process.resume()
