"""Both sides of a scenario's sessions: a client that does not give up, and what it makes the scripted model do."""

import asyncio
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.faults.scenario import Conversation, Fault, Message, Moment, Scenario
from tests.support.bait import USE_IT
from tests.support.client import script
from tests.support.stack import Stack
from tests.support.watch import Watcher

_REQUEST_SECONDS = 3
"""Shorter than any stall, so that requests are repeated which the control plane has taken."""
_AGAIN_SECONDS = 0.2
_LOOK_SECONDS = 0.25
_SLOW_TEXT = "One word after the other, slowly enough that something can break in the middle of them. " * 2
_FAILURES: dict[Fault, dict[str, Any]] = {
    "refuse": {"fail": {"status": 529, "times": 2, "retry_after_seconds": 0.3}},
    "break": {"fail": {"after_chunks": 3}},
    "hang": {"fail": {"hang_seconds": 3, "after_chunks": 2}},
    "garble": {"tools": [{"name": "sandbox_execute", "raw_input": '{"command": '}]},
}
READ_BACK = "cat /workspace/effects 2>/dev/null; true"


class Caller:
    """Repeats every request, under the same key, until the control plane has answered it."""

    def __init__(self, stack: Stack):
        self._stack = stack
        headers = {"x-api-key": stack.api_key}
        self._http = httpx.AsyncClient(base_url=stack.url, headers=headers, timeout=_REQUEST_SECONDS)
        self.patience_seconds = 120.0

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    async def post(self, path: str, body: dict[str, Any] | None = None, *, may_conflict: bool = False) -> Any:
        """POST; with ``may_conflict`` None is returned where it comes too late."""
        answer = await self._ask("POST", path, json=body, headers={"Idempotency-Key": str(uuid.uuid4())})
        if may_conflict and answer.status_code == 409:
            return None
        assert answer.is_success, answer.text
        return answer.json()

    async def get(self, path: str, **parameters: str) -> Any:
        """GET."""
        answer = await self._ask("GET", path, params=parameters)
        assert answer.is_success, answer.text
        return answer.json()

    async def all(self, path: str) -> list[dict[str, Any]]:
        """GET every page of a list."""
        found: list[dict[str, Any]] = []
        page: str | None = None
        while True:
            answer = await self.get(path, limit="100", **({"page": page} if page else {}))
            found += answer["data"]
            if not (page := answer.get("next_page")):
                return found

    async def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        async with asyncio.timeout(self.patience_seconds):
            while True:
                try:
                    answer = await self._http.request(method, path, **more)
                except httpx.HTTPError:
                    answer = None
                if answer is not None:
                    self._stack.keep_error(answer)
                    if answer.status_code < 500 and answer.status_code != 429:
                        return answer
                await asyncio.sleep(_AGAIN_SECONDS)


