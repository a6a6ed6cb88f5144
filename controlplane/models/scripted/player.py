"""From a conversation to the answer that its script has for it."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from controlplane.models.scripted.script import Failure, Script, ScriptError, Step, find_script, read_script
from harness_adapters.model.compaction import INSTRUCTION

MAX_RESULT_CHARS = 4_000
"""Of a tool's result that is quoted in an answer: a demo's last message stays readable."""

CHARS_PER_TOKEN = 4

MAX_COUNTED_FAILURES = 10_000
"""Counts of failures are forgotten beyond so many; only tests make any."""

_RESULT = re.compile(r"\{\{result(?:\.(\d+))?\}\}")

StopReason = Literal["end_turn", "tool_use", "max_tokens", "refusal"]


@dataclass(frozen=True)
class Entry:
    """A message as far as scripts go; ``tool`` is one tool's result."""

    role: Literal["system", "user", "assistant", "tool"]
    text: str


@dataclass(frozen=True)
class Call:
    """A tool call with the id that the model gives it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Reply:
    """A whole answer, and how it is to be served; ``failure`` set: not this time."""

    id: str
    model: str
    thinking: str
    text: str
    calls: list[Call]
    stop_reason: StopReason
    input_tokens: int
    output_tokens: int
    pace: Step
    failure: Failure | None = None

    def pieces(self, text: str) -> list[str]:
        """Return ``text`` cut as it is streamed."""
        size = self.pace.chunk_chars
        return [text[start : start + size] for start in range(0, len(text), size)]


class Player:
    """Plays scripts; all it remembers is how often each step has failed."""

    def __init__(self) -> None:
        self._failed: Counter[tuple[str, int]] = Counter()

    def reply(self, model: str, entries: Sequence[Entry], *, offered: Sequence[str] = ()) -> Reply:
        """Return the answer to the conversation ``entries``; ``offered``: the names of the tools it may call.

        A script names a tool as Bulkhead does; some harnesses put a prefix and two underscores before that.
        """
        model = f"scripted/{model.removeprefix('scripted/')}"
        if entries and entries[-1].role == "user" and entries[-1].text.endswith(INSTRUCTION):
            return _said(model, entries, text=f"Notes on {len(entries) - 1} messages, by a scripted model.")
        found = _newest_script(entries)
        if found is None:
            return _said(model, entries, text=_refusal(model))
        source, since = found
        try:
            script = read_script(source)
        except ScriptError as error:
            return _said(
                model, entries, text=f"I am {model}, a scripted model, and cannot play this script: {error}."
            )
        played = sum(entry.role == "assistant" for entry in since)
        if played >= len(script.steps):
            text = f"The script is over: all {len(script.steps)} steps have been played."
            return _said(model, entries, text=text)
        return self._step(model, entries, offered, script=script, index=played)

    def _step(
        self, model: str, entries: Sequence[Entry], offered: Sequence[str], *, script: Script, index: int
    ) -> Reply:
        step = script.steps[index]
        name = f"{script.digest[:16]}{index:04d}"
        calls = [
            Call(f"call_{name}{n:02d}", _offered(call.name, offered), call.arguments)
            for n, call in enumerate(step.tools)
        ]
        text = _with_results(step.text or "", _last_results(entries))
        spoken = text + (step.thinking or "") + "".join(call.arguments for call in calls)
        return Reply(
            id=name,
            model=model,
            thinking=step.thinking or "",
            text=text,
            calls=calls,
            stop_reason=step.stop_reason or ("tool_use" if calls else "end_turn"),
            input_tokens=_input_tokens(entries),
            output_tokens=_tokens(spoken),
            pace=step,
            failure=self._failure(script, index),
        )

    def _failure(self, script: Script, index: int) -> Failure | None:
        failure = script.steps[index].fail
        if failure is None or self._failed[script.digest, index] >= failure.times:
            return None
        if len(self._failed) > MAX_COUNTED_FAILURES:
            self._failed.clear()
        self._failed[script.digest, index] += 1
        return failure


def _offered(name: str, offered: Sequence[str]) -> str:
    return name if name in offered else next((each for each in offered if each.endswith(f"__{name}")), name)


def signature(thinking: str) -> str:
    """Return what vouches for a scripted thought, so that one that was altered on its way back is noticed."""
    return "scripted-" + hashlib.sha256(thinking.encode("utf-8", "surrogatepass")).hexdigest()


def _newest_script(entries: Sequence[Entry]) -> tuple[str, Sequence[Entry]] | None:
    for position in range(len(entries) - 1, -1, -1):
        entry = entries[position]
        source = find_script(entry.text) if entry.role in {"system", "user"} else None
        if source is not None:
            return source, entries[position + 1 :]
    return None


def _last_results(entries: Sequence[Entry]) -> list[str]:
    last_answer = max((n for n, entry in enumerate(entries) if entry.role == "assistant"), default=0)
    return [entry.text.strip() for entry in entries[last_answer:] if entry.role == "tool"]


def _with_results(text: str, results: Sequence[str]) -> str:
    def quoted(match: re.Match[str]) -> str:
        number = int(match[1] or 1)
        return results[number - 1][:MAX_RESULT_CHARS] if 1 <= number <= len(results) else "(no such result)"

    return _RESULT.sub(quoted, text)


def _refusal(model: str) -> str:
    return (
        f"I am {model}, a scripted model for demos and tests: I plan nothing, I only play a script, and I was given"
        " none. Put a fenced block that begins with ```script and holds a JSON list of steps into the agent's system"
        " prompt or into a message, or set ANTHROPIC_API_KEY or OPENAI_API_KEY and give the agent a real model."
    )


def _said(model: str, entries: Sequence[Entry], *, text: str) -> Reply:
    return Reply(
        id=hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:20],
        model=model,
        thinking="",
        text=text,
        calls=[],
        stop_reason="end_turn",
        input_tokens=_input_tokens(entries),
        output_tokens=_tokens(text),
        pace=Step(text=text),
    )


def _tokens(text: str) -> int:
    return -(-len(text) // CHARS_PER_TOKEN)


def _input_tokens(entries: Sequence[Entry]) -> int:
    return sum(_tokens(entry.text) for entry in entries)
