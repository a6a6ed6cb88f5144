"""Plays a scenario on a running control plane, hurts it at its moment, and judges what is left."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults import harm, verdict
from tests.faults.scenario import Moment, Scenario
from tests.faults.talk import READ_BACK, Caller, Talk, decide, steps_at, steps_of, talking
from tests.support import places
from tests.support.bait import Bait, baited
from tests.support.client import run, text
from tests.support.stack import Stack

_LOOK_SECONDS = 0.25
_SEARCHED_EVERY = 4
"""Of so many scenarios on the same stack one is followed by a search, which finds what the others left too."""
_MOMENT_SECONDS = 60
_RECOVERY_SECONDS = 90
"""For a scenario to come to its end, beside the time for which a part is stalled or its disk is full."""

SCALED = {
    "BULKHEAD_HEARTBEAT_TIMEOUT_SECONDS": "3",
    "BULKHEAD_WORKFLOW_TASK_TIMEOUT_SECONDS": "2",
    "BULKHEAD_HOST_PATIENCE_SECONDS": "5",
    "BULKHEAD_HARNESS_SILENCE_SECONDS": "4",
}
"""The time-outs with which a stall of a few seconds is as long, to them, as 40 s are to the real ones."""


_WITHOUT_PROGRAM: tuple[Moment, ...] = ("approval", "interrupting")
"""A session that waits, or was stopped, holds no program."""


@dataclass(frozen=True)
class Patience:
    """How long a part is stalled, and how long its disk is full."""

    stall_seconds: float = 40
    full_seconds: float = 20


QUICK = Patience(stall_seconds=6, full_seconds=3)


@asynccontextmanager
async def ground(folder: Path, *, scaled: bool) -> AsyncGenerator[Bait]:
    """Run a control plane with canaries in it, on disks that can be filled where we may mount them."""
    with ExitStack() as disks:
        with suppress(PermissionError):
            disks.enter_context(harm.small_disks(folder / "data"))
        environment = {"BULKHEAD_SANDBOX_IDLE_SECONDS": "120", **(SCALED if scaled else {})}
        async with baited(folder, environment=environment) as bait:
            yield bait
        left = [each for each in map(_described, harm.processes_of(bait.stack.data_dir)) if each]
        assert not left, f"these outlived the control plane: {left}"


def _described(process: Any) -> str:
    with suppress(Exception):
        return f"{process.pid} {process.cmdline()}"
    return ""


async def play(bait: Bait, scenario: Scenario, patience: Patience) -> float:
    """Play a scenario and return how many seconds it took; raises `AssertionError` that says how to see it again."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(_MOMENT_SECONDS + _RECOVERY_SECONDS + 2 * patience.stall_seconds):
            await _play(bait, scenario, patience)
    except (AssertionError, TimeoutError) as error:
        again = f"python -m tests.faults --seed {scenario.seed}"
        real = "" if patience == QUICK else " --real"
        why = str(error) or "it never came to its end"
        raise AssertionError(f"{scenario}\nsee it again with: {again}{real}\n{why}") from error
    return time.monotonic() - began


async def _play(bait: Bait, scenario: Scenario, patience: Patience) -> None:
    stack = bait.stack
    await stack.ready_again()
    caller = Caller(stack)
    may_decide = asyncio.Event()
    try:
        async with talking(stack, caller, scenario) as (talks, budget_id), asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(decide(caller, talks, once=may_decide))]
            if budget_id:
                background.append(tasks.create_task(_raise_when_spent(caller, budget_id, scenario, talks[1:])))
            others = [tasks.create_task(_say_all(talk, one_by_one=bool(budget_id))) for talk in talks[1:]]
            hurting = await _until_moment(stack, scenario, talks[0], patience, tasks)
            may_decide.set()
            await _say_rest(talks[0])
            await asyncio.gather(hurting, *others)
            await _until_quiet(talks)
            await _read_back(talks)
            await _until_quiet(talks)
            for task in background:
                task.cancel()
            await stack.ready_again()
            for talk in talks:
                await verdict.of_session(talk)
            await verdict.of_rest(stack, caller, talks)
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group
    finally:
        await caller.close()
    if scenario.seed % _SEARCHED_EVERY == 0:
        _search(bait)


def _search(bait: Bait) -> None:
    """Look for the canaries where a crash could leave them; tables and pages are searched when all is over."""
    places.search_processes(bait.seeker)
    places.search_folder(bait.seeker, "file", bait.stack.data_dir)
    places.search_file(bait.seeker, "log", bait.stack.output)
    for body in bait.stack.errors:
        bait.seeker.look("error page", body)
    bait.stack.errors.clear()
    bait.seeker.verdict()


