"""A session without its control plane: a conversation as it would be recorded, and tools that do as they are told."""

import asyncio
import itertools
import json
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from harness_adapters.contract import (
    Answer,
    AnswerText,
    ContextCompacted,
    Harness,
    HarnessEvent,
    HarnessSpec,
    HistoryItem,
    ModelAnswered,
    TextBlock,
    ToolDefinition,
    ToolOutcome,
    ToolUse,
    TurnFinished,
    UserInput,
    summarized,
)
from tests.integration.models.conftest import Gateway

T = TypeVar("T")

TOOLS = [
    ToolDefinition(
        name=name,
        description=f"The tool {name}.",
        input_schema={"type": "object", "properties": {"n": {"type": "integer"}, "text": {"type": "string"}}},
    )
    for name in ("sandbox_execute", "sandbox_provision")
]
_numbers = itertools.count(1)


def script(*steps: dict[str, Any]) -> str:
    """Return a message that holds a script for the scripted model."""
    return f"```script\n{json.dumps(steps)}\n```"


def uses(*inputs: dict[str, Any]) -> list[dict[str, Any]]:
    """Return calls of a script's step."""
    return [{"name": "sandbox_execute", "input": value} for value in inputs]


@dataclass
class Hands:
    """A `TurnPort`; ``does`` says what a call comes to: by default its input, as text."""

    does: Callable[[ToolUse], Any] | None = None
    said: list[list[UserInput]] = field(default_factory=list[list[UserInput]])
    called: list[ToolUse] = field(default_factory=list[ToolUse])
    cancelled: list[str] = field(default_factory=list[str])
    outcomes: list[ToolOutcome] = field(default_factory=list[ToolOutcome])

    async def steering(self) -> list[UserInput]:
        """Return what is said before the next request."""
        return self.said.pop(0) if self.said else []

    async def call(self, use: ToolUse) -> ToolOutcome | None:
        """Do as was said; a repeated call is told what the first came to, as the journal does."""
        if known := next((each for each in self.outcomes if each.tool_use_id == use.event_id), None):
            return known
        self.called.append(use)
        try:
            done = self.does(use) if self.does else f"did {use.input.get('n')}"
            done = await done if asyncio.iscoroutine(done) else done
        except asyncio.CancelledError:
            self.cancelled.append(use.event_id)
            raise
        if done is None or isinstance(done, ToolOutcome):
            outcome = done
        else:
            outcome = ToolOutcome(tool_use_id=use.event_id, content=[TextBlock(text=done)])
        if outcome is not None:
            self.outcomes.append(outcome)
        return outcome


@dataclass
class Talk:
    """A session: its history grows as a log would, by what a turn yields and by what its calls come to."""

    gateway: Gateway
    model: str
    session_id: str = field(default_factory=lambda: f"sesn_{next(_numbers)}")
    system: str | None = "You are a test."
    history: list[HistoryItem] = field(default_factory=list[HistoryItem])
    more: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def spec(self) -> HarnessSpec:
        """The agent as it stands."""
        return HarnessSpec(
            session_id=self.session_id,
            turn_id="t",
            model=self.model,
            system=self.system,
            tools=TOOLS,
            gateway_url=self.gateway.url,
            gateway_token=self.gateway.token,
            **self.more,
        )

    def say(self, text: str) -> None:
        """Add a message of the user's."""
        self.history.append(UserInput(event_id=f"u{next(_numbers)}", content=[TextBlock(text=text)]))

    async def turn(
        self, harness: Harness, hands: Hands | None = None, *, until: Callable[[HarnessEvent], bool] | None = None
    ) -> list[HarnessEvent]:
        """Run a turn, or the part of it up to an event, and record it."""
        port, events = hands or Hands(), list[HarnessEvent]()
        heard = len(port.outcomes)
        steered: list[UserInput] = []
        ask = port.steering

        async def steering() -> list[UserInput]:
            taken = await ask()
            self._outcomes(port, heard)
            self.history += taken
            steered.extend(taken)
            return taken

        port.steering = steering  # type: ignore[method-assign]
        try:
            async with aclosing(harness.run_turn(self.spec, list(self.history), port)) as steps:
                async for event in steps:
                    events.append(event)
                    self._outcomes(port, heard)
                    if isinstance(event, ModelAnswered):
                        self.history.append(event.answer)
                    if isinstance(event, ContextCompacted):
                        self._compact(event)
                    if isinstance(event, TurnFinished) or (until is not None and until(event)):
                        break
        finally:
            port.steering = ask  # type: ignore[method-assign]
            self._outcomes(port, heard)
        return events

    def _outcomes(self, port: Hands, heard: int) -> None:
        known = {item.tool_use_id for item in self.history if isinstance(item, ToolOutcome)}
        self.history += [each for each in port.outcomes[heard:] if each.tool_use_id not in known]

    def _compact(self, event: ContextCompacted) -> None:
        kept = [n for n, item in enumerate(self.history) if getattr(item, "event_id", None) == event.kept_from]
        rest = self.history[kept[0] :] if kept else []
        self.history = [summarized(event.event_id, event.summary), *rest]


def of(events: list[HarnessEvent], kind: type[T]) -> list[T]:
    """Return the events of a kind."""
    return [event for event in events if isinstance(event, kind)]


def text(events: list[HarnessEvent]) -> str:
    """Return what the last answer says."""
    assert of(events, ModelAnswered), events
    return said(of(events, ModelAnswered)[-1].answer)


def said(answer: Answer) -> str:
    """Return an answer's text."""
    return "".join(block.text for block in answer.blocks if isinstance(block, AnswerText))
