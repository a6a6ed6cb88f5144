"""kill -9 of every process at every moment of a turn; afterwards the session is as if nothing had happened.

What may differ: a model request that was lost is recorded as lost and asked again, and a command whose sandbox is
gone says that its outcome is unknown.
"""

import asyncio
import json
import os
import signal
import uuid
from typing import Any

import httpx
import pytest

from tests.support.stack import Stack
from tests.support.watch import Watcher

pytestmark = pytest.mark.slow

PARTS = ["api", "brain", "sandboxes", "temporal", "postgres"]


def killed(moment: int) -> pytest.MarkDecorator:
    """Try every part at one of the five moments; one of them in CI, which has the seeds of `test_matrix.py` too."""
    often = {PARTS[moment]}
    return pytest.mark.parametrize(
        "part", [pytest.param(part, marks=[] if part in often else [pytest.mark.thorough]) for part in PARTS]
    )


SLOW_TEXT = "One word after the other, slowly enough that something can die in the middle of them. " * 3


def script(*steps: dict[str, Any]) -> list[dict[str, str]]:
    return [{"type": "text", "text": f"```script\n{json.dumps(steps)}\n```"}]


def effect(line: str, *, then: str = "true") -> dict[str, Any]:
    return {
        "tools": [{"name": "sandbox_execute", "input": {"command": f"echo {line} >> /workspace/effects; {then}"}}]
    }


READ_EFFECTS = {"tools": [{"name": "sandbox_execute", "input": {"command": "cat /workspace/effects"}}]}


