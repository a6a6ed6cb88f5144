"""The session's machine and its queue against a model so simple that it can be believed: a list and two flags."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from workflows.contracts import TurnResult
from workflows.machine import SessionMachine
from workflows.takings import Waiting, steering, take

pytestmark = pytest.mark.slow

RUNNING = frozenset({"running", "running_due", "stopping"})


class Session(RuleBasedStateMachine):
    """Inputs are recorded, wake-ups come late, twice or never, turns take what waits, workflows are restarted.

    ``queue``: what is recorded and not taken. ``signals``: wake-ups on their way. ``owed``: a wake-up, or a turn that
    left something, came after the last look at the queue.
    """

    @initialize()
    def open(self) -> None:
        self.machine = SessionMachine()
        self.queue: list[Waiting] = []
        self.sent: list[str] = []
        self.taken: list[str] = []
        self.signals: list[str] = []
        self.running: list[str] | None = None
        self.stops = 0
        self.is_gone = False
        self.owed = False

    @rule(kind=st.sampled_from(["user.message", "system.message", "user.interrupt"]), steers=st.booleans())
    def record(self, kind: str, steers: bool) -> None:
        """The API commits an input and sends a wake-up."""
        event = Waiting(str(len(self.sent)), kind, steers=steers and kind == "user.message")
        self.sent.append(event.id)
        self.queue.append(event)
        self.signals.append("interrupt" if kind == "user.interrupt" else "wake")

    @precondition(lambda self: self.signals)
    @rule(data=st.data(), again=st.booleans())
    def deliver(self, data: st.DataObject, again: bool) -> None:
        """A wake-up arrives, in any order; Temporal may bring it twice."""
        at = data.draw(st.integers(0, len(self.signals) - 1))
        signal = self.signals[at] if again else self.signals.pop(at)
        self.owed = True
        if signal == "wake":
            self.machine.wake()
            return
        stopped = self.machine.interrupt()
        assert stopped == (self.running is not None and self.stops == 0), "a turn is stopped once, and only one"
        self.stops += stopped

    @precondition(lambda self: self.signals)
    @rule()
    def lose(self) -> None:
        """A wake-up never arrives."""
        self.signals.pop()

    @precondition(lambda self: self._neglected())
    @rule()
    def reconcile(self) -> None:
        """The reconciler sees that something waits, and wakes the session."""
        self.signals.append("wake")

    @precondition(lambda self: self.machine.next() == "start_turn")
    @rule()
    def start(self) -> None:
        """The workflow starts a turn, which takes what it may."""
        assert self.running is None, "two turns at once"
        assert not self.is_gone, "a turn of a session that is gone"
        self.machine.turn_started()
        self.stops, self.owed = 0, False
        found = take(self.queue)
        self._drop(found.passed)
        self.running = found.inputs
        self.taken += self._drop(found.inputs)

    @precondition(lambda self: self.running)
    @rule()
    def steer(self) -> None:
        """The turn takes what steers it, wherever in the queue that is."""
        wanted = steering(self.queue)
        assert {each.id for each in self.queue if each.steers} <= set(wanted)
        self._drop(wanted)

    @precondition(lambda self: self.running is not None)
    @rule(gone=st.booleans())
    def end(self, gone: bool) -> None:
        """The turn ends and tells whether something waits."""
        self.running = None
        self.is_gone = gone and not self.queue
        more = bool(take(self.queue).inputs)
        self.owed = self.owed or more
        self.machine.turn_ended(TurnResult(reason="gone" if self.is_gone else "end_turn", more=more))

    @precondition(lambda self: self.running is None and not self.is_gone)
    @rule()
    def continue_as_new(self) -> None:
        """The workflow goes on as a new run, with nothing but what it carries over."""
        self.machine = SessionMachine(wanted=self.machine.wanted)

    @precondition(lambda self: self.running is None and not self.is_gone)
    @rule()
    def close(self) -> None:
        """The workflow is gone, with what it knew, and the next wake-up starts another."""
        self.machine, self.owed = SessionMachine(), False

    @invariant()
    def it_looks_at_the_queue_exactly_when_it_owes_a_look(self) -> None:
        due = "start_turn" if self.owed and self.running is None else "rest"
        assert self.machine.next() == ("stop" if self.is_gone else due)

    @invariant()
    def messages_are_taken_in_the_order_in_which_they_were_sent(self) -> None:
        assert self.taken == sorted(self.taken, key=int)

    @invariant()
    def nothing_is_taken_twice(self) -> None:
        assert len(set(self.taken)) == len(self.taken)

    @invariant()
    def one_turn_answers_one_message(self) -> None:
        assert (self.machine.state in RUNNING) == (self.running is not None)

    @invariant()
    def whatever_waits_is_reached_by_waking_alone(self) -> None:
        """From any state, waking the session until it rests empties the queue of messages, one a turn, in order."""
        if self.is_gone:
            assert self.machine.next() == "stop"
            return
        machine = SessionMachine()
        machine.state = self.machine.state
        queue = list(self.queue)
        if machine.state in RUNNING:
            machine.turn_ended(TurnResult(reason="end_turn", more=bool(take(queue).inputs)))
        machine.wake()
        turns = 0
        while machine.next() == "start_turn":
            machine.turn_started()
            found = take(queue)
            turns += bool(found.inputs)
            queue = [each for each in queue if each.id not in {*found.inputs, *found.passed}]
            machine.turn_ended(TurnResult(reason="end_turn", more=bool(take(queue).inputs)))
        assert all(each.type != "user.message" for each in queue)
        assert turns == sum(each.type == "user.message" for each in self.queue)

    def _neglected(self) -> bool:
        return bool(self.queue) and not self.signals

    def _drop(self, ids: list[str]) -> list[str]:
        self.queue = [each for each in self.queue if each.id not in ids]
        return ids


TestSession = Session.TestCase
TestSession.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
