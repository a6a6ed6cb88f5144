"""What a turn takes from a session's queue; pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

STARTS_A_TURN = frozenset({"user.message"})
DECISIONS = frozenset({"user.custom_tool_result", "user.tool_confirmation"})


@dataclass(frozen=True)
class Waiting:
    """An input event that no turn has taken."""

    id: str
    type: str
    steers: bool = False
    seq: int = 0


@dataclass(frozen=True)
class Taken:
    """``inputs``: what the turn answers. ``passed``: what needs no turn, such as an interrupt when nothing runs."""

    inputs: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)


def take(waiting: Sequence[Waiting], *, held_seq: int | None = None) -> Taken:
    """Take the oldest message with the system messages around it; each later message has a turn of its own.

    ``held_seq``: the last turn did not get to its end, and what was sent up to then waits for it: until it is tried
    again, or somebody interrupts, or says something after it.
    """
    if held_seq is not None:
        aside = [event.id for event in waiting if event.type not in STARTS_A_TURN | {"system.message"}]
        freed = any(
            event.type == "user.interrupt" or (event.type in STARTS_A_TURN and event.seq > held_seq)
            for event in waiting
        )
        return Taken(inputs=take(waiting).inputs if freed else [], passed=aside)
    inputs: list[str] = []
    passed: list[str] = []
    started = False
    for event in waiting:
        if event.type == "system.message":
            inputs.append(event.id)
        elif event.type in STARTS_A_TURN:
            if started:
                break
            started = True
            inputs.append(event.id)
        elif not started:
            passed.append(event.id)
    return Taken(inputs=inputs if started else [], passed=passed)


def decisions(waiting: Sequence[Waiting]) -> Taken:
    """Take every decision that parked calls waited for, each with the system messages right after it."""
    return Taken(inputs=_with_notes(waiting, lambda event: event.type in DECISIONS))


def steering(waiting: Sequence[Waiting]) -> list[str]:
    """Take the messages that steer the running turn, each with the system messages right after it."""
    return _with_notes(waiting, lambda event: event.steers)


def _with_notes(waiting: Sequence[Waiting], wanted: Callable[[Waiting], bool]) -> list[str]:
    taken: list[str] = []
    taking = False
    for event in waiting:
        taking = wanted(event) or (taking and event.type == "system.message")
        if taking:
            taken.append(event.id)
    return taken