class Case:
    """One session on the running stack, watched by a client that reconnects."""

    def __init__(self, stack: Stack, session_id: str, watcher: Watcher):
        self.stack = stack
        self.session_id = session_id
        self.watcher = watcher

    async def send(self, content: list[dict[str, str]]) -> None:
        """Send a message as a client does that does not give up: the same key until it is accepted."""
        body = {"events": [{"type": "user.message", "content": content}]}
        headers = {"x-api-key": self.stack.api_key, "Idempotency-Key": str(uuid.uuid4())}
        async with httpx.AsyncClient(base_url=self.stack.url, headers=headers, timeout=20) as client:
            for _ in range(200):
                try:
                    response = await client.post(f"/v1/sessions/{self.session_id}/events", json=body)
                except httpx.HTTPError:
                    response = None
                if response is not None and response.status_code < 500:
                    assert response.status_code == 200, response.text
                    return
                await asyncio.sleep(0.1)
        raise AssertionError("the message was never accepted")

    def kill(self, part: str) -> None:
        self.signal(part, signal.SIGKILL)

    def signal(self, part: str, number: int) -> None:
        os.kill(self.stack.parts()[part], number)

    async def check(self, *, turns: int, effects: list[str]) -> None:
        """Wait for the end of the turns, then compare everything with what must have happened."""
        await self.watcher.until_idle(times=turns, timeout_seconds=90)
        listed = await self.listed()
        last = listed[-1]
        await self.watcher.until(lambda w: bool(w.events) and w.events[-1]["id"] == last["id"])
        assert self.watcher.seqs == list(range(1, len(listed) + 1)), "an event was missing or came twice"
        assert [e["id"] for e in self.watcher.events] == [e["id"] for e in listed]
        assert [e["stop_reason"]["type"] for e in self.watcher.of("session.status_idle")] == ["end_turn"] * turns
        uses = [e["id"] for e in self.watcher.of("agent.tool_use")]
        results = {e["tool_use_id"]: e for e in self.watcher.of("agent.tool_result")}
        assert sorted(results) == sorted(uses), "a tool use without a result"
        assert len(self.watcher.of("agent.tool_result")) == len(uses), "a tool result twice"
        self._check_effects(effects, [results[use] for use in uses])
        starts = {e["id"] for e in self.watcher.of("span.model_request_start")}
        assert starts == {e["model_request_start_id"] for e in self.watcher.of("span.model_request_end")}

    def _check_effects(self, effects: list[str], results: list[dict[str, Any]]) -> None:
        unknown = [r for r in results if "utcome unknown" in r["content"][0]["text"]]
        if unknown:
            assert all(r["is_error"] for r in unknown)
            return
        assert results[-1]["content"][0]["text"].split() == effects

    async def listed(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        page: str | None = None
        async with httpx.AsyncClient(base_url=self.stack.url, headers={"x-api-key": self.stack.api_key}) as client:
            while True:
                params = {"limit": "100", **({"page": page} if page else {})}
                response = await client.get(f"/v1/sessions/{self.session_id}/events", params=params)
                body = response.json()
                found += body["data"]
                if (page := body.get("next_page")) is None:
                    return found


async def new_session(stack: Stack) -> str:
    async with httpx.AsyncClient(base_url=stack.url, headers={"x-api-key": stack.api_key}, timeout=20) as client:
        agent = await client.post("/v1/agents", json={"name": "a", "model": "scripted/kill"})
        environment = await client.post("/v1/environments", json={"name": "e"})
        made = {"agent": agent.json()["id"], "environment_id": environment.json()["id"]}
        return (await client.post("/v1/sessions", json=made)).json()["id"]


@pytest.fixture
async def case(stack: Stack) -> Any:
    await stack.ready_again()
    session_id = await new_session(stack)
    async with Watcher(stack.url, stack.api_key, session_id) as watcher:
        await watcher.until(lambda w: w.connections > 0)
        yield Case(stack, session_id, watcher)


@killed(0)
async def test_killed_when_a_message_has_been_accepted(case: Case, part: str) -> None:
    await case.send(script(effect("one"), READ_EFFECTS, {"text": "done"}))
    case.kill(part)
    await case.check(turns=1, effects=["one"])


@killed(1)
async def test_killed_while_the_model_streams(case: Case, part: str) -> None:
    await case.send(
        script(effect("one"), {"text": SLOW_TEXT, "chunk_chars": 8, "chunk_ms": 40, **effect("two")}, READ_EFFECTS)
    )
    await case.watcher.until(lambda w: any(p["type"] == "event_delta" for p in w.previews))
    case.kill(part)
    await case.check(turns=1, effects=["one", "two"])
    said = [e["content"][0]["text"] for e in case.watcher.of("agent.message")]
    assert said.count(SLOW_TEXT) == 1


@killed(2)
async def test_killed_when_a_tool_call_has_been_dispatched(case: Case, part: str) -> None:
    await case.send(script(effect("one", then="sleep 2"), effect("two"), READ_EFFECTS, {"text": "done"}))
    await case.watcher.until(lambda w: "agent.tool_use" in w.types)
    await asyncio.sleep(0.5)
    case.kill(part)
    await case.check(turns=1, effects=["one", "two"])


@killed(3)
async def test_killed_when_a_tool_has_finished_but_is_not_confirmed(case: Case, part: str) -> None:
    """The sandbox worker is stopped while the command runs, so that nobody confirms its end before the kill."""
    await case.send(script(effect("one", then="sleep 1"), effect("two"), READ_EFFECTS, {"text": "done"}))
    await case.watcher.until(lambda w: "agent.tool_use" in w.types)
    await asyncio.sleep(0.5)
    case.signal("sandboxes", signal.SIGSTOP)
    await asyncio.sleep(1)
    case.kill(part)
    if part != "sandboxes":
        case.signal("sandboxes", signal.SIGCONT)
    await case.check(turns=1, effects=["one", "two"])


@killed(4)
async def test_killed_between_turns(case: Case, part: str) -> None:
    await case.send(script(effect("one"), {"text": "first"}))
    await case.watcher.until_idle()
    case.kill(part)
    await case.send(script(effect("two"), READ_EFFECTS, {"text": "second"}))
    await case.check(turns=2, effects=["one", "two"])
