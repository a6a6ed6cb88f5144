from workflows.contracts import TurnResult
from workflows.machine import SessionMachine


def test_rests_until_woken() -> None:
    machine = SessionMachine()
    assert machine.next() == "rest"
    machine.wake()
    assert machine.next() == "start_turn"


def test_runs_one_turn_at_a_time_and_looks_again_when_woken_meanwhile() -> None:
    machine = SessionMachine(wanted=True)
    machine.turn_started()
    assert machine.next() == "rest"
    machine.wake()
    assert machine.next() == "rest"
    machine.turn_ended(TurnResult(reason="end_turn"))
    assert machine.next() == "start_turn"


def test_goes_on_with_what_the_turn_left_in_the_queue() -> None:
    machine = SessionMachine(wanted=True)
    machine.turn_started()
    machine.turn_ended(TurnResult(reason="end_turn", more=True))
    assert machine.next() == "start_turn"


def test_rests_when_the_queue_is_empty() -> None:
    machine = SessionMachine(wanted=True)
    machine.turn_started()
    machine.turn_ended(TurnResult(reason="nothing_to_do"))
    assert machine.next() == "rest"


def test_an_interrupt_stops_the_running_turn_once() -> None:
    machine = SessionMachine(wanted=True)
    machine.turn_started()
    assert machine.interrupt()
    assert not machine.interrupt()


def test_an_interrupt_with_nothing_running_only_asks_for_a_look_at_the_queue() -> None:
    machine = SessionMachine()
    assert not machine.interrupt()
    assert machine.next() == "start_turn"


def test_stops_when_the_session_is_gone() -> None:
    machine = SessionMachine(wanted=True)
    machine.turn_started()
    machine.turn_ended(TurnResult(reason="gone", more=True))
    assert machine.next() == "stop"
