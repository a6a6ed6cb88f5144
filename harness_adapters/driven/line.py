"""The line between a native session and its turn: the model requests it makes, and the tool calls it wants done."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness_adapters.contract import Answer, MediaBlock, TextBlock, ToolOutcome, ToolUse, TurnPort
from harness_adapters.driven.native import GO_ON, Kind, NoTurnError
from harness_adapters.model.client import PassedOn
from harness_adapters.model.rounds import uses


@dataclass(eq=False)
class Asked:
    """A model request that waits; ``answered`` gets the answer's bytes.

    ``knows_calls``: when it was written the harness had the outcome of every call that it could have made, and had
    given none of them up.
    """

    passed_on: PassedOn
    knows_calls: bool
    answered: asyncio.Future[bytes] = field(default_factory=asyncio.Future[bytes])

    def deliver(self) -> bool:
        """Give the harness its answer; say whether it is still there to take it."""
        if self.answered.done():
            return False
        self.answered.set_result(self.passed_on.answer)
        return True


class Calls:
    """The tool calls of one answer, all under way at once; a harness that runs them one by one finds them done."""

    def __init__(self, tools: TurnPort, answer: Answer, passed_on: PassedOn, known: set[str]):
        self._uses = uses(answer)
        self._ids = passed_on.call_ids
        self._tasks = {use.event_id: asyncio.ensure_future(tools.call(use)) for use in self._uses}
        self._known = known
        self._claimed: set[str] = set()
        self._told: set[str] = set()

    @property
    def tasks(self) -> list[asyncio.Future[ToolOutcome | None]]:
        """The calls as they run."""
        return list(self._tasks.values())

    @property
    def told(self) -> bool:
        """Whether the harness has taken the outcome of every call that it could have made."""
        return all(use.event_id in self._told for use in self._uses if use.name in self._known)

    def outcomes(self) -> list[ToolOutcome]:
        """Return the outcomes that there are, in the order of the uses; every call must have ended."""
        whole = [task for task in self._tasks.values() if not task.cancelled() and task.exception() is None]
        return [outcome for task in whole if (outcome := task.result()) is not None]

    async def outcome(self, call_id: str | None, name: str, value: dict[str, Any]) -> ToolOutcome:
        """Return what a call came to, once; the harness names it by the model's id, or by name and input."""
        use = self._find(call_id, name, value)
        if use is None:
            raise NoTurnError(f"the model has not asked for {name!r} with this input")
        self._claimed.add(use.event_id)
        outcome = await asyncio.shield(self._tasks[use.event_id])
        if outcome is None:
            await asyncio.Future[None]()
            raise NoTurnError("it waits for somebody")
        self._told.add(use.event_id)
        return outcome

    async def stop(self) -> None:
        """Cancel what still runs and wait for it: each call has an end to record."""
        running = [task for task in self._tasks.values() if not task.done()]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    def _find(self, call_id: str | None, name: str, value: dict[str, Any]) -> ToolUse | None:
        rest = [use for use in self._uses if use.event_id not in self._claimed]
        if call_id is not None:
            return next((use for use in rest if self._ids.get(use.event_id) == call_id), None)
        named = [use for use in rest if use.name == name]
        return next((use for use in named if use.input == value), named[0] if len(named) == 1 else None)


class Line:
    """Open while a turn runs; what comes outside of one is refused."""

    def __init__(self, kind: Kind) -> None:
        self._fillers = {GO_ON: "user", **kind.fillers}
        self._result_characters = kind.result_characters
        self.asked: asyncio.Queue[Asked] = asyncio.Queue()
        self.calls: Calls | None = None
        self.ended: asyncio.Future[str | None] = asyncio.Future()
        self.is_open = False
        self._asking: set[Asked] = set()

    def open(self) -> None:
        """Begin a turn."""
        self.asked, self.calls, self.ended, self.is_open = asyncio.Queue(), None, asyncio.Future(), True

    def close(self) -> None:
        """End the turn: whoever waits is told."""
        self.is_open, self.calls = False, None
        for each in self._asking:
            if not each.answered.done():
                each.answered.set_exception(NoTurnError("the turn is over"))

    def end(self, failure: str | None) -> None:
        """Take note that the harness has ended its turn."""
        if not self.ended.done():
            self.ended.set_result(failure)

    async def ask(self, passed_on: PassedOn) -> bytes:
        """Have a model request answered; raises `NoTurnError`."""
        if not self.is_open:
            raise NoTurnError("the session has no running turn")
        passed_on.body = without(passed_on.body, self._fillers)
        asked = Asked(passed_on, knows_calls=self.calls is None or self.calls.told)
        self._asking.add(asked)
        try:
            self.asked.put_nowait(asked)
            return await asked.answered
        finally:
            self._asking.discard(asked)

    async def call(self, call_id: str | None, name: str, value: dict[str, Any]) -> ToolOutcome:
        """Return what a tool call came to; raises `NoTurnError`."""
        if self.calls is None:
            raise NoTurnError("the session has no running turn, or its model has not asked for a tool")
        return shortened(await self.calls.outcome(call_id, name, value), self._result_characters)


def text_of(outcome: ToolOutcome) -> str:
    """Return an outcome as one text."""
    return "\n".join(map(_told, outcome.content)) or "(empty)"


def _told(block: TextBlock | MediaBlock) -> str:
    return block.text if isinstance(block, TextBlock) else f"[{block.type}: this harness is given text alone]"


def shortened(outcome: ToolOutcome, characters: int | None) -> ToolOutcome:
    """Return an outcome whose texts have no more characters together than a harness takes: head, note and tail."""
    length = sum(len(block.text) for block in outcome.content if isinstance(block, TextBlock))
    if characters is None or length <= characters:
        return outcome
    whole = "\n".join(block.text for block in outcome.content if isinstance(block, TextBlock))
    note = f"\n[{len(whole)} characters, of which this harness takes {characters}; the middle is left out]\n"
    part = (characters - len(note)) // 2
    text = TextBlock(text=whole[:part] + note + whole[-part:])
    media = [block for block in outcome.content if not isinstance(block, TextBlock)]
    return outcome.model_copy(update={"content": [text, *media]})


def without(body: bytes, fillers: Mapping[str, str]) -> bytes:
    """Return a request without the messages, and the parts of messages, that are a filler: role by text."""
    if not any(json.dumps(text).encode() in body for text in fillers):
        return body
    request = json.loads(body)
    for name in ("messages", "input"):
        if isinstance(request.get(name), list):
            request[name] = [kept for each in request[name] if (kept := _stripped(each, fillers)) is not None]
    return json.dumps(request, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _stripped(message: Any, fillers: Mapping[str, str]) -> Any:
    if not isinstance(message, dict):
        return message
    content, role = message.get("content"), message.get("role")
    if isinstance(content, str):
        return None if fillers.get(content.strip()) == role else message
    if not isinstance(content, list):
        return message
    rest = [part for part in content if not (isinstance(part, dict) and _is_filler(part, role, fillers))]
    return {**message, "content": rest} if rest else None


def _is_filler(part: Mapping[str, Any], role: Any, fillers: Mapping[str, str]) -> bool:
    return role is not None and fillers.get(str(part.get("text", "")).strip()) == role
