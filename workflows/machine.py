"""The session as a pure state machine: when a turn starts, what stops it, and when the workflow may rest.

The queue itself is rows in Postgres, in the order of their seq; a wake-up only says that there may be something to
take. So a wake-up may be lost, late or repeated without a message being lost, reordered or answered twice.
"""

from collections.abc import Mapping
from typing import Literal

from workflows.contracts import TurnResult

Next = Literal["start_turn", "rest", "stop"]

State = Literal["resting", "due", "running", "running_due", "stopping", "gone"]
"""``due``: a look at the queue is wanted. ``stopping``: the running turn has been told to end."""

Happening = Literal["wake", "interrupt", "turn_started", "turn_ended", "turn_ended_more", "turn_ended_gone"]
"""``turn_ended_more``: it left something in the queue. ``turn_ended_gone``: its session is no more."""

TABLE: Mapping[State, Mapping[Happening, State]] = {
    "resting": {"wake": "due", "interrupt": "due"},
    "due": {"wake": "due", "interrupt": "due", "turn_started": "running"},
    "running": {
        "wake": "running_due",
        "interrupt": "stopping",
        "turn_ended": "resting",
        "turn_ended_more": "due",
        "turn_ended_gone": "gone",
    },
    "running_due": {
        "wake": "running_due",
        "interrupt": "stopping",
        "turn_ended": "due",
        "turn_ended_more": "due",
        "turn_ended_gone": "gone",
    },
    "stopping": {
        "wake": "stopping",
        "interrupt": "stopping",
        "turn_ended": "due",
        "turn_ended_more": "due",
        "turn_ended_gone": "gone",
    },
    "gone": {"wake": "gone", "interrupt": "gone"},
}

_NEXT: Mapping[State, Next] = {
    "resting": "rest",
    "due": "start_turn",
    "running": "rest",
    "running_due": "rest",
    "stopping": "rest",
    "gone": "stop",
}


class SessionMachine:
    """Where a session's workflow stands; what it does follows from `TABLE`."""

    def __init__(self, *, wanted: bool = False):
        self.state: State = "due" if wanted else "resting"

    @property
    def wanted(self) -> bool:
        """Whether a look at the queue is wanted; all that has to cross continue-as-new."""
        return self.state in {"due", "running_due", "stopping"}

    def wake(self) -> None:
        """An input has been recorded."""
        self._happens("wake")

    def interrupt(self) -> bool:
        """A person wants the running turn to stop; return whether there is one to stop."""
        before = self.state
        self._happens("interrupt")
        return self.state == "stopping" and before != "stopping"

    def next(self) -> Next:
        """Say what the workflow does now."""
        return _NEXT[self.state]

    def turn_started(self) -> None:
        """A turn takes what the queue holds; a wake-up from now on asks for another look."""
        self._happens("turn_started")

    def turn_ended(self, result: TurnResult) -> None:
        """The turn's end is recorded; go on if it left something in the queue."""
        if result.reason == "gone":
            self._happens("turn_ended_gone")
        else:
            self._happens("turn_ended_more" if result.more else "turn_ended")

    def _happens(self, happening: Happening) -> None:
        self.state = TABLE[self.state][happening]


def diagram() -> str:
    """Return the table as a Mermaid state diagram; what changes nothing is left out."""
    lines = ["stateDiagram-v2", "    [*] --> resting"]
    for state, happenings in TABLE.items():
        reached: dict[State, list[Happening]] = {}
        for happening, then in happenings.items():
            if then != state:
                reached.setdefault(then, []).append(happening)
        lines += [f"    {state} --> {then}: {', '.join(causes)}" for then, causes in reached.items()]
    return "\n".join([*lines, "    gone --> [*]"])


if __name__ == "__main__":
    print(diagram())  # noqa: T201 - for docs/sessions.md
