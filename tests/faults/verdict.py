"""What must hold after a scenario, whatever happened in it; seen from outside."""

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from tests.faults.scenario import PARTS
from tests.faults.talk import Caller, Talk, effect_of
from tests.support.client import text
from tests.support.stack import Stack

_REST_SECONDS = 20
_INPUTS = ("user.message", "user.interrupt", "user.tool_confirmation")


async def of_session(talk: Talk) -> None:
    """Every message processed once, a transcript that a provider takes, no gap, and no effect twice."""
    listed = await talk.events()
    await talk.watcher.until(lambda w: len(w.events) >= len(listed))
    assert talk.watcher.seqs == list(range(1, len(listed) + 1)), f"a gap in the stream: {talk.watcher.seqs}"
    assert [each["id"] for each in talk.watcher.events] == [each["id"] for each in listed], "list and stream differ"
    waiting = [each["id"] for each in listed if each["type"] in _INPUTS and not each["processed_at"]]
    assert not waiting, f"accepted and not processed: {waiting}"
    messages = [each for each in listed if each["type"] == "user.message"]
    assert len(messages) == len(talk.sent), f"{len(talk.sent)} messages were accepted, {len(messages)} are recorded"
    _answers(talk, listed)
    _transcript(listed)
    _effects(listed, await talk.calls())


def _answers(talk: Talk, listed: list[dict[str, Any]]) -> None:
    said = Counter(text(each).strip() for each in listed if each["type"] == "agent.message")
    answers = {key: said[f"answer {key}."] for key in talk.sent}
    twice = [key for key, times in answers.items() if times > 1]
    missing = [key for key, times in answers.items() if times == 0]
    assert not twice, f"answered more than once: {twice}"
    assert len(missing) <= talk.stopped, f"never answered: {missing}"


def _transcript(listed: list[dict[str, Any]]) -> None:
    """Each tool use has one result before the model is asked again, and the model was asked one thing at a time."""
    unanswered: set[str] = set()
    asking: str | None = None
    for event in listed:
        match event["type"]:
            case "agent.tool_use":
                unanswered.add(event["id"])
            case "agent.tool_result":
                assert event["tool_use_id"] in unanswered, f"a result twice, or before its use: {event}"
                unanswered.discard(event["tool_use_id"])
            case "span.model_request_start":
                assert not unanswered, f"the model was asked while these had no result: {unanswered}"
                assert asking is None, f"the model was asked again before {asking} had ended"
                asking = event["id"]
            case "span.model_request_end":
                assert event["model_request_start_id"] == asking, f"the end of {asking} is {event}"
                asking = None
            case "session.error":
                refused = event["error"]["retry_status"]["type"] == "terminal"
                assert not refused, f"the provider refused the transcript: {event}"
            case _:
                pass
    assert not unanswered, f"tool uses without a result: {unanswered}"
    assert asking is None, f"a model request without an end: {asking}"


def _effects(listed: list[dict[str, Any]], calls: list[dict[str, Any]]) -> None:
    """The last call has read back what there is: of its own sandbox every confirmed effect, and none twice."""
    results = {each["tool_use_id"]: each for each in listed if each["type"] == "agent.tool_result"}
    last = max(calls, key=lambda call: call["dispatched_at"] or "")
    assert last["state"] == "confirmed", f"what there is could not be read: {results[last['id']]}"
    found = Counter(word for word in text(results[last["id"]]).split() if word.startswith("s"))
    for call in calls:
        effect = effect_of(call["input"])
        if effect is None:
            continue
        times = found.pop(effect, 0)
        assert times <= 1, f"{effect} happened {times} times: {call}"
        if call["state"] == "refused":
            assert times == 0, f"{effect} was refused and happened: {call}"
        elif not results[call["id"]]["is_error"] and call["sandbox_id"] == last["sandbox_id"]:
            assert times == 1, f"{effect} was confirmed and did not happen: {call}"
    assert not {each for each in found if "c" in each and "m" in each}, f"nobody asked for {found}"


async def of_budget(caller: Caller, budget_id: str, max_tokens: int, talks: list[Talk]) -> None:
    """Overshot by no more than one request of each session, and nothing reserved at rest."""
    budget = await caller.get(f"/v1/budgets/{budget_id}")
    ends = [each for talk in talks for each in await talk.events() if each["type"] == "span.model_request_end"]
    largest = max((sum((each["model_usage"] or {}).values()) for each in ends), default=0)
    assert budget["spent"]["reserved_tokens"] == 0, f"still reserved: {budget}"
    most = max_tokens + largest * len(talks)
    assert budget["spent"]["tokens"] <= most, f"more than {most} tokens were spent: {budget}"


async def of_rest(stack: Stack, caller: Caller, talks: list[Talk]) -> None:
    """Nothing runs any more for these sessions, and each part runs once."""
    for talk in talks:
        await _nothing_alive(caller, talk)
    running = Counter(part_of(process, stack.data_dir) for process in psutil.process_iter())
    running.pop(None, None)
    assert running == Counter((*PARTS, "memory")), f"of each part one process should run: {running}"


async def _nothing_alive(caller: Caller, talk: Talk) -> None:
    """The end of a stream is recorded a moment after it, later where the proxy had been stalled."""
    deadline = time.monotonic() + _REST_SECONDS
    while True:
        live = (await caller.get("/v1/live", session_id=talk.session_id))["data"]
        alive = [each for each in live if each["kind"] != "sandbox"]
        if not alive:
            return
        assert time.monotonic() < deadline, f"still alive: {alive}"
        await asyncio.sleep(0.2)


def part_of(process: psutil.Process, data_dir: Path) -> str | None:
    """Return which part of the control plane with this data directory a process is, if any."""
    try:
        line = process.cmdline()
        if "controlplane.embedded.part" in line and str(data_dir) in process.environ().values():
            return line[-1]
    except psutil.Error:
        return None
    said = " ".join(line)
    if f"{data_dir}/temporal/" in said:
        return "temporal"
    return "postgres" if f"{data_dir}/postgres/data" in said and "bin/postgres" in line[0] else None