async def _until_moment(
    stack: Stack, scenario: Scenario, talk: Talk, patience: Patience, tasks: asyncio.TaskGroup
) -> asyncio.Task[None]:
    """Bring the first conversation to its moment, and return the harm that has begun there."""
    first = talk.conversation.messages[0]

    def harm_now() -> asyncio.Task[None]:
        return tasks.create_task(_harm(stack, scenario, patience))

    await talk.say(first.key, *steps_at(scenario, first), padding_chars=first.padding_chars)
    watcher = talk.watcher
    match scenario.moment:
        case "accepted":
            pass
        case "streaming":
            await watcher.until(lambda w: any(each["type"] == "event_delta" for each in w.previews))
        case "dispatched":
            await _until_dispatched(talk)
        case "unconfirmed":
            await _until_dispatched(talk)
            # Nobody confirms the command's end before the harm is done.
            worker = stack.parts()["sandboxes"]
            os.kill(worker, signal.SIGSTOP)
            await asyncio.sleep(1.2)
            hurting = harm_now()
            await asyncio.sleep(0.2)
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT) if scenario.part != "sandboxes" else None
            if scenario.part == "sandboxes" and scenario.fault in {"cut", "full"}:
                os.kill(worker, signal.SIGCONT)
            return hurting
        case "approval":
            await watcher.until_idle()
            assert watcher.events[-1]["stop_reason"]["type"] == "requires_action", watcher.events[-1]
        case "between":
            await watcher.until_idle()
        case "steering":
            await _until_dispatched(talk)
            talk.stopped += 1
            steered = talk.conversation.messages[-1].key + "steer"
            await talk.say(steered, delivery="steer")
        case "interrupting":
            await _until_dispatched(talk)
            await talk.interrupt()
    return harm_now()


async def _until_dispatched(talk: Talk) -> None:
    await talk.watcher.until(lambda w: "agent.tool_use" in w.types, timeout_seconds=_MOMENT_SECONDS)
    await asyncio.sleep(0.5)


async def _harm(stack: Stack, scenario: Scenario, patience: Patience) -> None:
    match scenario.fault:
        case "kill":
            hurt = await harm.kill(stack, scenario.part)
            assert hurt or scenario.moment in _WITHOUT_PROGRAM, f"{scenario.part} has no process to kill"
        case "stall":
            hurt = await harm.stall(stack, scenario.part, patience.stall_seconds)
            assert hurt or scenario.moment in _WITHOUT_PROGRAM, f"{scenario.part} has no process to stop"
        case "cut":
            assert harm.cut(stack, scenario.part), f"{scenario.part} had no connection to cut"
        case "full":
            await harm.fill(stack, scenario.part, patience.full_seconds)
        case _:
            pass  # the scripted model does it by itself


async def _say_all(talk: Talk, *, one_by_one: bool) -> None:
    """Say everything; ``one_by_one``: wait for each answer, as a spent budget lets messages into a conversation."""
    for message in talk.conversation.messages:
        await talk.say(message.key, *steps_of(talk.conversation, message), padding_chars=message.padding_chars)
        if one_by_one:
            await talk.watcher.until(
                lambda w, said=f"answer {message.key}.": said in [text(each) for each in w.of("agent.message")],
                timeout_seconds=_RECOVERY_SECONDS,
            )


async def _say_rest(talk: Talk) -> None:
    for message in talk.conversation.messages[1:]:
        await talk.say(message.key, *steps_of(talk.conversation, message), padding_chars=message.padding_chars)


async def _read_back(talks: list[Talk]) -> None:
    for talk in talks:
        name = "bash" if talk.conversation.asks else "sandbox_execute"
        step = run(READ_BACK) if name != "bash" else {"tools": [{"name": name, "input": {"command": READ_BACK}}]}
        await talk.say(f"{talk.conversation.messages[0].key}read", step)


async def _until_quiet(talks: list[Talk]) -> None:
    """Wait until every session has answered all that it was told."""
    while set(stops := [await _stop_reason(talk) for talk in talks]) != {"end_turn"}:
        assert "retries_exhausted" not in stops, await _failures(talks)
        await asyncio.sleep(_LOOK_SECONDS)


async def _raise_when_spent(caller: Caller, budget_id: str, scenario: Scenario, sharing: list[Talk]) -> None:
    """Wait until nobody who shares a budget runs and somebody rests because of it, see that it held, and raise it."""
    while True:
        stops = {await _stop_reason(talk) for talk in sharing}
        if "budget_reached" in stops and stops <= {"budget_reached", "end_turn"}:
            await verdict.of_budget(caller, budget_id, scenario.budget_tokens or 0, sharing)
            await caller.post(f"/v1/budgets/{budget_id}", {"max_tokens": 100_000_000})
            return
        await asyncio.sleep(_LOOK_SECONDS)


async def _stop_reason(talk: Talk) -> str | None:
    """Return why a session rests, or None if it does not, or has something in its queue."""
    if (await talk.state())["status"] != "idle":
        return None
    waits = [each for each in await talk.events() if each["type"].startswith("user.") and not each["processed_at"]]
    found = await talk.state()
    return None if waits or found["status"] != "idle" else (found["stop_reason"] or {}).get("type")


async def _failures(talks: list[Talk]) -> str:
    return f"sessions failed: {[(await talk.state())['failure'] for talk in talks]}"
