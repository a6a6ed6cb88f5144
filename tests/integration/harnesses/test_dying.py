"""A harness's program that dies, hangs or is stopped costs a retry from the last recorded step, and nothing else."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import replace

import psutil
import pytest

from controlplane.ids import new_id
from examples.fifth_harness import adapter
from harness_adapters.catalog import HarnessSettings
from harness_adapters.contract import (
    Harness,
    HarnessEvent,
    HarnessRestarted,
    ModelAnswered,
    ModelRequestStarted,
    TextDelta,
    ToolUse,
    TurnFinished,
)
from harness_adapters.driven.confinement import PYTHON_AT
from tests.integration.harnesses.talk import Hands, Talk, of, script, text, uses
from tests.support.harnesses import with_the_example

pytestmark = pytest.mark.slow

PROGRAMS = {
    "codex": "codex",
    "claude-agent-sdk": "claude",
    "opencode": "opencode",
    adapter.NAME: f"{PYTHON_AT}/bin/python3",
}
END = TurnFinished(reason="end_turn")


@pytest.fixture
def name(name: str) -> str:
    """A harness that has a program of its own."""
    if name == "builtin":
        pytest.skip("the builtin harness has no process of its own")
    return name


@pytest.fixture
async def impatient(harness_settings: HarnessSettings) -> AsyncGenerator[Mapping[str, Harness]]:
    """Every harness, with a watchdog that barks soon."""
    settings = replace(
        harness_settings, state_dir=harness_settings.state_dir.parent / "impatient", silence_seconds=2.0
    )
    found = with_the_example(lambda: new_id("sevt"), settings)
    yield found
    for harness in found.values():
        await harness.close()


def programs(name: str) -> list[psutil.Process]:
    """Return the harness's processes below this one."""
    below = psutil.Process().children(recursive=True)
    return [process for process in below if process.is_running() and _program(process) == PROGRAMS[name]]


def _program(process: psutil.Process) -> str | None:
    """Return what runs in a process, also where the kernel knows it by its loader, as our Python and bubblewrap."""
    try:
        words = process.cmdline()
        return words[3] if words[1:2] == ["--library-path"] else process.name()
    except psutil.NoSuchProcess:
        return None


def kill(name: str, number: signal.Signals = signal.SIGKILL, *, but: Collection[int] = ()) -> int:
    """Send a signal to all of the harness's processes; return how many there were."""
    found = [process for process in programs(name) if process.pid not in but]
    for process in found:
        os.kill(process.pid, number)
    return len(found)


@pytest.mark.parametrize("moment", ["request", "streaming", "tool", "result"])
async def test_a_killed_program_costs_no_step(talk: Talk, harness: Harness, name: str, moment: str):
    killed = 0

    def die(at: str) -> None:
        nonlocal killed
        if at == moment and not killed:
            killed = kill(name)

    async def work(use: ToolUse) -> str:
        die("tool")
        await asyncio.sleep(0.3)
        die("result")
        return f"did {use.input['n']}"

    def watch(event: HarnessEvent) -> bool:
        die("request" if isinstance(event, ModelRequestStarted) else "")
        die("streaming" if isinstance(event, TextDelta) else "")
        return False

    hands = Hands(work)
    talk.say(script({"text": "first " * 20, "chunk_ms": 5, "tools": uses({"n": 1})}, {"text": "end: {{result}}"}))
    events = await asyncio.wait_for(talk.turn(harness, hands, until=watch), 60)
    assert killed and len(of(events, HarnessRestarted)) <= 1
    assert [use.input for use in hands.called] == [{"n": 1}]
    assert len(of(events, ModelAnswered)) == 2, "an answer that is recorded is not asked for again"
    assert text(events) == "end: did 1" and events[-1] == END


async def test_a_program_that_was_killed_between_turns_is_started_again(talk: Talk, harness: Harness, name: str):
    talk.say(script({"text": "one"}))
    await talk.turn(harness)
    assert kill(name)
    talk.say(script({"text": "two"}))
    events = await asyncio.wait_for(talk.turn(harness), 60)
    assert text(events) == "two" and events[-1] == END


async def test_a_program_that_hangs_is_ended_and_the_turn_goes_on(
    talk: Talk, impatient: Mapping[str, Harness], name: str
):
    others = {process.pid for process in programs(name)}

    def hang(use: ToolUse) -> str:
        assert kill(name, signal.SIGSTOP, but=others)
        return f"did {use.input['n']}"

    hands = Hands(hang)
    talk.say(script({"tools": uses({"n": 1})}, {"text": "end: {{result}}"}))
    events = await asyncio.wait_for(talk.turn(impatient[name], hands), 60)
    assert len(of(events, HarnessRestarted)) == 1
    assert [use.input for use in hands.called] == [{"n": 1}]
    assert text(events) == "end: did 1" and events[-1] == END
    async with asyncio.timeout(10):
        while any(process.status() == psutil.STATUS_STOPPED for process in programs(name)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.thorough
async def test_a_program_that_hangs_once_it_has_its_answer_is_not_asked_again(
    talk: Talk, impatient: Mapping[str, Harness], name: str
):
    others = {process.pid for process in programs(name)}

    def watch(event: HarnessEvent) -> bool:
        if isinstance(event, ModelAnswered):
            assert kill(name, signal.SIGSTOP, but=others)
        return False

    talk.say(script({"text": "one"}))
    assert text(await talk.turn(impatient[name], until=watch)) == "one"
    talk.say(script({"text": "two"}))
    events = await asyncio.wait_for(talk.turn(impatient[name]), 100)
    assert text(events) == "two" and events[-1] == END


@pytest.mark.thorough
async def test_a_program_that_always_dies_ends_the_turn(talk: Talk, harness: Harness, name: str):
    def watch(event: HarnessEvent) -> bool:
        if isinstance(event, HarnessRestarted | ModelRequestStarted):
            kill(name)
        return False

    talk.say(script({"fail": {"after_chunks": 0, "hang_seconds": 1, "times": 1000}, "text": "x"}))
    events = await asyncio.wait_for(talk.turn(harness, until=watch), 90)
    assert isinstance(events[-1], TurnFinished) and events[-1].reason == "failed"
    assert all(event.message.isprintable() for event in of(events, HarnessRestarted))
    talk.say(script({"text": "well again"}))
    assert text(await talk.turn(harness)) == "well again"


async def test_nothing_is_left_of_a_harness_that_is_closed(
    talk: Talk, impatient: Mapping[str, Harness], name: str, harness_settings: HarnessSettings
):
    before = {process.pid for process in programs(name)}
    talk.say(script({"text": "hello"}))
    await talk.turn(impatient[name])
    assert {process.pid for process in programs(name)} - before
    await impatient[name].close()
    assert not {process.pid for process in programs(name)} - before
    folder = harness_settings.state_dir.parent / "impatient" / name
    assert not folder.exists() or not list(folder.iterdir())
