"""The session as a pure state machine: when a turn starts, what stops it, and when the workflow may rest.

The queue itself is rows in Postgres, in the order of their seq; a wake-up only says that there may be something to
take. So a wake-up may be lost, late or repeated without a message being lost, reordered or answered twice.
"""

from dataclasses import dataclass
from typing import Literal

from workflows.contracts import TurnResult

Next = Literal["start_turn", "rest", "stop"]


@dataclass
class SessionMachine:
    """What the workflow knows: whether a look at the queue is wanted, and whether a turn runs."""

    wanted: bool = False
    running: bool = False
    interrupted: bool = False
    gone: bool = False

    def wake(self) -> None:
        """An input has been recorded."""
        self.wanted = True

    def interrupt(self) -> bool:
        """A person wants the running turn to stop; return whether there is one to stop."""
        self.wanted = True
        if self.running and not self.interrupted:
            self.interrupted = True
            return True
        return False

    def next(self) -> Next:
        """Say what the workflow does now."""
        if self.gone:
            return "stop"
        return "start_turn" if self.wanted and not self.running else "rest"

    def turn_started(self) -> None:
        """A turn takes what the queue holds; a wake-up from now on asks for another look."""
        self.wanted = False
        self.running = True
        self.interrupted = False

    def turn_ended(self, result: TurnResult) -> None:
        """The turn's end is recorded; go on if it left something in the queue."""
        self.running = False
        self.gone = result.reason == "gone"
        self.wanted = self.wanted or result.more