@dataclass
class Talk:
    """One session of a scenario as it goes on."""

    conversation: Conversation
    session_id: str
    watcher: Watcher
    caller: Caller
    sent: list[str] = field(default_factory=list[str])
    """The keys of messages that were accepted."""
    stopped: int = 0
    """How many messages may have been left unanswered: an interrupt was sent, or another message went before."""

    async def say(self, key: str, *steps: dict[str, Any], padding_chars: int = 0, **more: Any) -> None:
        """Send a message that has an answer of its own."""
        padding = "".join(f"{n:x}" for n in range(padding_chars // 4))
        text = script(*steps, {"text": f"answer {key}."}) + padding
        event = {"type": "user.message", "content": [{"type": "text", "text": text}], **more}
        await self._send(event)
        self.sent.append(key)

    async def interrupt(self) -> None:
        """Stop what runs."""
        self.stopped += 1
        await self._send({"type": "user.interrupt"})

    async def _send(self, event: dict[str, Any]) -> None:
        await self.caller.post(f"/v1/sessions/{self.session_id}/events", {"events": [event]})

    async def state(self) -> dict[str, Any]:
        """Return the session."""
        return await self.caller.get(f"/v1/sessions/{self.session_id}")

    async def events(self) -> list[dict[str, Any]]:
        """Return everything that is recorded."""
        return await self.caller.all(f"/v1/sessions/{self.session_id}/events")

    async def calls(self) -> list[dict[str, Any]]:
        """Return the journal."""
        return await self.caller.all(f"/v1/sessions/{self.session_id}/tool_calls")


def steps_of(conversation: Conversation, message: Message) -> list[dict[str, Any]]:
    """Return what the model does for a message: a command for each effect."""
    return [_command(conversation, effect) for effect in message.effects]


def steps_at(scenario: Scenario, message: Message) -> list[dict[str, Any]]:
    """Return what the model does for the message in whose turn the part is hurt."""
    conversation, moment = scenario.conversations[0], scenario.moment
    first, *rest = message.effects
    steps = [_command(conversation, first, then=_then(scenario)), *(_command(conversation, each) for each in rest)]
    if scenario.part == "provider":
        failing = _FAILURES[scenario.fault]
        return [*steps, {"text": _SLOW_TEXT, "chunk_chars": 8, **_command(conversation, f"{first}x"), **failing}]
    if moment == "streaming":
        steps[0] |= {"text": _SLOW_TEXT, "chunk_chars": 8, "chunk_ms": 40}
    return steps


def _then(scenario: Scenario) -> str:
    if scenario.part == "egress":
        return f"{USE_IT}; sleep 1; {USE_IT}; true"
    pauses: dict[Moment, str] = {"dispatched": "2", "steering": "2", "interrupting": "3", "unconfirmed": "1"}
    return f"sleep {pauses[scenario.moment]}" if scenario.moment in pauses else "true"


def _command(conversation: Conversation, effect: str, *, then: str = "true") -> dict[str, Any]:
    command = f"echo {effect} >> /workspace/effects; {then}"
    name = "bash" if conversation.asks else "sandbox_execute"
    return {"tools": [{"name": name, "input": {"command": command}}]}


@asynccontextmanager
async def talking(stack: Stack, caller: Caller, scenario: Scenario) -> AsyncGenerator[tuple[list[Talk], str | None]]:
    """Open a scenario's sessions and watch them; yields them, and the id of the budget that all but one share."""
    budget_id = None
    if scenario.budget_tokens:
        wanted = {"name": f"of seed {scenario.seed}", "max_tokens": scenario.budget_tokens}
        budget_id = (await caller.post("/v1/budgets", wanted))["id"]
    talks: list[Talk] = []
    try:
        for number, conversation in enumerate(scenario.conversations):
            budgets = [budget_id] if budget_id and number else []
            session_id = await _open(stack, caller, conversation, budgets)
            watcher = Watcher(stack.url, stack.api_key, session_id)
            await watcher.__aenter__()
            talks.append(Talk(conversation, session_id, watcher, caller))
        for talk in talks:
            await talk.watcher.until(lambda w: w.connections > 0)
        yield talks, budget_id
    finally:
        for talk in talks:
            await talk.watcher.__aexit__()


async def _open(stack: Stack, caller: Caller, conversation: Conversation, budget_ids: list[str]) -> str:
    configs = [{"name": "bash", "permission_policy": {"type": "always_ask"}}]
    tools = [{"type": "agent_toolset_20260401", "configs": configs}] if conversation.asks else []
    wanted = {"name": "matrix", "model": conversation.model, "harness": conversation.harness, "tools": tools}
    agent = await caller.post("/v1/agents", wanted)
    config = {"type": "cloud", "provider": "namespace"}
    environment = await caller.post("/v1/environments", {"name": "matrix", "config": config})
    made = {
        "agent": agent["id"],
        "environment_id": environment["id"],
        "vault_ids": stack.vault_ids,
        "budget_ids": budget_ids,
    }
    return (await caller.post("/v1/sessions", made))["id"]


async def decide(caller: Caller, talks: list[Talk], *, once: asyncio.Event) -> None:
    """Be the person who decides, from when ``once`` is set: until cancelled."""
    await once.wait()
    denied = {effect for talk in talks for effect in talk.conversation.denied}
    ours = {talk.session_id for talk in talks}
    while True:
        for call in await caller.all("/v1/approvals"):
            if call["session_id"] in ours:
                effect = effect_of(call["input"])
                result = "deny" if effect in denied else "allow"
                await caller.post(f"/v1/approvals/{call['id']}", {"result": result}, may_conflict=True)
        await asyncio.sleep(_LOOK_SECONDS)


def effect_of(given: dict[str, Any]) -> str | None:
    """Return the line that a command writes, if it is one that does."""
    words = str(given.get("command", "")).split()
    return words[1] if words[:1] == ["echo"] else None
